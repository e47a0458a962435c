"""Damages the bytes of a file in ways that an attacker or a bad disk would."""

import os
import random

# Of each kind of damage. The environment variable raises it.
TRIALS = int(os.environ.get("MUTATION_TRIALS", "200"))

# Lengths and counts that no file of ours has, little-endian and as protocol buffers write them.
HUGE = [
    *(size.to_bytes(width, "little") for width in (4, 8) for size in (2**31 - 1, 2**31, 2**32 - 1)),
    (2**62).to_bytes(8, "little"),
    b"\xff" * 8,
    b"\xff\xff\xff\xff\x07",
    b"\xff" * 9 + b"\x01",
    b"\xff" * 12,
]


def cut(content, generator):
    """Cuts off the end, or takes a part out."""
    start = generator.randrange(len(content))
    end = generator.choice([len(content), start + generator.randint(1, 64)])
    return content[:start] + content[end:]


def flip(content, generator):
    """Flips one to eight bits."""
    changed = bytearray(content)
    for _ in range(generator.randint(1, 8)):
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def swap(content, generator):
    """Swaps two parts, or writes one of them twice."""
    size = generator.randint(1, max(1, min(300, len(content) // 3)))
    first = generator.randrange(len(content) - 2 * size + 1)
    second = generator.randrange(first + size, len(content) - size + 1)
    parts = content[first : first + size], content[second : second + size]
    one, other = generator.choice([parts[::-1], (parts[0], parts[0])])
    between = content[first + size : second]
    return content[:first] + one + between + other + content[second + size :]


def oversize(content, generator):
    """Overwrites some bytes, often at the beginning, with a huge size."""
    huge = generator.choice(HUGE)
    place = generator.randrange(generator.choice([min(64, len(content)), len(content)]))
    return content[:place] + huge + content[place + generator.choice([1, len(huge)]) :]


KINDS = {"cut": cut, "flip": flip, "swap": swap, "oversize": oversize}


def mutants(content, kind, seed=20):
    """Yields `TRIALS` damaged copies; the same ones for the same seed."""
    generator = random.Random(f"{seed} {kind}")
    for _ in range(TRIALS):
        yield KINDS[kind](content, generator)
