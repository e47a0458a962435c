"""One model that translates in two directions, chosen by a tag."""

import dataclasses
import random
import re

import pytest

from tests.training.conftest import write_lines
from training.phrases.grammar import make_pairs
from training.phrases.text import CONFIG
from training.runs.training import train
from training.runs.translator import load_translator
from training.settings import make_settings, read_settings_file

TAGS = {"en": ">>en<<", "fr": ">>fr<<"}

# English does not say which French is meant: tu or vous, ils or elles, un ami or une amie.
OPEN_IN_FRENCH = re.compile(
    r"\b(you|your|they|them|their|friends?|neighbours?|students?|teachers?|singers?|child(ren)?)\b",
    re.IGNORECASE,
)


def tagged(pairs):
    """Returns the sources and targets of both directions, in random order."""
    lines = [(f"{TAGS['en']} {french}", english) for french, english in pairs]
    lines += [(f"{TAGS['fr']} {english}", french) for french, english in pairs]
    random.Random(1).shuffle(lines)
    return zip(*lines, strict=True)


def unambiguous(pairs):
    return [(pair.source, pair.target) for pair in pairs if not OPEN_IN_FRENCH.search(pair.target)]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_one_model_translates_in_both_directions(tmp_path):
    """At least 450 of 500 held-out sentences are translated exactly, in each direction."""
    corpus = make_pairs(22_000)
    held_out = unambiguous(corpus.test)[:500]
    assert len(held_out) == 500
    texts = {}
    for split in ("train", "validation"):
        sides = tagged(unambiguous(getattr(corpus, split)))
        for side, lines in zip(("source", "target"), sides, strict=True):
            texts[f"{split}_{side}"] = str(tmp_path / f"{split}.{side}")
            write_lines(tmp_path / f"{split}.{side}", lines)
    settings = make_settings(read_settings_file(CONFIG))
    settings = dataclasses.replace(settings, **texts, user_symbols=list(TAGS.values()))
    train(settings, str(tmp_path / "run"))
    translator = load_translator(str(tmp_path / "run"))
    assert translator.tokenizer.user_symbols == tuple(TAGS.values())
    french, english = zip(*held_out, strict=True)
    for language, sources, targets in (("en", french, english), ("fr", english, french)):
        found = translator([f"{TAGS[language]} {source}" for source in sources])
        num_exact = sum(one == other for one, other in zip(found, targets, strict=True))
        print(f"to {language}: {num_exact} of 500 exact")
        assert num_exact >= 450
