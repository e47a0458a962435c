"""The picture of a search shows every trial where it belongs."""

from types import SimpleNamespace

import pytest

from training.tuning.picture import trials_figure
from training.tuning.report import COMPLETED, FAILED, PASSED_OVER, Row
from training.tuning.space import Space
from training.tuning.trials import Outcome

SPACE = Space.of({"num_layers": [2, 4], "peak_learning_rate": {"min": 0.001, "max": 0.01}})


def row_of(trial, value, epochs=1):
    settings = {"num_layers": 2, "peak_learning_rate": 0.002}
    if value is None:
        of_failure = Outcome(trial=trial, status=FAILED, settings=settings, reason="why")
        return Row(FAILED, settings, of_failure, trial, "why")
    outcome = Outcome(
        trial=trial,
        status=COMPLETED,
        settings=settings,
        objective=value,
        best_epoch=1,
        epochs=epochs,
    )
    return Row(COMPLETED, settings, outcome, trial)


def figure_of(rows, objective="val_perplexity"):
    sign = 1 if objective == "val_perplexity" else -1
    plan = SimpleNamespace(space=SPACE, objective=objective, algorithm="hyperband", sign=sign)
    return trials_figure(plan, rows)


def points_of(axes):
    """What is drawn of completed trials, by place: the height, and whether it is a triangle."""
    points = {}
    for collection in axes.collections:
        corners = len(collection.get_paths()[0].vertices)
        for place, value in collection.get_offsets().tolist():
            points[place] = (value, corners < 6)
    return points


def test_a_trial_far_beyond_all_others_is_a_triangle_on_the_edge():
    rows = [row_of("0", 10.0), row_of("1", 12.0), row_of("2", 50_000.0), row_of("3", 11.0, 3)]
    figure = figure_of(rows)
    top, by_layers, by_rate = figure.axes
    edge = top.get_ylim()[1]
    assert points_of(top) == {
        0: (10.0, False),
        1: (12.0, False),
        2: (pytest.approx(edge), True),
        3: (11.0, False),
    }
    assert points_of(by_layers)[0][0] == 11.0  # the last that is drawn at this place
    assert {round(place, 6) for place in points_of(by_rate)} == {0.002}
    assert "What a triangle stands for lies far above." in figure.get_suptitle().replace("\n", " ")


def test_nothing_is_said_of_triangles_where_there_are_none():
    figure = figure_of([row_of("0", 10.0), row_of("1", 70.0)])
    assert all(not is_triangle for _, is_triangle in points_of(figure.axes[0]).values())
    assert "triangle" not in figure.get_suptitle()


def test_the_best_so_far_goes_down_with_perplexity_and_up_with_bleu():
    rows = [row_of("0", 20.0), row_of("1", None), row_of("2", 30.0), row_of("3", 15.0)]
    rows.append(Row(PASSED_OVER, rows[0].settings, reason="too large"))
    [line] = [a for a in figure_of(rows).axes[0].lines if a.get_label() == "best so far"]
    assert list(line.get_ydata()) == [20.0, 20.0, 20.0, 15.0]
    [line] = [a for a in figure_of(rows, "val_bleu").axes[0].lines if "best" in a.get_label()]
    assert list(line.get_ydata()) == [20.0, 20.0, 30.0, 30.0]


def test_failures_and_numbers_of_epochs_have_their_place_in_the_legend():
    rows = [row_of("0", 20.0), row_of("1", None), row_of("2", 12.0, epochs=3)]
    figure = figure_of(rows)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert sorted(names) == ["1 epoch", "3 epochs", "best so far", "failed"]
