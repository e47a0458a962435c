"""Where pairs of lines come from: one file or many, two files for a pair or one, with weights."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_transformer.errors import InputError
from keras_transformer.text.lines import (
    PathName,
    iterate_columns,
    iterate_pairs,
    refuse_pipe,
    unreadable,
)

PathNames = PathName | Sequence[PathName]

_WILDCARD = re.compile(r"(\*+|\?|\[[^]]+\])")


@dataclass(frozen=True)
class Corpus:
    """Pairs of lines in one file or in many, plain, .gz, .bz2 or .xz.

    Example:
        >>> Corpus("train.en", "train.de")
        >>> Corpus("shards/*.en.gz", "shards/*.de.gz")
        >>> Corpus("pairs-*.tsv.gz")
        >>> Corpus("scored.tsv", columns=(2, 3), weight=0.5)

    Args:
        source: A file, a pattern with `*`, `?` or `[...]`, which stands for the files that match,
            in the order of their names, or a list of files and patterns.
        target: The same for the target side: as many files, and in each as many lines as in its
            partner. None: each line of the source's files is a pair, its sides separated by a tab.
        weight: Its share of the pairs that are drawn from several corpora is its weight divided by
            the sum of all weights.
        columns: Which columns of such a line hold the source and the target, counted from 1. None:
            the two that it has; a line with more is refused, because a tab within a sentence would
            move its rest to the other side unnoticed.

    Raises:
        InputError: A setting is out of range.
    """

    source: PathNames
    target: PathNames | None = None
    weight: float = 1.0
    columns: tuple[int, int] | None = None

    def __post_init__(self):
        if not (self.weight > 0 and np.isfinite(self.weight)):
            raise InputError(
                "weight must be greater than 0. "
                f"Received: weight={self.weight}. Leave out a corpus that is not wanted."
            )
        if self.columns is not None and (self.target is not None or not _two(self.columns)):
            raise InputError(
                "columns must be two different numbers from 1 on, of a corpus without a target. "
                f"Received: columns={self.columns}, target={self.target}. "
                "Choose for example Corpus('pairs.tsv', columns=(1, 2))."
            )

    def files(self) -> list[tuple[Path, Path | None]]:
        """The files that belong together.

        Returns:
            For each file of the source, it and its partner of the target, or it and None.

        Raises:
            InputError: A file is missing, a pattern matches none, or files have no partner.
        """
        source = _files(self.source)
        if self.target is None:
            return [(path, None) for path in source]
        target = _files(self.target)
        if len(source) != len(target):
            raise InputError(
                "source and target must have the same number of files. "
                f"Received: {len(source)} for {_name(self.source)} and {len(target)} for "
                f"{_name(self.target)}. Each file of one side needs its partner on the other."
            )
        _check_partners(self.source, self.target, source, target)
        return list(zip(source, target, strict=True))

    def pairs(self, files: Sequence[tuple[Path, Path | None]] | None = None) -> Iterator:
        """Yields source and target of each pair, file by file, in little memory.

        Args:
            files: The order of the files; None is the order of `files()`.

        Raises:
            InputError: A file is at fault, or two files differ in their number of lines.
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
    """One corpus, or those that are given already."""
    if isinstance(source, Corpus):
        source = [source]
    if isinstance(source, str | os.PathLike) or not any(isinstance(s, Corpus) for s in source):
        return [Corpus(source, target)]
    if target is not None or not all(isinstance(corpus, Corpus) for corpus in source):
        raise InputError(
            "source must be files, with target, or corpora, without. "
            f"Received: source={source}, target={target}. Put both sides into each Corpus."
        )
    return list(source)


def read_corpora(corpora: Sequence[Corpus]) -> tuple[list[str], list[str]]:
    """Reads all pairs into memory.

    Args:
        corpora: The corpora, of equal weights.

    Returns:
        The source lines and the target lines, equally many.

    Raises:
        InputError: A file is at fault, or the weights differ.
    """
    if len({corpus.weight for corpus in corpora}) > 1:
        raise InputError(
            "weights must be equal in an epoch that holds each pair once. "
            f"Received: weights {', '.join(f'{corpus.weight:g}' for corpus in corpora)}. "
            "Set steps_per_epoch, which draws pairs by weight without end."
        )
    pairs = [pair for corpus in corpora for pair in corpus.pairs()]
    return [source for source, _ in pairs], [target for _, target in pairs]


def sample_pairs(
    source: "PathNames | Corpus | Sequence[Corpus]",
    target: PathNames | None = None,
    *,
    num_pairs: int,
    seed: int = 0,
) -> tuple[list[str], list[str]]:
    """Draws pairs at random from all over a text, to train a tokenizer on.

    The text is read once, and no more of it is held than is drawn. All pairs are equally likely,
    whatever the weights.

    Example:
        >>> english, german = sample_pairs("train.en", "train.de", num_pairs=500_000)
        >>> tokenizer = SubwordTokenizer.train_from_lines(english + german, 32_000)

    Args:
        source: As for `pair_batches`.
        target: As for `pair_batches`.
        num_pairs: How many pairs; all of a text that has fewer.
        seed: Decides which.

    Returns:
        The source lines and the target lines, equally many.

    Raises:
        InputError: A file is at fault, or a setting is out of range.
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
    return [one for one, _ in drawn], [other for _, other in drawn]


def _two(columns) -> bool:
    return len(columns) == 2 and min(columns) >= 1 and columns[0] != columns[1]


def _as_list(names: PathNames) -> list[str]:
    names = [names] if isinstance(names, str | os.PathLike) else names
    return [os.fspath(name) for name in names]


def _name(names: PathNames) -> str:
    """The files as they were given, for messages: the first of them and how many more."""
    first, *others = _as_list(names) or ["no file"]
    return f"{first} and {len(others)} more" if others else first


def _files(names: PathNames) -> list[Path]:
    files = [path for name in _as_list(names) for path in _matching(name)]
    if not files:
        raise InputError("a corpus must have at least one file. Received: an empty list. Name one.")
    return files


def _matching(name: str) -> list[Path]:
    """The file of this name, or those that match the pattern, in the order of their names."""
    paths = [Path(name)]
    if _WILDCARD.search(name) and not os.path.exists(name):
        paths = sorted(path for path in map(Path, glob.glob(name)) if not path.is_dir())
        if not paths:
            raise InputError(
                f"{name}: must match at least one file. Received: none that does. "
                "Check the pattern."
            )
    for path in paths:
        _check_readable(path)
    return paths


def _check_readable(path: Path) -> None:
    refuse_pipe(path)
    try:
        open(path, "rb").close()
    except OSError as error:
        raise unreadable(path, error) from error


def _check_partners(source: PathNames, target: PathNames, source_files, target_files) -> None:
    """What the wildcards stand for must agree, so that no file meets its neighbour's partner."""
    (source, *more), (target, *others) = _as_list(source), _as_list(target)
    one, other = _WILDCARD.findall(source), _WILDCARD.findall(target)
    if more or others or not one or one != other:
        return
    for paths in zip(source_files, target_files, strict=True):
        if _stands_for(source, paths[0]) != _stands_for(target, paths[1]):
            raise InputError(
                f"{source} and {target} must match files that belong together. "
                f"Received: {paths[0]} beside {paths[1]}. Complete the files, or list them in "
                "order."
            )


def _stands_for(pattern: str, path: Path) -> tuple[str, ...]:
    """The parts of a path that the wildcards of a pattern stand for."""
    pieces = _WILDCARD.split(os.path.normpath(pattern))
    expression = "".join(
        f"({'.*' if piece[0] == '*' else '.'})" if index % 2 else re.escape(piece)
        for index, piece in enumerate(pieces)
    )
    found = re.fullmatch(expression, os.path.normpath(path), re.DOTALL)
    return found.groups() if found else ()
