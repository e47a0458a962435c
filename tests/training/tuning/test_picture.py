"""The picture of a search shows every trial in its place."""

from types import SimpleNamespace

import pytest

from training.tuning.picture import trials_figure
from training.tuning.space import Space
from training.tuning.trials import COMPLETED, FAILED, PASSED_OVER, Outcome

SPACE = Space.of({"num_layers": [2, 4], "peak_learning_rate": {"min": 0.001, "max": 0.01}})


SETTINGS = {"num_layers": 2, "peak_learning_rate": 0.002}


def trial_of(name, value, epochs=1):
    if value is None:
        return Outcome(trial=name, status=FAILED, settings=SETTINGS, reason="why")
    reached = {"objective": value, "best_epoch": 1, "epochs": epochs}
    return Outcome(trial=name, status=COMPLETED, settings=SETTINGS, **reached)


def figure_of(trials, objective="val_perplexity"):
    sign = 1 if objective == "val_perplexity" else -1
    plan = SimpleNamespace(space=SPACE, objective=objective, algorithm="hyperband", sign=sign)
    return trials_figure(plan, trials)


def points_of(axes):
    """Returns the completed trials' points by number: height, and whether it is a triangle."""
    points = {}
    for collection in axes.collections:
        corners = len(collection.get_paths()[0].vertices)
        for place, value in collection.get_offsets().tolist():
            points[place] = (value, corners == 4)
    return points


def legend_of(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_a_trial_far_beyond_all_others_is_a_triangle_on_the_edge():
    trials = [
        trial_of("0", 10.0),
        trial_of("1", 12.0),
        trial_of("2", 50_000.0),
        trial_of("3", 11.0, 3),
    ]
    figure = figure_of(trials)
    top, by_layers, by_rate = figure.axes
    edge = top.get_ylim()[1]
    assert points_of(top) == {
        0: (10.0, False),
        1: (12.0, False),
        2: (pytest.approx(edge), True),
        3: (11.0, False),
    }
    assert points_of(by_layers)[0][0] == 11.0  # the last one drawn at this place
    assert {round(place, 6) for place in points_of(by_rate)} == {0.002}
    assert "off the scale" in legend_of(figure)


def test_triangles_are_not_mentioned_if_there_are_none():
    figure = figure_of([trial_of("0", 10.0), trial_of("1", 70.0)])
    assert all(not is_triangle for _, is_triangle in points_of(figure.axes[0]).values())
    assert "off the scale" not in legend_of(figure)


def test_the_best_so_far_falls_for_perplexity_and_rises_for_bleu():
    trials = [trial_of("0", 20.0), trial_of("1", None), trial_of("2", 30.0), trial_of("3", 15.0)]
    trials.append(Outcome(trial=None, status=PASSED_OVER, settings=SETTINGS, reason="too large"))
    [line] = [a for a in figure_of(trials).axes[0].lines if a.get_label() == "best so far"]
    assert list(line.get_ydata()) == [20.0, 20.0, 20.0, 15.0]
    [line] = [a for a in figure_of(trials, "val_bleu").axes[0].lines if "best" in a.get_label()]
    assert list(line.get_ydata()) == [20.0, 20.0, 30.0, 30.0]


def test_the_legend_lists_failures_and_numbers_of_epochs():
    trials = [trial_of("0", 20.0), trial_of("1", None), trial_of("2", 12.0, epochs=3)]
    figure = figure_of(trials)
    assert sorted(legend_of(figure)) == ["1 epoch", "3 epochs", "best so far", "failed"]
