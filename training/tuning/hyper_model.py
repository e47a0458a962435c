"""The Transformer as a hyper model for Keras Tuner's own tuners."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import keras_tuner
except ImportError as error:
    raise ImportError(
        "TransformerHyperModel needs Keras Tuner. Received: an import error"
        f" ({error}). Run pip install 'keras-seq2seq-transformer[tuner]'."
    ) from error

import keras

from keras_transformer.callbacks import AveragedWeights
from keras_transformer.data import PairBatches
from keras_transformer.text.tokenizer_pair import Tokenizer, tokenizer_from
from training.command_line.errors import InputError
from training.devices.base import Devices
from training.runs.compiled_model import compiled_model, number_formats
from training.runs.record import TOKENIZER_SETTINGS, with_sub_words_of
from training.settings import TrainingSettings
from training.tuning.space import SUB_WORDS, Space


class TransformerHyperModel(keras_tuner.HyperModel):
    """Builds and trains the model of a trial, with some of the settings tuned.

    Give the tuner's `search` either arrays or lines of text, from which `fit` makes batches of the
    trial's `batch_tokens`. A dataset that uses a tokenizer does not work: stock tuners clear the
    session before each trial, which destroys TensorFlow's tokenizers.

    The tuner determines text, epochs and the objective, so these settings have no effect here:
    `steps_per_epoch`, `sampling`, `initial_run`, `max_minutes`, `early_stopping_epochs`,
    `average_checkpoints`, `validation_bleu` and `bleu_tokenizer`.

    Args:
        space: The settings to tune: a mapping like the YAML of `python -m training.tune`, such as
            `{"num_layers": [2, 4], "dropout": {"min": 0.1, "max": 0.4}}`; the name of such a file;
            or a `Space`.
        settings: The settings that all trials share, and from which tuning starts.
        tokenizer: The tokenizer of both languages.

    Raises:
        InputError: If the space is invalid, or tunes the tokenizer.

    Example:
        hyper_model = TransformerHyperModel({"dropout": [0.1, 0.3]}, settings, tokenizer)
        objective = keras_tuner.Objective("val_perplexity", "min")
        tuner = keras_tuner.Hyperband(hyper_model, objective, max_epochs=9, directory="runs/tuning")
        tuner.search(sources, targets, validation_data=(val_sources, val_targets))
        model = hyper_model.build(tuner.get_best_hyperparameters()[0])
    """

    def __init__(
        self,
        space: Space | Mapping[str, Any] | str | Path,
        settings: TrainingSettings,
        tokenizer: Tokenizer,
    ):
        super().__init__()
        if isinstance(space, str | Path):
            space = Space.read(space)
        self.space = space if isinstance(space, Space) else Space.of(space)
        tuned = [name for name in SUB_WORDS if name in self.space.dimensions]
        if tuned:
            raise InputError(
                f"{tuned[0]} must not be tuned, because the tokenizer is given. Received:"
                f" {tuned[0]} in the space. Remove it, or use `python -m training.tune`."
            )
        self.start = settings
        of_tokenizer = with_sub_words_of(tokenizer, settings)
        self._sub_words = {name: getattr(of_tokenizer, name) for name in TOKENIZER_SETTINGS}
        self.serialized_tokenizer = tokenizer.serialized_model

    def settings(self, hp: keras_tuner.HyperParameters) -> TrainingSettings:
        """Returns the settings of a trial.

        Raises:
            keras_tuner.errors.FailedTrialError: If the settings contradict each other. Stock tuners
                record this and continue.
        """
        self.space.declare(hp, self.start)
        values = {name: hp.get(name) for name in self.space.dimensions}
        try:
            return dataclasses.replace(self.start, **self.space.settings(values))
        except ValueError as error:
            raise keras_tuner.errors.FailedTrialError(str(error)) from error

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Builds and compiles the model of a trial, initialized from the settings' seed."""
        settings = self.settings(hp)
        keras.utils.set_random_seed(settings.seed)
        with number_formats(settings.dtype_policy):
            settings = dataclasses.replace(settings, **self._sub_words)
            return compiled_model(settings, Devices().compiles(settings))

    def fit(
        self, hp: keras_tuner.HyperParameters, model: keras.Model, *data, **options
    ) -> keras.callbacks.History:
        """Trains the model of a trial.

        Args:
            hp: The trial's values.
            model: The model that `build` returned for them.
            *data: Source lines and target lines, two lists of str of equal length; or anything
                else that `keras.Model.fit` accepts.
            **options: Options of `keras.Model.fit`. With lines, `validation_data` is also two lists
                of lines.
        """
        settings = self.settings(hp)
        if _is_text(data):
            data, options = self._as_batches(settings, data, options)
        with contextlib.ExitStack() as stack:
            if settings.ema_decay is not None:
                averages = stack.enter_context(contextlib.closing(AveragedWeights()))
                options["callbacks"] = [*options.get("callbacks", []), averages]
            return model.fit(*data, **options)

    def _as_batches(
        self, settings: TrainingSettings, data: Sequence, options: dict[str, Any]
    ) -> tuple[list, dict[str, Any]]:
        """Replaces the lines among the arguments of `fit` with batches like `training.train`'s."""
        tokenizer = tokenizer_from(self.serialized_tokenizer)
        parts, shared = settings.accumulation_steps, {"max_length": settings.max_length}
        train = PairBatches(
            *data,
            tokenizer,
            max_tokens=settings.batch_tokens,
            seed=settings.seed,
            max_length_ratio=settings.max_length_ratio,
            **shared,
        ).epochs(parts)
        options = {**options, "shuffle": False}  # the batches are shuffled already
        if options.get("validation_data") is not None:
            tokens = max(settings.batch_tokens // parts, settings.max_length)
            batches = PairBatches(
                *options["validation_data"], tokenizer, max_tokens=tokens, shuffle=False, **shared
            )
            options["validation_data"] = batches.epochs().dataset()
        return [train.dataset(options.get("initial_epoch", 0))], options


def _is_text(data: Sequence) -> bool:
    return len(data) == 2 and all(
        isinstance(lines, list | tuple) and lines and isinstance(lines[0], str) for lines in data
    )
