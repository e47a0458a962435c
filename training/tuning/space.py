"""The settings that a search tunes, and the values to try."""

import dataclasses
import json
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

_NAMES_BY_REASON = {
    "all trials must share it": (
        *DATA_SETTINGS,
        *("initial_run", "tokenizer", "tokenizer_pairs", "user_symbols", "seed"),
        *("epochs", "steps_per_epoch", "max_minutes", "early_stopping_epochs"),
        *("max_length", "max_source_tokens"),
    ),
    "it does not affect the scores that rank trials": (
        *("checkpoint_steps", "keep_checkpoints", "xla", "average_checkpoints", "average_epochs"),
        *("beam_size", "length_penalty", "length_normalization"),
    ),
    "--objective decides it": ("validation_bleu", "monitor"),
    "it changes what BLEU counts": ("bleu_tokenizer",),
}
NOT_TUNED = {name: reason for reason, names in _NAMES_BY_REASON.items() for name in names}
# Tuning these changes the tokens that perplexity averages over.
SUB_WORDS = ("vocabulary_size", "source_vocabulary_size", "tokenizer_type", "normalization")
RANGE_KEYS = ("min", "max", "step", "log")
# Chief and workers exchange values as 32-bit floats, which keep seven digits.
SIGNIFICANT_DIGITS = 6
MOST_CHOICES = 1000


@dataclasses.dataclass(frozen=True)
class Choices:
    """A list of values to choose from."""

    values: tuple  # at least two, all different

    def declare(self, hp: "keras_tuner.HyperParameters", name: str, default) -> None:
        if {*self.values} == {True, False} and isinstance(self.values[0], bool):
            hp.Boolean(name, default=bool(default))
        elif self._as_text:
            hp.Choice(name, [str(value) for value in self.values], default=str(default))
        else:
            hp.Choice(name, list(self.values), default=default)

    def value(self, raw):
        """Converts Keras Tuner's value `raw` to the setting's."""
        if self._as_text:
            return next(value for value in self.values if str(value) == raw)
        if isinstance(raw, float | int):
            return min(self.values, key=lambda value: abs(value - raw))
        return next(value for value in self.values if value == raw)

    def contains(self, value) -> bool:
        return value in self.values

    @property
    def _as_text(self) -> bool:
        """Whether to pass values as text: Keras Tuner takes neither null nor mixed types."""
        return len({type(value) for value in self.values}) > 1


@dataclasses.dataclass(frozen=True)
class Range:
    """A range of numbers from `minimum` to `maximum`, inclusive; integers if both are int."""

    minimum: int | float
    maximum: int | float
    is_log: bool = False  # sampled uniformly on a logarithmic scale

    def declare(self, hp: "keras_tuner.HyperParameters", name: str, default) -> None:
        add = hp.Int if isinstance(self.minimum, int) else hp.Float
        sampling = "log" if self.is_log else "linear"
        add(name, self.minimum, self.maximum, sampling=sampling, default=default)

    def value(self, raw):
        """Converts Keras Tuner's number `raw` to the setting's, rounded."""
        number = round(raw) if isinstance(self.minimum, int) else _rounded(raw)
        return min(max(number, self.minimum), self.maximum)

    def contains(self, value) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.minimum <= value <= self.maximum


class Space:
    """The settings to tune, and the values to try.

    Args:
        dimensions: Maps the name of each setting to its `Choices` or `Range`.

    Raises:
        InputError: If `dimensions` is empty.
    """

    def __init__(self, dimensions: Mapping[str, Choices | Range]):
        if not dimensions:
            raise InputError(
                "A space must have at least one setting. Received: an empty space. For example,"
                " write dropout: [0.1, 0.2, 0.3]."
            )
        self.dimensions = dict(dimensions)

    @classmethod
    def read(cls, path: str | Path) -> "Space":
        """Reads a space from a YAML file.

            num_layers: [2, 3, 4]
            dropout: {min: 0.1, max: 0.4, step: 0.1}
            peak_learning_rate: {min: 0.0005, max: 0.008, log: true}

        Raises:
            InputError: If an entry is invalid; the message names its line.
        """
        entries = read_yaml_mapping(path).items()
        return cls(
            {name: _dimension(name, one.value, f"{path}:{one.line}") for name, one in entries}
        )

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Space":
        """Makes a space from a mapping with the content of such a file.

        Raises:
            InputError: If an entry is invalid.
        """
        return cls({name: _dimension(name, value, "space") for name, value in content.items()})

    def content(self) -> dict[str, Any]:
        """Returns the space as a mapping that `of` accepts."""
        return {
            name: list(dimension.values)
            if isinstance(dimension, Choices)
            else {"min": dimension.minimum, "max": dimension.maximum, "log": dimension.is_log}
            for name, dimension in self.dimensions.items()
        }

    def declare(self, hp: "keras_tuner.HyperParameters", settings: TrainingSettings) -> None:
        """Declares the space to Keras Tuner, with values of `settings` as defaults if allowed."""
        for name, dimension in self.dimensions.items():
            value = getattr(settings, name)
            if not dimension.contains(value):
                is_list = isinstance(dimension, Choices)
                value = dimension.values[0] if is_list else dimension.minimum
            dimension.declare(hp, name, value)

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Converts Keras Tuner's values of a trial to settings."""
        return {name: dimension.value(values[name]) for name, dimension in self.dimensions.items()}

    def rounded(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Rounds the floats among Keras Tuner's values, so that workers receive them unchanged."""
        return {
            name: self.dimensions[name].value(value)
            if isinstance(self.dimensions.get(name), Range)
            else value
            for name, value in values.items()
        }

    def start(self, settings: TrainingSettings) -> dict[str, Any] | None:
        """Returns Keras Tuner's values for `settings`; None if they are outside the space."""
        import keras_tuner

        for name, dimension in self.dimensions.items():
            if not dimension.contains(getattr(settings, name)):
                return None
        hp = keras_tuner.HyperParameters()
        self.declare(hp, settings)
        return dict(hp.values)


def spelled(value) -> str:
    """Spells a setting's value as YAML does, with floats rounded."""
    if isinstance(value, float):
        return f"{value:.{SIGNIFICANT_DIGITS}g}"
    return value if isinstance(value, str) else json.dumps(value)


def _dimension(name: str, content, where: str) -> Choices | Range:
    if name not in FIELDS:
        close = closest(name, FIELDS)
        hint = f"Did you mean {close}?" if close else "See `python -m training.train --help`."
        raise InputError(
            f"{where}: every key of a space must be a setting. Received: {name}. {hint}"
        )
    if name in NOT_TUNED:
        raise InputError(
            f"{where}: {name} must not be tuned, because {NOT_TUNED[name]}. Received: {name}."
            " Remove it from the space."
        )
    is_number = bool({TYPES[name], *typing.get_args(TYPES[name])} & {int, float})
    if isinstance(content, list):
        return _choices(name, [convert_value(name, value, where) for value in content], where)
    if isinstance(content, Mapping) and is_number:
        return _range(name, content, where)
    form = "[VALUE, VALUE]" + " or {min: NUMBER, max: NUMBER}" * is_number
    raise InputError(
        f"{where}: the values of {name} must be given as {form}. Received: {content!r}. Correct"
        " the line."
    )


def _choices(name: str, values: list, where: str) -> Choices:
    unique = {(type(value), value) for value in values}
    if len(values) < 2 or len(unique) < len(values):
        raise InputError(
            f"{where}: {name} must have at least two values, all different. Received:"
            f" {values}. To set a single value, use --config or the option of that name."
        )
    return Choices(tuple(values))


def _range(name: str, content: Mapping, where: str) -> Choices | Range:
    unknown = [key for key in content if key not in RANGE_KEYS]
    is_log = content.get("log", False)
    if unknown or not {"min", "max"} <= content.keys() or not isinstance(is_log, bool):
        raise InputError(
            f"{where}: the range of {name} must have min and max, and may have step (a number) and"
            f" log (true or false). Received: {dict(content)}. For example, write"
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
            f"{where}: min of {name} must be above 0 if log is true. Received: min={low}. Choose a"
            " larger min, or leave out log."
        )
    if content.get("step") is None:
        return Range(low, high, is_log)
    return _choices(name, _steps(name, low, high, content["step"], is_log, where), where)


def _steps(name: str, low, high, step, is_log: bool, where: str) -> list:
    """Lists the values of a range; `step` is a difference or, with `is_log`, a factor.

    Keras Tuner counts steps in floating point, and loses the last value of 0.1, 0.2, 0.3.
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
            f"{where}: a range must have at most {MOST_CHOICES} steps. Received: {count} steps for"
            f" {name}. Leave out step."
        )
    numbers = [low * step**place if is_log else low + step * place for place in range(count)]
    return [round(number) if isinstance(low, int) else _rounded(number) for number in numbers]


def _rounded(number: float) -> float:
    return float(f"{number:.{SIGNIFICANT_DIGITS}g}")
