"""Translates through the signatures of an export."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from training.command_line.errors import InputError
from training.command_line.running import import_tensorflow
from training.serving.errors import of_tensorflow

TEXTS_AT_ONCE = 32
# Scores below this are padding: the search found fewer translations than requested.
NO_HYPOTHESIS = -1e8

_FROM_PREFIX = "n_best_from_prefix"


def find_version(path: str) -> Path | None:
    """Returns the folder itself if it is a version, else its latest version; None without any."""
    folder = Path(path)
    if (folder / "saved_model.pb").is_file():
        return folder
    found = [file.parent for file in folder.glob("*/saved_model.pb")]
    versions = [version for version in found if version.name.isdecimal()]
    return max(versions, key=lambda version: int(version.name), default=None)


class ExportedTranslator:
    """Translates with an export, using the methods of a `Translator`.

    Args:
        version: The folder of the export's version.
        greedy: Whether to use the export's greedy search instead of its beam search.
        with_prefixes: Whether the export must support prefixes.

    Attributes:
        beam_size: Beams of the export's search.

    Raises:
        InputError: If the export cannot be loaded, is not from this project, or is not as its
            checksums.json lists it.
    """

    def __init__(self, version: Path, *, greedy: bool = False, with_prefixes: bool = False):
        self._functions = _signatures(version)
        self._name = "greedy" if greedy else "serving_default"
        for name in [self._name, "n_best", *[_FROM_PREFIX] * with_prefixes]:
            if name not in self._functions:
                raise InputError(
                    f"{version}: an export must have the signature {name}. Received:"
                    f" {', '.join(self._functions) or 'none'}. Export the run again with"
                    " training.export."
                )
        self.beam_size = 1 if greedy else _num_results(version, self._functions["n_best"])

    def translate(self, texts: list[str], *, prefixes: list[str] | None = None) -> list[str]:
        """Translates texts, in the same order."""
        return [text for [(text, _)] in self.n_best(texts, 1, prefixes=prefixes)]

    def n_best(
        self, texts: list[str], n: int, *, prefixes: list[str] | None = None
    ) -> list[list[tuple[str, float]]]:
        """Returns up to `n` pairs of translation and score for each text, best first.

        Args:
            texts: The texts.
            n: The most pairs for each text; at most `beam_size`.
            prefixes: The beginning of each translation, or "". Needs `with_prefixes`.

        Raises:
            InputError: If the export refuses a prefix as too long.
        """
        name, inputs = self._name if n == 1 else "n_best", {"text": texts}
        if prefixes is not None:
            name, inputs = _FROM_PREFIX, {"text": texts, "prefix": prefixes}
        results = [[] for _ in texts]
        for places in _of_similar_length(texts):
            some = {key: [column[place] for place in places] for key, column in inputs.items()}
            found = _answers(self._functions[name], some)
            for place, pairs in zip(places, found, strict=True):
                results[place] = pairs[:n]
        return results


def _signatures(version: Path) -> dict[str, Callable]:
    import_tensorflow(f"loading {version}")
    import tensorflow as tf

    from keras_transformer.checksums import check_export
    from keras_transformer.quiet import without_information

    check_export(version)
    try:
        with without_information():
            import tensorflow_text  # noqa: F401  registers its ops

            return dict(tf.saved_model.load(str(version)).signatures)
    except Exception as error:  # TensorFlow raises many kinds if the folder is incomplete
        raise InputError(
            f"{version}: must be a version of an export. Received:"
            f" {' '.join(str(error).split())[:200]}. Check the path, or export the run again."
        ) from error


def _num_results(version: Path, n_best: Callable) -> int:
    """Returns how many translations the signature n_best gives for a text."""
    try:
        _, num_results = n_best.structured_outputs["translations"].shape
        if num_results is not None:
            return num_results
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise InputError(
        f"{version}: the signature n_best must give a fixed number of translations. Received:"
        " other outputs. Export the run again with training.export."
    )


def _of_similar_length(texts: list[str]) -> Iterator[list[int]]:
    """Yields the indices of texts of similar length, to go through the model together."""
    places = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    for start in range(0, len(places), TEXTS_AT_ONCE):
        yield places[start : start + TEXTS_AT_ONCE]


def _answers(function: Callable, inputs: dict[str, list[str]]) -> Iterator[list[tuple[str, float]]]:
    import tensorflow as tf

    from keras_transformer.quiet import without_information

    tensors = {name: tf.constant(column) for name, column in inputs.items()}
    try:
        with without_information():
            found = {name: value.numpy() for name, value in function(**tensors).items()}
    except tf.errors.InvalidArgumentError as error:
        message = of_tensorflow(error).message.removeprefix("assertion failed: [")
        raise InputError(message.removesuffix("]")) from error
    names = ("translations", "scores") if "scores" in found else ("translation", "score")
    rows = (np.reshape(found[name], (len(inputs["text"]), -1)) for name in names)
    for translations, scores in zip(*rows, strict=True):
        pairs = zip(translations, scores, strict=True)
        results = [(text.decode("utf-8"), float(score)) for text, score in pairs]
        yield results[:1] + [result for result in results[1:] if result[1] > NO_HYPOTHESIS]
