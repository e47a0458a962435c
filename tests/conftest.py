"""What the tests of all folders share: a quiet TensorFlow, a seed, one small translator."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import pytest

from keras_transformer.tokenizer import SubwordTokenizer
from tests.random_models import TEXTS, random_transformer, small_config


@pytest.fixture
def seeded():
    """Random weights and dropout are the same in each run.

    Not for all tests: a seed drops every SentencePiece tokenizer that lives in a traced function.
    """
    keras.utils.set_random_seed(7)


@pytest.fixture(scope="session")
def tokenizer():
    """Sub-words of a few sentences: 4 special ids, 256 bytes, letters, and some longer ones."""
    return SubwordTokenizer.train_from_lines(TEXTS, vocabulary_size=300)


@pytest.fixture(scope="session")
def random_model(tokenizer):
    """A model that has learnt nothing; its translations are as long as its sources or longer."""
    return random_transformer(small_config(vocabulary_size=tokenizer.vocabulary_size))
