"""The files that pairs of lines come from: one, a file for each side, or many, with weights."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np

from keras_transformer.errors import InputError
from keras_transformer.text.compressed import PathName
from keras_transformer.text.lines import iterate_columns, iterate_pairs, refuse_pipe, unreadable

PathNames = PathName | Sequence[PathName]

_WILDCARD = re.compile(r"(\*+|\?|\[[^]]+\])")


@dataclass(frozen=True)
class Corpus:
    """Pairs of lines in one file or many, plain, .gz, .bz2 or .xz.

    Example:
        >>> Corpus("train.en", "train.de")
        >>> Corpus("shards/*.en.gz", "shards/*.de.gz")
        >>> Corpus("pairs-*.tsv.gz")
        >>> Corpus("scored.tsv", columns=(2, 3), weight=0.5)

    Args:
        source: A file, a pattern with `*`, `?` or `[...]` for all files that match, in the order
            of their names, or a list of files and patterns.
        target: The same for the target side: as many files, each with as many lines as its partner.
            None if each line of the source's files is a pair, separated by a tab.
        weight: When pairs are drawn from several corpora, the corpus's share of them is its weight
            divided by the sum of all weights.
        columns: Without a target, the columns of source and target, counted from 1. None for the
            only two; longer lines are then refused, because a tab within a sentence would silently
            move the rest of it to the other side.

    Raises:
        InputError: A setting is out of range.
    """

    source: PathNames
    target: PathNames | None = None
    weight: float = 1.0
    columns: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not (self.weight > 0 and np.isfinite(self.weight)):
            raise InputError(
                "weight must be greater than 0."
                f" Received: weight={self.weight}. Leave the corpus out if you do not want it."
            )
        if self.columns is not None and (self.target is not None or not _two(self.columns)):
            raise InputError(
                "columns must be two different numbers from 1, for a corpus without a target."
                f" Received: columns={self.columns}, target={self.target}."
                " Write, for example, Corpus('pairs.tsv', columns=(1, 2))."
            )

    def files(self) -> list[tuple[Path, Path | None]]:
        """Returns each file of the source with its partner of the target, or with None.

        Raises:
            InputError: A file is missing, a pattern matches no file, or a file has no partner.
        """
        source = _files(self.source)
        if self.target is None:
            return [(path, None) for path in source]
        target = _files(self.target)
        if len(source) != len(target):
            raise InputError(
                "source and target must have the same number of files."
                f" Received: {len(source)} for {_name(self.source)} and {len(target)} for"
                f" {_name(self.target)}. Give each file a partner on the other side."
            )
        _check_partners(self.source, self.target, source, target)
        return list(zip(source, target, strict=True))

    def pairs(
        self, files: Sequence[tuple[Path, Path | None]] | None = None
    ) -> Iterator[tuple[str, str]]:
        """Yields source and target of each pair as it reads the files.

        Args:
            files: The files to read, in order; None for all of `files()`.

        Raises:
            InputError: A file has a fault, or two files differ in their number of lines.
        """
        for source, target in self.files() if files is None else files:
            if target is None:
                yield from iterate_columns(source, self.columns)
            else:
                yield from iterate_pairs(source, target)

    def __str__(self) -> str:
        return _name(self.source)


def as_corpora(
    source: "PathNames | Corpus | Sequence[Corpus]", target: PathNames | None
) -> list[Corpus]:
    """Returns the corpora as a list; turns files into one corpus."""
    if isinstance(source, str | os.PathLike) or _are_names(source):
        return [Corpus(source, target)]
    parts = [source] if isinstance(source, Corpus) else list(source)
    corpora = [part for part in parts if isinstance(part, Corpus)]
    if target is not None or len(corpora) < len(parts):
        raise InputError(
            "source must be files, or corpora without a target."
            f" Received: source={parts}, target={target}. Put both sides into each Corpus."
        )
    return corpora


def _are_names(source: "Corpus | Sequence[PathName | Corpus]") -> TypeGuard[Sequence[PathName]]:
    return not isinstance(source, Corpus) and not any(isinstance(s, Corpus) for s in source)


def read_corpora(corpora: Sequence[Corpus]) -> tuple[list[str], list[str]]:
    """Reads all pairs of corpora of equal weight, and returns source lines and target lines.

    Raises:
        InputError: A file has a fault, or the weights differ.
    """
    if len({corpus.weight for corpus in corpora}) > 1:
        raise InputError(
            "weights must be equal if an epoch holds each pair once."
            f" Received: weights {', '.join(f'{corpus.weight:g}' for corpus in corpora)}."
            " Set steps_per_epoch to draw pairs by weight from an endless stream."
        )
    return _sides([pair for corpus in corpora for pair in corpus.pairs()])


def sample_pairs(
    source: "PathNames | Corpus | Sequence[Corpus]",
    target: PathNames | None = None,
    *,
    num_pairs: int,
    seed: int = 0,
) -> tuple[list[str], list[str]]:
    """Draws pairs at random from a whole text, to train a tokenizer on.

    Reads the text once, and holds only the pairs drawn so far. All pairs are equally likely,
    whatever the weights.

    Example:
        >>> english, german = sample_pairs("train.en", "train.de", num_pairs=500_000)
        >>> tokenizer = SubwordTokenizer.train_from_lines(english + german, 32_000)

    Args:
        source: As for `pair_batches`.
        target: As for `pair_batches`.
        num_pairs: The number of pairs to draw; all pairs if the text has fewer.
        seed: Determines the pairs.

    Returns:
        The source lines, and as many target lines.

    Raises:
        InputError: A file has a fault, or a setting is out of range.
    """
    if num_pairs < 1:
        raise InputError(
            f"num_pairs must be at least 1. Received: num_pairs={num_pairs}. Choose a larger one."
        )
    rng = np.random.default_rng(seed)
    drawn: list[tuple[str, str]] = []
    seen = 0
    for corpus in as_corpora(source, target):
        for pair in corpus.pairs():
            seen += 1
            if len(drawn) < num_pairs:
                drawn.append(pair)
            elif (place := int(rng.random() * seen)) < num_pairs:
                drawn[place] = pair
    return _sides(drawn)


def _sides(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [source for source, _ in pairs], [target for _, target in pairs]


def _two(columns: tuple[int, ...]) -> bool:
    return len(columns) == 2 and min(columns) >= 1 and columns[0] != columns[1]


def _as_list(names: PathNames) -> list[str]:
    names = [names] if isinstance(names, str | os.PathLike) else names
    return [os.fspath(name) for name in names]


def _name(names: PathNames) -> str:
    """Names the files in messages, as the user wrote them: the first, and how many more."""
    first, *others = _as_list(names) or ["no file"]
    return f"{first} and {len(others)} more" if others else first


def _files(names: PathNames) -> list[Path]:
    files = [path for name in _as_list(names) for path in _matching(name)]
    if not files:
        raise InputError(
            "a corpus must have at least one file. Received: an empty list. Name a file."
        )
    for path in files:
        _check_readable(path)
    return files


def _matching(name: str) -> list[Path]:
    """Returns the file with this name, or those that match the pattern, sorted by name."""
    if not _WILDCARD.search(name) or os.path.exists(name):
        return [Path(name)]
    paths = sorted(path for path in map(Path, glob.glob(name)) if not path.is_dir())
    if not paths:
        raise InputError(
            f"{name}: must match at least one file. Received: no match. Check the pattern."
        )
    return paths


def _check_readable(path: Path) -> None:
    refuse_pipe(path)
    try:
        open(path, "rb").close()
    except OSError as error:
        raise unreadable(path, error) from error


def _check_partners(
    source: PathNames, target: PathNames, source_files: Sequence[Path], target_files: Sequence[Path]
) -> None:
    """Refuses pairs of files whose names differ where their patterns have wildcards."""
    (source, *more), (target, *others) = _as_list(source), _as_list(target)
    one, other = _WILDCARD.findall(source), _WILDCARD.findall(target)
    if more or others or not one or one != other:
        return
    for paths in zip(source_files, target_files, strict=True):
        if _stands_for(source, paths[0]) != _stands_for(target, paths[1]):
            raise InputError(
                f"{source} and {target} must match files that belong together."
                f" Received: {paths[0]} beside {paths[1]}. Add missing files, or list all files in"
                " order."
            )


def _stands_for(pattern: str, path: Path) -> tuple[str, ...]:
    """Returns the parts of a path that the wildcards of its pattern match."""
    pieces = _WILDCARD.split(os.path.normpath(pattern))
    expression = "".join(
        f"({'.*' if piece[0] == '*' else '.'})" if index % 2 else re.escape(piece)
        for index, piece in enumerate(pieces)
    )
    found = re.fullmatch(expression, os.path.normpath(path), re.DOTALL)
    return found.groups() if found else ()
