"""A tokenizer for the source and one for the target, and the file that holds either kind."""

import io
import json
import zipfile
from typing import Any, NamedTuple, TypeAlias

from keras_transformer.errors import InputError
from keras_transformer.reading.archive import members_of, read_member
from keras_transformer.reading.files import DamagedFile
from keras_transformer.text.compressed import PathName
from keras_transformer.text.lines import describe_os_error, refuse_pipe
from keras_transformer.text.marian_tokenizer import MarianTokenizer
from keras_transformer.text.sentencepiece_file import MOST_PIECES, most_bytes
from keras_transformer.text.subword_tokenizer import SubwordTokenizer, write_whole

TokenizerSide: TypeAlias = SubwordTokenizer | MarianTokenizer

_ARCHIVE = b"PK\x03\x04"  # how the file of a pair begins
_SIDES = ("source", "target")
_MEMBERS = {"pair.json", "source.spm", "target.spm"}
_BYTES_PER_PIECE_IN_JSON = 64
_OTHER_BYTES = 2**20


class TokenizerPair:
    """Splits the source with one tokenizer and the target with another.

    Both may use one vocabulary, as the tokenizers of most Marian models do.

    Args:
        source: The source's `SubwordTokenizer` or `MarianTokenizer`.
        target: The target's.

    Attributes:
        source, target: The two sides.
    """

    padding_id = 0
    unknown_id = 1
    start_id = 2
    end_id = 3

    def __init__(self, source: TokenizerSide, target: TokenizerSide) -> None:
        self.source, self.target = source, target

    def __reduce__(self) -> tuple[Any, tuple[TokenizerSide, TokenizerSide]]:
        return TokenizerPair, (self.source, self.target)

    @classmethod
    def load(cls, path: PathName, *, most_ids: int = MOST_PIECES) -> "TokenizerPair":
        """Reads a pair that `save` wrote; see `load_tokenizer`."""
        tokenizer = load_tokenizer(path, most_ids=most_ids)
        if not isinstance(tokenizer, cls):
            raise InputError(
                f"{path}: must hold a pair of tokenizers. Received: one tokenizer. Read it with"
                " SubwordTokenizer.load."
            )
        return tokenizer

    def save(self, path: PathName) -> None:
        """Writes both tokenizers to one file, completely or not at all."""
        write_whole(path, self.serialized_model)

    @property
    def vocabulary_size(self) -> int:
        """The number of ids of the target."""
        return self.target.vocabulary_size

    @property
    def source_vocabulary_size(self) -> int:
        """The number of ids of the source."""
        return self.source.vocabulary_size

    @property
    def shares_vocabulary(self) -> bool:
        """Whether each id means the same sub-word on both sides."""
        return pieces_of(self.source) == pieces_of(self.target)

    @property
    def normalization(self) -> str:
        """The normalization of both sides: "none" or "nfkc"."""
        return self.target.normalization

    @property
    def trackables(self) -> list[Any]:
        """What an export that uses the pair must track."""
        return [*self.source.trackables, *self.target.trackables]

    @property
    def serialized_model(self) -> bytes:
        """The bytes of the file that `save` writes; the same for equal pairs."""
        about = {name: _about(getattr(self, name)) for name in _SIDES}
        content = {
            "pair.json": json.dumps({"format": 1, **about}, ensure_ascii=False).encode(),
            **{f"{name}.spm": getattr(self, name).serialized_model for name in _SIDES},
        }
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            for name, data in content.items():
                # Without a date of its own, a member has the same one each time.
                file.writestr(zipfile.ZipInfo(name), data)
        return archive.getvalue()


Tokenizer: TypeAlias = SubwordTokenizer | TokenizerPair


def load_tokenizer(path: PathName, *, most_ids: int = MOST_PIECES) -> Tokenizer:
    """Reads a tokenizer that `SubwordTokenizer.save` or `TokenizerPair.save` wrote.

    Args:
        path: The file.
        most_ids: The most ids that each side may have, such as the vocabulary size of its model.

    Raises:
        InputError: The file is missing, a pipe, cut short, or not a tokenizer.
    """
    refuse_pipe(path)
    try:
        with open(path, "rb") as file:
            data = file.read(_most_bytes_of_pair(most_ids) + 1)
    except OSError as error:
        raise InputError(
            f"{path}: must be a tokenizer that this package saved. Received:"
            f" {describe_os_error(error)}. Check the path."
        ) from error
    try:
        return tokenizer_from(data, most_ids=most_ids)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def tokenizer_from(data: bytes, *, most_ids: int = MOST_PIECES) -> Tokenizer:
    """Makes a tokenizer from the bytes of its file; see `load_tokenizer`."""
    if not data.startswith(_ARCHIVE):
        return SubwordTokenizer(data, most_ids=most_ids)
    try:
        return _pair(data, most_ids)
    except DamagedFile as fault:
        raise InputError(
            "a tokenizer must be a whole file, as TokenizerPair.save writes it. Received:"
            f" {fault}. Train or import it again."
        ) from fault


class _About(NamedTuple):
    """What pair.json says of one side."""

    pieces: list[Any] | None
    punctuation: Any


def _pair(data: bytes, most_ids: int) -> TokenizerPair:
    if len(data) > _most_bytes_of_pair(most_ids):
        raise DamagedFile(f"more than {_most_bytes_of_pair(most_ids):,} bytes")
    file = io.BytesIO(data)
    members = members_of(file)
    if {*members} != _MEMBERS:
        raise DamagedFile(f"an archive of {', '.join(sorted(members))[:200] or 'nothing'}")
    if members["pair.json"].size > _most_bytes_of_json(most_ids):
        raise DamagedFile(f"pair.json of more than {_most_bytes_of_json(most_ids):,} bytes")
    about = _read_about(read_member(file, members["pair.json"]))
    sides: list[TokenizerSide] = []
    for name in _SIDES:
        model, (pieces, punctuation) = read_member(file, members[f"{name}.spm"]), about[name]
        if pieces is None:
            sides.append(SubwordTokenizer(model, most_ids=most_ids))
        elif len(pieces) > most_ids:
            raise DamagedFile(f"{len(pieces):,} pieces where the model has {most_ids:,}")
        else:
            sides.append(MarianTokenizer(model, pieces, punctuation=punctuation))
    return TokenizerPair(*sides)


def _read_about(data: bytes) -> dict[str, _About]:
    try:
        content = json.loads(data)
        if content["format"] != 1:
            raise DamagedFile(f"format {str(content['format'])[:80]}, of a later version")
        about = {
            name: _About(content[name]["pieces"], content[name]["punctuation"]) for name in _SIDES
        }
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DamagedFile("pair.json that does not describe two sides") from error
    for side in about.values():
        if not isinstance(side.pieces, list | None) or not isinstance(side.punctuation, str | None):
            raise DamagedFile("pair.json that does not describe two sides")
    return about


def _about(side: TokenizerSide) -> dict[str, Any]:
    if isinstance(side, MarianTokenizer):
        return {"pieces": side.vocabulary, "punctuation": side.punctuation}
    return {"pieces": None, "punctuation": None}


def pieces_of(side: TokenizerSide) -> list[str]:
    """Returns the sub-word of each id."""
    return side.pieces(range(side.vocabulary_size))


def _most_bytes_of_json(most_ids: int) -> int:
    return 2 * _BYTES_PER_PIECE_IN_JSON * most_ids + _OTHER_BYTES


def punctuation_of(tokenizer: Tokenizer) -> str | None:
    """Returns the language whose punctuation a side normalizes; None if neither does."""
    sides = tokenizer.source, tokenizer.target
    return next(
        (s.punctuation for s in sides if isinstance(s, MarianTokenizer) and s.punctuation), None
    )


def _most_bytes_of_pair(most_ids: int) -> int:
    # A Marian model's SentencePiece models may have more pieces than its vocabulary.
    return 2 * most_bytes(MOST_PIECES) + _most_bytes_of_json(most_ids) + _OTHER_BYTES
