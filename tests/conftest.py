"""Shared fixtures: a quiet TensorFlow, a random seed, one small translator."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import pytest

from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from keras_transformer.translator import Translator
from tests.random_models import TEXTS, random_transformer, small_config
from tests.writer import speller_of


@pytest.fixture
def seeded():
    """Makes random weights and dropout repeatable.

    Not used by every test: seeding destroys SentencePiece tokenizers in traced functions.
    """
    keras.utils.set_random_seed(7)


@pytest.fixture(scope="session")
def tokenizer():
    """Sub-words of a few sentences: 4 special ids, 256 bytes, letters, and some longer ones."""
    return SubwordTokenizer.train_from_lines(TEXTS, vocabulary_size=300)


@pytest.fixture(scope="session")
def random_model(tokenizer):
    """An untrained model, whose translations are at least as long as their sources."""
    return random_transformer(small_config(vocabulary_size=tokenizer.vocabulary_size))


@pytest.fixture(scope="session")
def speller(tokenizer):
    """A translator that writes "snow" in three spellings, and sometimes something else."""
    return Translator(speller_of(tokenizer), tokenizer, beam_size=6, length_penalty=0.0)


@pytest.fixture(scope="session")
def served_translator(random_model, tokenizer):
    return Translator(
        random_model, tokenizer, beam_size=3, length_penalty=0.7, max_source_tokens=40
    )


@pytest.fixture(scope="session")
def exported(served_translator, tmp_path_factory):
    """The folder of one exported version of `served_translator`."""
    from keras_transformer.export.saved_model import export_saved_model

    served_translator.tokenizer.tokenize([TEXTS[0]])
    keras.utils.set_random_seed(5)  # destroys the tokenizer just used
    about = {"description": "Nonsense to nonsense", "training": {"num_pairs": 12_345}}
    folder = tmp_path_factory.mktemp("saved_models") / "non-sense"
    return export_saved_model(served_translator, folder, about=about)
