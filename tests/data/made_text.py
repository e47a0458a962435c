"""Makes up lines and lengths, and has a tokenizer for paper and pencil."""

import itertools

import numpy as np
from hypothesis import strategies as st


class OneIdACharacter:
    """A tokenizer for paper and pencil: "a" has id 4, "b" has id 5, and so on."""

    start_id, end_id = 2, 3

    @property
    def source(self):
        return self

    target = source

    def encode(self, lines):
        return [[ord(character) - ord("a") + 4 for character in line] for line in lines]

    def decode(self, ids):
        return "".join(chr(token_id - 4 + ord("a")) for token_id in ids if token_id > 3)


@st.composite
def length_pairs(draw):
    """Returns correlated lengths of source and target lines, at most 71 tokens."""
    rng = np.random.default_rng(draw(st.integers(0, 1_000_000)))
    num_pairs = draw(st.integers(1, 700))
    source_longest, target_longest = draw(st.integers(1, 71)), draw(st.integers(1, 71))
    return (
        rng.integers(1, source_longest, num_pairs, endpoint=True),
        rng.integers(1, target_longest, num_pairs, endpoint=True),
    )


def random_lengths(num_pairs=5003):
    rng = np.random.default_rng(11)
    source = np.clip(rng.lognormal(2.6, 0.5, num_pairs).astype(int), 1, 83)
    return source, np.clip(source + rng.integers(-3, 6, num_pairs), 1, 89)


def random_lines(num_lines, longest=37, seed=5):
    rng = np.random.default_rng(seed)
    first, last = ord("a"), ord("t")
    lengths = rng.integers(1, longest, num_lines)
    return [rng.integers(first, last, n, "uint8").tobytes().decode() for n in lengths]


def ids_of(batches):
    return [
        (inputs["source_ids"].tolist(), inputs["target_ids"].tolist(), labels.tolist())
        for inputs, labels in batches
    ]


def of_dataset(dataset):
    return ids_of(dataset.as_numpy_iterator())


def numbered_line(number, length=5):
    """Returns a line that spells its number in four letters, "a" to "j", padded with "k"."""
    digits = "".join(chr(ord("a") + int(digit)) for digit in f"{number:04}")
    return digits + "k" * (length - 4)


def write_numbered(path, numbers, lengths=(5,)):
    """Writes a file with two columns, both with the number of the pair."""
    pairs = zip(numbers, itertools.cycle(lengths), strict=False)
    lines = [numbered_line(number, length) for number, length in pairs]
    path.write_text("".join(f"{line}\t{line}\n" for line in lines))
    return path


def numbers_of(batches):
    """Returns the numbers of the pairs in batches, in order; checks that both sides agree."""
    numbers = []
    for inputs, labels in batches:
        for one, other in zip(inputs["source_ids"].tolist(), labels.tolist(), strict=True):
            line = OneIdACharacter().decode(one)
            assert line == OneIdACharacter().decode(other)
            numbers.append(int("".join(str(ord(digit) - ord("a")) for digit in line[:4])))
    return numbers
