"""Which settings a search tries, and which values of each."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.command_line.errors import InputError
from training.command_line.wording import closest
from training.settings import (
    DATA_SETTINGS,
    FIELDS,
    TYPES,
    TrainingSettings,
    convert_value,
    read_yaml_mapping,
)

if TYPE_CHECKING:
    import keras_tuner

_UNSEEN = "it does not change the text or the numbers that epochs are judged by"
_BUDGET = "it is what all trials have in common"
NOT_TUNED = {
    **dict.fromkeys(DATA_SETTINGS, _BUDGET),
    **dict.fromkeys(("initial_run", "tokenizer", "tokenizer_pairs", "seed"), _BUDGET),
    **dict.fromkeys(("epochs", "steps_per_epoch", "max_minutes"), _BUDGET),
    **dict.fromkeys(("early_stopping_epochs", "max_length", "max_source_tokens"), _BUDGET),
    **dict.fromkeys(("checkpoint_steps", "keep_checkpoints", "xla"), _UNSEEN),
    **dict.fromkeys(("validation_bleu", "monitor"), "--objective decides it"),
    "bleu_tokenizer": "it changes what BLEU counts",
    **dict.fromkeys(("average_checkpoints", "average_epochs"), _UNSEEN),
    **dict.fromkeys(("beam_size", "length_penalty", "length_normalization"), _UNSEEN),
}
# Tuned, they change what perplexity counts.
SUB_WORDS = ("vocabulary_size", "tokenizer_type", "normalization")
RANGE_KEYS = ("min", "max", "step", "log")
# Values travel between chief and workers as 32-bit floats, which keep seven digits.
SIGNIFICANT_DIGITS = 6
MOST_CHOICES = 1000


@dataclasses.dataclass(frozen=True)
class Choices:
    """One of several values, in their order.

    Attributes:
        values: At least two, all different.
    """

    values: tuple

    def declare(self, hp: "keras_tuner.HyperParameters", name: str, default) -> None:
        if {*self.values} == {True, False} and isinstance(self.values[0], bool):
            hp.Boolean(name, default=bool(default))
        elif self._as_text:
            hp.Choice(name, [str(value) for value in self.values], default=str(default))
        else:
            hp.Choice(name, list(self.values), default=default)

    def value(self, raw):
        """The value that Keras Tuner means by `raw`."""
        if self._as_text:
            return next(value for value in self.values if str(value) == raw)
        if isinstance(raw, float | int):
            return min(self.values, key=lambda value: abs(value - raw))
        return next(value for value in self.values if value == raw)

    def contains(self, value) -> bool:
        return value in self.values

    @property
    def _as_text(self) -> bool:
        """Keras Tuner knows neither null nor values of several types."""
        return len({type(value) for value in self.values}) > 1


@dataclasses.dataclass(frozen=True)
class Range:
    """A number from `minimum` to `maximum`, both included.

    Attributes:
        minimum: An int if the setting is a whole number, else a float.
        maximum: Larger than `minimum`.
        is_log: Whether ratios are drawn evenly, not differences.
    """

    minimum: int | float
    maximum: int | float
    is_log: bool = False

    def declare(self, hp: "keras_tuner.HyperParameters", name: str, default) -> None:
        add = hp.Int if isinstance(self.minimum, int) else hp.Float
        sampling = "log" if self.is_log else "linear"
        add(name, self.minimum, self.maximum, sampling=sampling, default=default)

    def value(self, raw):
        """The number that Keras Tuner means by `raw`, with few digits."""
        number = round(raw) if isinstance(self.minimum, int) else _rounded(raw)
        return min(max(number, self.minimum), self.maximum)

    def contains(self, value) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.minimum <= value <= self.maximum


class Space:
    """The settings that are tried.

    Args:
        dimensions: `Choices` or `Range` by the name of the setting.
    """

    def __init__(self, dimensions: Mapping[str, Choices | Range]):
        self.dimensions = dict(dimensions)

    @classmethod
    def read(cls, path: str | Path) -> "Space":
        """The space of a YAML file.

            num_layers: [2, 3, 4]
            dropout: {min: 0.1, max: 0.4, step: 0.1}
            peak_learning_rate: {min: 0.0005, max: 0.008, log: true}

        Raises:
            InputError: If the file or a line of it is wrong, which it names.
        """
        content = read_yaml_mapping(path)
        return cls._of(
            {name: (entry.value, f"{path}:{entry.line}") for name, entry in content.items()}
        )

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Space":
        """The space of such a mapping.

        Raises:
            InputError: If an entry is wrong.
        """
        return cls._of({name: (value, "space") for name, value in content.items()})

    @classmethod
    def _of(cls, content: Mapping[str, tuple[Any, str]]) -> "Space":
        dimensions = {
            name: _dimension(name, value, where) for name, (value, where) in content.items()
        }
        if not dimensions:
            raise InputError(
                "A space must have at least one setting. Received: none. Write for example"
                " dropout: [0.1, 0.2, 0.3]."
            )
        return cls(dimensions)

    def content(self) -> dict[str, Any]:
        """What `of` takes."""
        return {
            name: list(dimension.values)
            if isinstance(dimension, Choices)
            else {"min": dimension.minimum, "max": dimension.maximum, "log": dimension.is_log}
            for name, dimension in self.dimensions.items()
        }

    def declare(self, hp: "keras_tuner.HyperParameters", settings: TrainingSettings) -> None:
        """Enters the space into Keras Tuner's; the default of each is the settings' if it may be.

        Args:
            hp: What is drawn from.
            settings: Those that the search starts from.
        """
        for name, dimension in self.dimensions.items():
            value = getattr(settings, name)
            if not dimension.contains(value):
                first = isinstance(dimension, Choices)
                value = dimension.values[0] if first else dimension.minimum
            dimension.declare(hp, name, value)

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The tuned settings that Keras Tuner means by the values of a trial."""
        return {name: dimension.value(values[name]) for name, dimension in self.dimensions.items()}

    def rounded(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's values for Keras Tuner, floats with no more digits than travel unharmed."""
        return {
            name: self.dimensions[name].value(value)
            if isinstance(self.dimensions.get(name), Range)
            else value
            for name, value in values.items()
        }

    def start(self, settings: TrainingSettings) -> dict[str, Any] | None:
        """The values for Keras Tuner that stand for some settings; None if the space lacks them."""
        import keras_tuner

        for name, dimension in self.dimensions.items():
            if not dimension.contains(getattr(settings, name)):
                return None
        hp = keras_tuner.HyperParameters()
        self.declare(hp, settings)
        return dict(hp.values)


def _dimension(name: str, content, where: str) -> Choices | Range:
    _check_name(name, where)
    if isinstance(content, list):
        values = [convert_value(name, value, where) for value in content]
        return _choices(name, values, where)
    if isinstance(content, Mapping) and _is_number(name):
        return _range(name, content, where)
    form = "[VALUE, VALUE]" + " or {min: NUMBER, max: NUMBER}" * _is_number(name)
    raise InputError(
        f"{where}: the values of {name} must be given as {form}. Received: {content!r}. Correct"
        " the line."
    )


def _check_name(name: str, where: str) -> None:
    if name not in FIELDS:
        close = closest(name, FIELDS)
        hint = f"Did you mean {close}?" if close else "`python -m training.train --help`."
        raise InputError(
            f"{where}: every key of a space must be a setting. Received: {name}. {hint}"
        )
    if name in NOT_TUNED:
        raise InputError(
            f"{where}: {name} must not be tuned, because {NOT_TUNED[name]}. Received: {name}."
            " Leave it out."
        )
    if not _kinds(name) & {int, float, bool} and not _is_choice(name):
        raise InputError(
            f"{where}: a tuned setting must be a number, true or false, or one of several words."
            f" Received: {name}. Leave it out."
        )


def _kinds(name: str) -> set:
    """The types that a value of the setting may have."""
    return {TYPES[name], *typing.get_args(TYPES[name])}


def _is_number(name: str) -> bool:
    return bool(_kinds(name) & {int, float})


def _is_choice(name: str) -> bool:
    return typing.get_origin(TYPES[name]) is typing.Literal


def _choices(name: str, values: list, where: str) -> Choices:
    unique = dict.fromkeys((type(value), value) for value in values)
    if len(values) < 2 or len(unique) < len(values):
        raise InputError(
            f"{where}: {name} must have at least two values, all different. Received:"
            f" {values}. Set a single value with --config or as an option."
        )
    return Choices(tuple(values))


def _range(name: str, content: Mapping, where: str) -> Choices | Range:
    unknown = [key for key in content if key not in RANGE_KEYS]
    is_log = content.get("log", False)
    if unknown or not {"min", "max"} <= content.keys() or not isinstance(is_log, bool):
        raise InputError(
            f"{where}: the range of {name} must have min and max, and may have step (a number) and"
            f" log (true or false). Received: {dict(content)}. Write for example"
            f" {name}: {{min: 1, max: 4}}."
        )
    low, high = (convert_value(name, content[key], where) for key in ("min", "max"))
    if low is None or high is None or not low < high:
        raise InputError(
            f"{where}: min of {name} must be below max. Received: min={low}, max={high}. Correct"
            " the line."
        )
    if is_log and low <= 0:
        raise InputError(
            f"{where}: min of {name} must be above 0 where log is true. Received: min={low}. Give"
            " a larger one, or leave out log."
        )
    if content.get("step") is None:
        return Range(low, high, is_log)
    return _choices(name, _steps(name, low, high, content["step"], is_log, where), where)


def _steps(name: str, low, high, step, is_log: bool, where: str) -> list:
    """The values of a range with steps: differences, or with `is_log` factors.

    Keras Tuner counts such steps in floating point, and loses the last one of 0.1, 0.2, 0.3.
    """
    least = 1 if is_log else 0
    is_number = isinstance(step, int | float) and not isinstance(step, bool)
    is_whole = not isinstance(low, int) or (is_number and step == int(step))
    if not is_number or not math.isfinite(step) or not step > least or not is_whole:
        kind = "a whole number" if isinstance(low, int) else "a number"
        raise InputError(
            f"{where}: step of {name} must be {kind} above {least}. Received: step={step}."
            " Correct the line."
        )
    ratio = math.log(high / low, step) if is_log else (high - low) / step
    count = math.floor(ratio + 1e-9) + 1
    if count > MOST_CHOICES:
        raise InputError(
            f"{where}: a range must have at most {MOST_CHOICES} steps. Received: {count} of"
            f" {name}. Leave out step."
        )
    numbers = [low * step**place if is_log else low + step * place for place in range(count)]
    return [round(number) if isinstance(low, int) else _rounded(number) for number in numbers]


def _rounded(number: float) -> float:
    return float(f"{number:.{SIGNIFICANT_DIGITS}g}")
