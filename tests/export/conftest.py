import pytest

from tests.random_models import random_transformer, small_config


@pytest.fixture(scope="module")
def translator(served_translator):
    return served_translator


@pytest.fixture
def wide_model(tokenizer):
    """A model wide enough for linear maps in 8 bits; smaller maps are not rounded."""
    return random_transformer(
        small_config(
            vocabulary_size=tokenizer.vocabulary_size,
            num_layers=1,
            model_dim=64,
            feed_forward_dim=1024,
        )
    )
