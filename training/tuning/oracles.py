"""Keras Tuner's oracles, which choose the values of each trial, made to survive what happens.

What they do beyond Keras Tuner's own:

- values that contradict each other, or make too large a model, are drawn anew and remembered;
- the first trial is the settings that the search starts from, if the space has them;
- their state is written whole or not at all, and a search that was killed draws the same values as
  one that was not;
- a trial of a worker that is gone is given to another one;
- a trial that failed counts as the worst of its rung of Hyperband, which would else wait for it;
- of trials with the same objective, Hyperband promotes those of the lower perplexity;
- where no new values are left, Hyperband promotes of those that there are, where Keras Tuner ends;
- Bayesian search tries no values twice, and begins to model after a third of its trials, where
  Keras Tuner waits for three times as many as there are settings.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial

from training.files import write_text
from training.tuning.plan import SearchPlan

COMPLETED, FAILED = "COMPLETED", "FAILED"
MOST_DRAWS = 1000  # in a row that cannot be trained, before the space counts as exhausted
MOST_COLLISIONS = 200  # in a row that were tried before


@dataclasses.dataclass(frozen=True)
class Complaint:
    """Why some values cannot be trained.

    Attributes:
        reason: In words.
        parameters: Of the model, where it has too many; else None.
    """

    reason: str
    parameters: int | None = None


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What an oracle asks for.

    Attributes:
        complaint: Why the values of a trial cannot be trained, or None.
        is_at_work: Whether the worker of a name is.
        badness: What a better one of the completed trials has less of, by the trial's name.
        ended: Is told when a trial has ended and the oracle has been saved.
    """

    complaint: Callable[[dict[str, Any]], Complaint | None]
    is_at_work: Callable[[str], bool]
    badness: Callable[[str], tuple[float, float]]
    ended: Callable[[], None]


def make_oracle(
    plan: SearchPlan, max_trials: int | None, surroundings: Surroundings
) -> keras_tuner.Oracle:
    """The oracle of a search.

    Args:
        plan: The search.
        max_trials: Trials at most; with Hyperband None is as many as it wants.
        surroundings: What it asks for.
    """
    hp = keras_tuner.HyperParameters()
    plan.space.declare(hp, plan.settings)
    options = {
        "objective": keras_tuner.Objective(plan.objective, "min" if plan.sign > 0 else "max"),
        "hyperparameters": hp,
        "seed": plan.settings.seed + 1,  # Keras Tuner takes 0 for none
        "max_consecutive_failed_trials": 10**9,
    }
    if plan.algorithm == "hyperband":
        oracle = HyperbandOracle(max_epochs=plan.max_epochs, factor=plan.factor, **options)
        oracle.max_trials = max_trials
    elif plan.algorithm == "bayesian":
        points = max(3, max_trials // 3)
        oracle = BayesianOracle(max_trials=max_trials, num_initial_points=points, **options)
    else:
        oracle = RandomSearchOracle(max_trials=max_trials, **options)
    oracle.plan, oracle.surroundings = plan, surroundings
    oracle.verbose = 0
    return oracle


class _Careful:
    """What the oracles have in common; stands in front of Keras Tuner's class."""

    plan: SearchPlan
    surroundings: Surroundings

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._max_collisions = MOST_COLLISIONS
        self.passed_over = []  # {"settings": ..., "reason": ..., "parameters": ...}
        self._trials_under_way = {}

    def create_trial(self, tuner_id: str) -> Trial:
        self._take_from_the_lost(tuner_id)
        return super().create_trial(tuner_id)

    def end_trial(self, trial: Trial) -> None:
        # What came back from a worker has lost digits of its values.
        trial.hyperparameters = self.trials[trial.trial_id].hyperparameters
        super().end_trial(trial)
        self.surroundings.ended()

    def _take_from_the_lost(self, asking: str) -> None:
        """Lets other workers go on with the trials of those that are gone."""
        for tuner_id in [*self.tuner_ids]:
            if tuner_id != asking and not self.surroundings.is_at_work(tuner_id):
                self.tuner_ids.discard(tuner_id)
                trial = self.ongoing_trials.pop(tuner_id, None)
                if trial is not None:
                    self._retry_queue.append(trial.trial_id)

    def _random_values(self) -> dict[str, Any] | None:
        start = None if self.trials else self.plan.space.start(self.plan.settings)
        if start is not None and self._may_be_tried(start):
            return start
        for _ in range(MOST_DRAWS):
            values = super()._random_values()
            if values is None:
                return None
            values = self.plan.space.rounded(values)
            if self._may_be_tried(values):
                return values
        return None

    def _may_be_tried(self, values: dict[str, Any]) -> bool:
        if self._duplicate(values):
            return False
        complaint = self.surroundings.complaint(values)
        if complaint is not None:
            self._tried_so_far.add(self._compute_values_hash(values))
            settings = self.plan.space.settings(values)
            self.passed_over.append({"settings": settings, **dataclasses.asdict(complaint)})
        return complaint is None

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "passed_over": self.passed_over}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.passed_over = state["passed_over"]
        self._trials_under_way = state["ongoing_trials"]

    def save(self) -> None:
        write_text(Path(self._get_oracle_fname()), json.dumps(self.get_state()))

    def _save_trial(self, trial: Trial) -> None:
        path = Path(self._get_trial_dir(trial.trial_id)) / "trial.json"
        write_text(path, json.dumps(trial.get_state()))

    def reload(self) -> None:
        super().reload()
        # A trial that is not in the oracle's own file was about to begin when the search ended. It
        # will be drawn again.
        self.trials = {trial_id: self.trials[trial_id] for trial_id in self.start_order}
        # Keras Tuner saves that a trial has ended before it saves that nobody is at it any more.
        waiting = {*self._retry_queue} - {*self.end_order}
        for tuner_id, trial_id in self._trials_under_way.items():
            # If its worker is at work, the chief alone was gone.
            if trial_id in waiting and self.surroundings.is_at_work(tuner_id):
                waiting.remove(trial_id)
                self.ongoing_trials[tuner_id] = self.trials[trial_id]
                self.tuner_ids.add(tuner_id)
        # The last one is taken first.
        self._retry_queue = sorted(waiting, key=self.start_order.index, reverse=True)

    @property
    def is_saved(self) -> bool:
        """Whether there is something to reload."""
        return Path(self._get_oracle_fname()).exists()


class RandomSearchOracle(_Careful, keras_tuner.oracles.RandomSearchOracle):
    """Values drawn at random."""


class BayesianOracle(_Careful, keras_tuner.oracles.BayesianOptimizationOracle):
    """Values where a Gaussian process expects the most of them."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        # Keras Tuner does not save how far this generator has come.
        self._random_state = np.random.RandomState(self.seed + len(self.trials))
        response = super().populate_space(trial_id)
        values = response["values"] and self.plan.space.rounded(response["values"])
        if values and not self._may_be_tried(values):
            return self._random_populate_space()
        return {**response, "values": values}


class HyperbandOracle(_Careful, keras_tuner.oracles.HyperbandOracle):
    """Many trials of few epochs, of which the best ones get more."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        ended = [trial for trial in self.trials.values() if trial.status in (COMPLETED, FAILED)]
        earlier = [(trial.status, trial.score) for trial in ended]
        for trial in ended:
            trial.status, trial.score = COMPLETED, self._rank(trial)
        try:
            return super().populate_space(trial_id)
        finally:
            for trial, (status, score) in zip(ended, earlier, strict=True):
                trial.status, trial.score = status, score

    def _rank(self, trial: Trial) -> tuple[float, ...]:
        """What Keras Tuner sorts trials by, in the direction of the objective."""
        is_failed = trial.status == FAILED
        badness = (math.inf,) if is_failed else self.surroundings.badness(trial.trial_id)
        return tuple(self.plan.sign * number for number in badness)

    def _random_trial(self, trial_id: str, bracket: dict[str, Any]) -> dict[str, Any]:
        response = super()._random_trial(trial_id, bracket)
        if "values" in response:
            return response
        # No new values are left: the first rung is as large as it is, and the next ones follow.
        bracket["num_values"] = len(bracket["rounds"][0])
        return self.populate_space(trial_id)

    def _get_size(self, bracket_num: int, round_num: int) -> int:
        """Trials of a rung: Keras Tuner's number, or fewer where the space had no more values."""
        size = super()._get_size(bracket_num, round_num)
        for bracket in self._brackets:
            if bracket["bracket_num"] == bracket_num and "num_values" in bracket:
                return min(size, math.ceil(bracket["num_values"] / self.factor**round_num))
        return size
