import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_transformer.data.shares import share_of, weighted_share_of


def numbered_batch(num_rows, source_length=5, target_length=7):
    """Returns a batch in which all ids are different, and none is padding."""
    sides = [
        first + np.arange(num_rows * length, dtype="int32").reshape(num_rows, length)
        for first, length in ((1, source_length), (10_000, target_length), (20_000, target_length))
    ]
    return {"source_ids": sides[0], "target_ids": sides[1]}, sides[2]


def sides_of(batch):
    inputs, labels = batch
    return inputs["source_ids"], inputs["target_ids"], labels


@given(num_rows=st.integers(1, 23), count=st.integers(1, 9))
def test_shares_have_equal_sizes_and_join_to_the_batch_and_blank_rows(num_rows, count):
    batch = numbered_batch(num_rows)
    shares = [share_of(batch, index, count) for index in range(count)]
    for whole, *parts in zip(sides_of(batch), *map(sides_of, shares), strict=True):
        assert {part.shape for part in parts} == {(-(-num_rows // count), whole.shape[1])}
        assert {part.dtype for part in parts} == {np.dtype("int32")}
        together = np.concatenate(parts)
        np.testing.assert_array_equal(together[:num_rows], whole)
        assert not together[num_rows:].any()


@given(num_rows=st.integers(1, 23), count=st.integers(1, 9))
def test_there_are_fewer_blank_rows_than_shares(num_rows, count):
    batch = numbered_batch(num_rows)
    num_blank = sum(
        int((share_of(batch, index, count)[1] == 0).all(axis=1).sum()) for index in range(count)
    )
    assert num_blank < count
    assert (num_rows + num_blank) % count == 0


def test_the_batch_itself_does_not_change():
    batch = numbered_batch(3)
    share, _ = share_of(batch, 0, 1)
    share["source_ids"][:] = 0
    assert batch[0]["source_ids"].all()


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_an_unknown_share_is_refused(index, count):
    with pytest.raises(ValueError, match=r"less than count\. Received: index=.* counted from 0"):
        share_of(numbered_batch(3), index, count)


def test_weights_are_split_too():
    inputs, labels = numbered_batch(3)
    *_, weights = share_of((inputs, labels, np.float32([0.5, 0.5, 0.5])), 1, 2)
    np.testing.assert_array_equal(weights, np.float32([0.5, 0]))


# Parts of a batch that is accumulated


@st.composite
def batches(draw):
    """Generates batches of 1 to 9 pairs with 1 to 5 labels each."""
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
def test_the_weighted_mean_over_parts_equals_the_mean_over_the_batch(batch, count):
    losses_of_tokens = np.random.default_rng(1).normal(size=51)
    losses_of_tokens[0] = 0

    def mean_loss(labels):
        return losses_of_tokens[labels].sum() / max(np.count_nonzero(labels), 1)

    parts = [weighted_share_of(batch, index, count) for index in range(count)]
    mean = np.mean([weights[0] * mean_loss(labels) for _, labels, weights in parts])
    # Weights are 32-bit floats, and losses of both signs may nearly cancel.
    assert mean == pytest.approx(mean_loss(batch[1]), rel=1e-5, abs=1e-6)
    for _, labels, weights in parts:
        assert weights.dtype == np.float32
        assert weights.shape == labels.shape[:1]
        assert len(set(weights.tolist())) == 1
