import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_transformer.data.shares import share_of, weighted_share_of


@st.composite
def batches(draw):
    """Batches of 1 to 9 pairs with 1 to 5 labels each."""
    num_rows = draw(st.integers(1, 9))
    seed = draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    labels = np.zeros((num_rows, 5), "int32")
    for row in labels:
        length = rng.integers(1, 6)
        row[:length] = rng.integers(1, 50, length)
    source_ids = rng.integers(1, 50, (num_rows, 3), dtype="int32")
    return {"source_ids": source_ids, "target_ids": np.roll(labels, 1, axis=1)}, labels


@given(batches(), st.integers(1, 12))
def test_all_shares_together_are_the_batch_and_blank_pairs(batch, count):
    shares = [share_of(batch, index, count) for index in range(count)]
    assert len({labels.shape for _, labels in shares}) == 1
    num_rows = len(batch[1])
    for name in ("source_ids", "target_ids"):
        together = np.concatenate([inputs[name] for inputs, _ in shares])
        assert together.dtype == np.int32
        np.testing.assert_array_equal(together[:num_rows], batch[0][name])
        assert not together[num_rows:].any()
    together = np.concatenate([labels for _, labels in shares])
    assert len(together) < num_rows + count
    np.testing.assert_array_equal(together[:num_rows], batch[1])
    assert not together[num_rows:].any()


@given(batches(), st.integers(1, 12))
def test_the_weights_make_the_mean_of_the_parts_that_of_the_batch(batch, count):
    losses_of_tokens = np.random.default_rng(1).normal(size=51)
    losses_of_tokens[0] = 0

    def mean_loss(labels):
        return losses_of_tokens[labels].sum() / max(np.count_nonzero(labels), 1)

    parts = [weighted_share_of(batch, index, count) for index in range(count)]
    mean = np.mean([weights[0] * mean_loss(labels) for _, labels, weights in parts])
    assert mean == pytest.approx(mean_loss(batch[1]), rel=1e-5)
    for _, labels, weights in parts:
        assert weights.dtype == np.float32
        assert weights.shape == labels.shape[:1]
        assert len(set(weights.tolist())) == 1
