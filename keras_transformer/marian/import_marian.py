"""Imports a model that Marian or Hugging Face trained."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from keras_transformer.errors import InputError
from keras_transformer.marian import hugging_face_folder, native_folder
from keras_transformer.marian.foreign_model import ForeignModel
from keras_transformer.model import Transformer
from keras_transformer.reading.tensors import Tensors
from keras_transformer.text.punctuation import check_punctuation
from keras_transformer.translator import Translator

# The languages of source and target whose punctuation to normalize; None for none.
Punctuation: TypeAlias = tuple[str | None, str | None]


def import_marian(
    folder: str | os.PathLike[str], *, punctuation: Punctuation | None = None, **search: Any
) -> Translator:
    """Reads a model of Marian, OPUS-MT or Hugging Face, and returns its Translator.

    The folder holds either what Marian wrote (`decoder.yml`, the model it names with its
    vocabularies, and `source.spm` and `target.spm`) or what Hugging Face's MarianMTModel saved
    (`config.json`, `model.safetensors` or `pytorch_model.bin`, `vocab.json`, `source.spm` and
    `target.spm`). It may come from a stranger: only numbers and text are read from it.

    The translator translates as the original does, and can be exported like any other. Its `model`
    can be compiled and trained further with `fit`.

    Args:
        folder: The folder.
        punctuation: The languages of source and target, such as ("en", "fr"), whose punctuation to
            normalize by the rules of Moses before splitting text, which OPUS-MT uses; see
            `MarianTokenizer`. None, as in
            Hugging Face's port, keeps punctuation.
        **search: Options of `Translator`. Beams and length penalty are those of the folder unless
            given.

    Raises:
        InputError: A file is missing or damaged, or the model is of a kind that this package
            cannot build. Names the file and the setting.

    Example:
        >>> translator = import_marian("opus-mt-en-fr")
        >>> translator(["The house is blue."])
        ['La maison est bleue.']
    """
    model, foreign = read_folder(folder, punctuation or (None, None))
    options = {**foreign.search, **search}
    return Translator(model, foreign.tokenizer, **options)


def read_folder(
    folder: str | os.PathLike[str], punctuation: Punctuation = (None, None)
) -> tuple[Transformer, ForeignModel]:
    """Returns the model of a folder and its description; see `import_marian`."""
    folder = Path(folder)
    for language in punctuation:
        check_punctuation(language)
    with _opened(folder, punctuation) as (foreign, tensors):
        return foreign.build(tensors.read), foreign


@contextlib.contextmanager
def _opened(folder: Path, punctuation: Punctuation) -> Iterator[tuple[ForeignModel, Tensors]]:
    for kind, opened in (
        (native_folder, native_folder.opened_native_folder),
        (hugging_face_folder, hugging_face_folder.opened_hugging_face_folder),
    ):
        path = folder / kind.SETTINGS_FILE
        if path.exists() or path.is_symlink():
            with opened(folder, punctuation) as opened_folder:
                yield opened_folder
            return
    raise InputError(
        f"{folder}: must be the folder of a Marian model, with decoder.yml, or of a Hugging Face"
        " model, with config.json. Received: neither file. Check the path."
    )
