"""Made-up tasks."""

import numpy as np
import pytest

from training.experiments.made_tasks import neighbours, remembered, rewriting_pairs


@pytest.mark.parametrize(
    ("task", "rewrite"), [("copy", list), ("reverse", lambda x: x[::-1]), ("sort", sorted)]
)
def test_each_rewriting_task_has_the_right_target(task, rewrite):
    lengths = [3, 1, 5]
    inputs, labels = rewriting_pairs(task, lengths, 7, np.random.default_rng(2))
    for row, length in enumerate(lengths):
        source = inputs["source_ids"][row].tolist()
        symbols, rest = source[:length], source[length:]
        assert rest == [3, *[0] * (5 - length)]
        assert len(set(symbols)) == length
        assert all(4 <= symbol < 11 for symbol in symbols)
        answer = rewrite(symbols)
        assert labels[row].tolist() == [*answer, 3, *[0] * (5 - length)]
        assert inputs["target_ids"][row].tolist() == [2, *answer, *[0] * (5 - length)]


def test_neighbors_have_their_distances_in_a_ring():
    symbols, named = neighbours(3, 5, (-2, 1), 9, np.random.default_rng(2))
    assert named.shape == (3, 5, 2)
    for row, place in np.ndindex(3, 5):
        assert named[row, place, 0] == symbols[row, (place - 2) % 5]
        assert named[row, place, 1] == symbols[row, (place + 1) % 5]
    assert set(symbols.flat) <= set(range(9))


def test_results_are_reused_while_the_settings_are_the_same(tmp_path):
    path, calls = tmp_path / "new" / "one.json", []

    def measure():
        calls.append(1)
        return {"score": len(calls)}

    assert remembered(path, {"seed": 1}, measure) == {"score": 1}
    assert remembered(path, {"seed": 1}, measure) == {"score": 1}
    assert remembered(path, {"seed": 2}, measure) == {"score": 2}
