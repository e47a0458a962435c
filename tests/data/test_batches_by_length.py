from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_transformer.data.batches_by_length import StreamPlan, length_grid, plan_batches
from tests.data.made_text import length_pairs, random_lengths


def test_the_grid_grows_by_two_and_later_by_an_eighth():
    assert length_grid(29).tolist() == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 27, 29]


@pytest.mark.parametrize(("longest", "grid"), [(1, [1]), (2, [2]), (3, [2, 3]), (5, [2, 4, 5])])
def test_the_grid_ends_at_the_longest_line(longest, grid):
    assert length_grid(longest).tolist() == grid


def test_pairs_of_one_length_fill_batches_to_the_budget():
    # 5 lines of 4 tokens make 20; 12 lines make two such batches and leave 2.
    batches = plan_batches(np.full(12, 4), np.full(12, 3), max_tokens=21)
    assert [batch.rows.tolist() for batch in batches] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
        [10, 11],
    ]
    assert {batch[1:] for batch in batches} == {(4, 3)}


def test_leftover_pairs_join_the_next_larger_cell():
    # Budget 12: 3 lines of 4, 2 lines of 6. Line 3 is left over by the first cell; with line 4 it
    # makes a batch of the second, and line 5 is left over at last.
    lengths = np.array([4, 4, 4, 4, 6, 6])
    batches = plan_batches(lengths, lengths, max_tokens=12)
    assert [(batch.rows.tolist(), *batch[1:]) for batch in batches] == [
        ([0, 1, 2], 4, 4),
        ([3, 4], 6, 6),
        ([5], 6, 6),
    ]


def test_leftover_pairs_wait_for_a_cell_that_they_fit_in():
    # (2, 6) and (6, 2) do not fit in each other: both are left over, and meet in (6, 6).
    batches = plan_batches(np.array([2, 6]), np.array([6, 2]), max_tokens=12)
    assert [(sorted(batch.rows.tolist()), *batch[1:]) for batch in batches] == [([0, 1], 6, 6)]


def test_a_cell_with_a_small_share_of_the_text_makes_no_batches():
    # 1,000 pairs of 10 tokens are 100 batches; 50 pairs of 4 tokens fill 2, less than 3%.
    lengths = np.array([10] * 1000 + [4] * 50)
    batches = plan_batches(lengths, lengths, max_tokens=100)
    assert {batch[1:] for batch in batches} == {(10, 10)}
    assert len(batches) == 105


@given(lengths=length_pairs(), max_tokens=st.integers(71, 997), seed=st.integers(0, 5) | st.none())
@settings(max_examples=80, deadline=None)
def test_every_pair_is_in_one_batch_that_holds_it_within_the_budget(lengths, max_tokens, seed):
    source_lengths, target_lengths = lengths
    rng = None if seed is None else np.random.default_rng(seed)
    batches = plan_batches(source_lengths, target_lengths, max_tokens, rng)
    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows.tolist()) == list(range(len(source_lengths)))
    for rows, source_length, target_length in batches:
        assert source_lengths[rows].max() <= source_length <= source_lengths.max()
        assert target_lengths[rows].max() <= target_length <= target_lengths.max()
        assert len(rows) * max(source_length, target_length) <= max_tokens


@given(lengths=length_pairs(), max_tokens=st.integers(71, 997))
@settings(max_examples=80, deadline=None)
def test_only_the_last_batch_has_fewer_rows_than_the_budget_allows(lengths, max_tokens):
    *batches, last = plan_batches(*lengths, max_tokens, np.random.default_rng(0))
    for rows, source_length, target_length in batches:
        assert len(rows) == max_tokens // max(source_length, target_length)
    assert len(last.rows) <= max_tokens // max(last[1:])


@given(lengths=length_pairs(), max_tokens=st.integers(71, 997), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_shapes_are_the_same_in_every_order(lengths, max_tokens, seed):
    def shapes(rng):
        return Counter((len(b.rows), *b[1:]) for b in plan_batches(*lengths, max_tokens, rng))

    assert shapes(np.random.default_rng(seed)) == shapes(None)


def test_shapes_stay_few_however_large_the_text_is():
    for num_pairs in (5_003, 200_003):
        lengths = random_lengths(num_pairs)
        shapes = {(len(b.rows), *b[1:]) for b in plan_batches(*lengths, 4096)}
        assert len(shapes) <= 36  # 33 cells of at least 3%, the last cell and the last batch


def test_padding_stays_small():
    source_lengths, target_lengths = random_lengths(50_021)
    batches = plan_batches(source_lengths, target_lengths, 4096)
    padded = sum(len(b.rows) * (b.source_length + b.target_length) for b in batches)
    assert 1 - (source_lengths.sum() + target_lengths.sum()) / padded < 0.12


def test_without_a_generator_batches_go_from_short_to_long():
    shapes = [batch[1:] for batch in plan_batches(*random_lengths(), 4096)]
    assert len(set(shapes)) > 5
    assert shapes == sorted(shapes)


def test_a_generator_mixes_pairs_and_batches():
    lengths = random_lengths()
    fixed, mixed = (
        plan_batches(*lengths, 4096),
        plan_batches(*lengths, 4096, np.random.default_rng(1)),
    )
    assert [b[1:] for b in mixed] != [b[1:] for b in fixed]
    assert {frozenset(b.rows.tolist()) for b in mixed}.isdisjoint(
        frozenset(b.rows.tolist()) for b in fixed[:-1]
    )


def test_no_pairs_make_no_batches():
    assert plan_batches(np.zeros(0, int), np.zeros(0, int), 100) == []


def test_a_pair_longer_than_the_budget_is_refused():
    with pytest.raises(ValueError, match=r"longest line .* max_tokens=16, longest=17\. Raise"):
        plan_batches(np.array([5, 3]), np.array([4, 17]), 16)


# Planning a stream


def filled(plan, lengths, rng=None):
    plan.see(*lengths)
    return plan.fill(*lengths, rng)


@given(lengths=length_pairs(), max_tokens=st.integers(71, 997), seed=st.integers(0, 5) | st.none())
@settings(max_examples=80, deadline=None)
def test_a_stream_puts_every_pair_in_a_full_batch_or_hands_it_back(lengths, max_tokens, seed):
    rng = None if seed is None else np.random.default_rng(seed)
    batches, left_over = filled(StreamPlan(max_tokens, longest=71), lengths, rng)
    rows = np.concatenate([left_over, *(batch.rows for batch in batches)])
    assert sorted(rows.tolist()) == list(range(len(lengths[0])))
    for batch in batches:
        assert len(batch.rows) == max_tokens // max(batch[1:])
        assert lengths[0][batch.rows].max() <= batch.source_length
        assert lengths[1][batch.rows].max() <= batch.target_length


def test_leftover_pairs_of_a_block_are_too_few_for_a_batch_of_their_shape():
    # Budget 12: 2 lines of 6 make a batch, 3 lines of 4. Of 5 and 7 lines one of each is left.
    lengths = np.array([6] * 5 + [4] * 7)
    batches, left_over = filled(StreamPlan(12, longest=6), (lengths, lengths))
    assert [(batch.rows.tolist(), *batch[1:]) for batch in batches] == [
        ([5, 6, 7], 4, 4),
        ([8, 9, 10], 4, 4),
        ([0, 1], 6, 6),
        ([2, 3], 6, 6),
    ]
    assert left_over.tolist() == [4, 11]


def test_a_stream_of_one_kind_of_text_keeps_the_shapes_of_its_first_block():
    plan, shapes = StreamPlan(4096, longest=256), []
    source_lengths, target_lengths = random_lengths(200_003)
    for block in np.array_split(np.arange(200_003), [5_003, 50_021, 120_011]):
        batches, _ = filled(plan, (source_lengths[block], target_lengths[block]))
        shapes.append({batch[1:] for batch in batches})
    assert shapes[0] and max(map(len, shapes)) <= 34  # cells of at least 3%, and the largest
    assert len(set.union(*shapes)) <= 40


def test_a_stream_is_padded_as_little_as_a_text_in_memory():
    lengths = random_lengths(50_021)
    padded = [
        sum(len(batch.rows) * sum(batch[1:]) for batch in batches)
        for batches in (
            filled(StreamPlan(4096, longest=256), lengths)[0],
            plan_batches(*lengths, 4096),
        )
    ]
    assert padded[0] < 1.02 * padded[1]


def test_shapes_adapt_when_the_text_changes():
    plan = StreamPlan(1000, longest=200)
    short, long = np.full(1000, 8), np.full(1000, 100)
    assert {batch[1:] for batch in filled(plan, (short, short))[0]} == {(8, 8)}
    (shape,) = {batch[1:] for batch in filled(plan, (long, long))[0]}
    assert 100 <= shape[0] == shape[1] < 115  # the next of the grid, and not the largest, 200


def test_a_pair_longer_than_all_earlier_pairs_gets_a_shape():
    plan = StreamPlan(400, longest=200)
    filled(plan, (np.full(5000, 8), np.full(5000, 8)))
    batches, left_over = filled(plan, (np.array([200, 3]), np.array([7, 200])))
    assert [(batch.rows.tolist(), *batch[1:]) for batch in batches] == [([0, 1], 200, 200)]
    assert not len(left_over)


def test_a_stream_without_pairs_makes_no_batches():
    batches, left_over = filled(StreamPlan(100, longest=50), (np.zeros(0, int), np.zeros(0, int)))
    assert batches == [] and left_over.tolist() == []
