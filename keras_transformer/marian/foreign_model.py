"""What a folder of a foreign model holds, and how it becomes a Translator."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_transformer.config import TransformerConfig
from keras_transformer.marian.parts import (
    LOGIT_BIAS,
    assign_parts,
    channel_order,
    embeddings_of,
    parts_of,
)
from keras_transformer.model import Transformer, build_transformer
from keras_transformer.reading.files import DamagedFile
from keras_transformer.reading.tensors import Header
from keras_transformer.reading.variables import check_finite
from keras_transformer.text.marian_tokenizer import SPECIAL_PIECES
from keras_transformer.text.tokenizer_pair import TokenizerPair

# Makes padding and start, which other programs forbid, next to impossible. Lower values would
# dominate a loss with label smoothing, when training goes on.
UNLIKELY = -30.0

# What a foreign model may read by default, in tokens; ours read 256.
MAX_SOURCE_TOKENS = 512
_MOST_LAYERS = 100
_MOST_WIDTH = 2**16


class Unsupported(Exception):
    """Raised for a setting of a foreign model that ours lacks; names the setting and its value."""


class Vocabulary(NamedTuple):
    """The sub-words of a foreign model in the order of our ids, with their foreign ids.

    Attributes:
        pieces: The sub-word of each of our ids; the first four are `SPECIAL_PIECES`.
        rows: The foreign id of each of our ids; None for padding, and for a start without one.
        is_ours: Whether the folder is an export of this package, which has all four special
            sub-words. Other programs forbid padding and start in translations, so their logits
            are replaced; see `UNLIKELY`.
    """

    pieces: tuple[str, ...]
    rows: tuple[int | None, ...]
    is_ours: bool = False

    @classmethod
    def of(cls, ids: Mapping[str, int], start_row: int | None = None) -> "Vocabulary":
        """Makes a vocabulary from the foreign ids, which must be 0, 1, 2 and so on.

        Args:
            ids: The foreign id of each piece.
            start_row: The foreign id whose embedding begins a translation; None for zeros.
        """
        if sorted(ids.values()) != [*range(len(ids))]:
            raise DamagedFile(f"ids of {len(ids):,} sub-words that are not 0 to {len(ids) - 1:,}")
        missing = [piece for piece in ("<unk>", "</s>") if piece not in ids]
        if missing:
            raise DamagedFile(f"no sub-word {missing[0]}")
        others = sorted((row, piece) for piece, row in ids.items() if piece not in SPECIAL_PIECES)
        pieces = (*SPECIAL_PIECES, *(piece for _, piece in others))
        is_ours = start_row is not None and start_row == ids.get("<s>")
        padding_row = ids["<pad>"] if is_ours else None
        rows = (padding_row, ids["<unk>"], start_row, ids["</s>"], *(row for row, _ in others))
        return cls(pieces, rows, is_ours)

    @property
    def likely_rows(self) -> tuple[int | None, ...]:
        """`rows`, without those whose logits are replaced."""
        return self.rows if self.is_ours else (None, self.rows[1], None, *self.rows[3:])


class ForeignModel(NamedTuple):
    """A model of another program.

    Attributes:
        config: The settings of the same model in this package.
        tokenizer: Both sides.
        search: The model's own search: beam_size, length_penalty and length_normalization.
        shapes: The shape of each tensor that the model must have, by Marian's names.
        assign: Assigns the tensors, which a function returns by Marian's names, to a model.
    """

    config: TransformerConfig
    tokenizer: TokenizerPair
    search: dict[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    assign: Callable[[Transformer, Callable[[str], np.ndarray]], None]

    @classmethod
    def of(
        cls,
        config: TransformerConfig,
        tokenizer: TokenizerPair,
        search: dict[str, Any],
        vocabularies: Sequence[Vocabulary],
        *,
        num_rows: Sequence[int],
        has_bias: bool = True,
        tied_layers: tuple[int, ...] = (),
    ) -> "ForeignModel":
        """Describes a model.

        Args:
            config, tokenizer, search: The attributes.
            vocabularies: Of source and target; the same twice if they share an embedding.
            num_rows: The foreign ids of source and target.
            has_bias: Whether the file has a bias of the logits; without one it is 0.
            tied_layers: See `parts_of`.
        """
        shapes: dict[str, tuple[int, ...]] = {
            part.name: part.shape for part in parts_of(config, tied_layers)
        }
        embeddings = embeddings_of(config)
        sides = list(zip(vocabularies, num_rows, strict=True))[-len(embeddings) :]
        by_name = dict(zip(embeddings, sides, strict=True))
        shapes |= {name: (rows, config.model_dim) for name, (_, rows) in by_name.items()}
        if has_bias:
            shapes[LOGIT_BIAS] = 1, num_rows[1]

        def assign(model: Transformer, read: Callable[[str], np.ndarray]) -> None:
            assign_parts(model, parts_of(config, tied_layers), read)
            order = channel_order(config.model_dim)
            for name, (vocabulary, _) in by_name.items():
                matrix = _rows_of(read(name), vocabulary.rows, 0.0)
                embeddings[name](model).assign(matrix[:, order])
            bias = read(LOGIT_BIAS) if has_bias else np.zeros((1, num_rows[1]), "float32")
            model.embedding.bias.assign(
                _rows_of(bias.T, vocabularies[1].likely_rows, UNLIKELY)[:, 0]
            )

        return cls(config, tokenizer, search, shapes, assign)

    def check_headers(self, headers: Mapping[str, Header]) -> None:
        """Compares what a file declares with what the model must have.

        Raises:
            DamagedFile: If a tensor is missing or unknown, or has another shape or no numbers.
        """
        missing, unknown = self.shapes.keys() - headers.keys(), headers.keys() - self.shapes.keys()
        if missing:
            raise DamagedFile(f"no tensor {min(missing)}, and {len(missing) - 1} more are missing")
        if unknown:
            raise DamagedFile(f"the tensor {min(unknown)[:80]!r}, which such a model does not have")
        for name, (shape, dtype) in headers.items():
            if shape != self.shapes[name] or dtype.kind != "f":
                raise DamagedFile(
                    f"the tensor {name} of shape {shape} and dtype {dtype}, where the settings"
                    f" describe floats of shape {self.shapes[name]}"
                )

    def build(self, read: Callable[[str], np.ndarray]) -> Transformer:
        """Builds the model with the tensors that `read` returns by Marian's names."""

        def finite(name: str) -> np.ndarray:
            tensor = read(name)
            check_finite({name: tensor})
            return tensor

        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("float32")
        try:
            model = build_transformer(self.config)
        finally:
            keras.config.set_dtype_policy(policy)
        self.assign(model, finite)
        return model


def config_of(
    sizes: Mapping[str, Any],
    vocabularies: Sequence[Vocabulary],
    *,
    is_shared: bool,
    **settings: Any,
) -> TransformerConfig:
    """Makes a config from sizes that a stranger's file gives.

    Raises:
        Unsupported: If a size is out of range, or sizes do not fit each other.
    """
    for name, size in sizes.items():
        most = _MOST_LAYERS if name.endswith("_layers") else _MOST_WIDTH
        if not 1 <= size <= most:
            raise Unsupported(f"{name} {size:,}, which is not from 1 to {most:,}")
    source, target = (len(vocabulary.pieces) for vocabulary in vocabularies)
    try:
        return TransformerConfig(
            vocabulary_size=target,
            source_vocabulary_size=None if is_shared else source,
            max_source_tokens=MAX_SOURCE_TOKENS,
            output_bias=True,
            **sizes,
            **settings,
        )
    except ValueError as error:
        raise Unsupported(str(error)) from error


def _rows_of(matrix: np.ndarray, rows: Sequence[int | None], filler: float) -> np.ndarray:
    """Returns the given rows of Float (foreign vocabulary, width), with `filler` for None."""
    gathered = matrix[[row or 0 for row in rows]].astype("float32")
    gathered[[row is None for row in rows]] = filler
    return gathered
