"""More robust versions of Keras Tuner's oracles, which choose the values of each trial.

Unlike Keras Tuner's own oracles:

- if values contradict each other, or make the model too large, they record and replace them;
- the first trial uses the settings that the search starts from, if these lie in the space;
- they write their state whole or not at all, and a search that was killed and resumed draws the
  same values as one that was not;
- they give the trial of a lost worker to another worker;
- a failed trial counts as the worst of its Hyperband rung, which would otherwise wait for it;
- among trials with the same objective, Hyperband promotes those with the lower perplexity;
- when the space has no new values left, Hyperband promotes the existing trials, where Keras Tuner
  would stop;
- Bayesian search never repeats values, and fits its model after a third of the trials, where Keras
  Tuner waits for three times as many trials as there are settings.
"""

import json
import math
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial

from training.runs.files import write_text
from training.tuning.report import write_report
from training.tuning.trials import PASSED_OVER, RUNNING, Outcome, Trials

COMPLETED, FAILED = "COMPLETED", "FAILED"  # as Keras Tuner spells them
MOST_DRAWS = 1000  # consecutive draws that cannot be trained, before the space counts as exhausted
MOST_COLLISIONS = 200  # consecutive draws of values that were tried before


def make_oracle(our_trials: Trials, max_trials: int | None) -> keras_tuner.Oracle:
    """Makes the oracle of a search. If `max_trials` is None, Hyperband decides when to stop."""
    plan = our_trials.plan
    hp = keras_tuner.HyperParameters()
    plan.space.declare(hp, plan.settings)
    options = {
        "objective": keras_tuner.Objective(plan.objective, "min" if plan.sign > 0 else "max"),
        "hyperparameters": hp,
        "seed": plan.settings.seed + 1,  # Keras Tuner treats seed 0 as no seed
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
    oracle.our_trials = our_trials
    oracle.verbose = 0
    return oracle


class _Robust:
    """The common part of the oracles; must precede Keras Tuner's class among the base classes."""

    our_trials: Trials  # not Keras Tuner's `trials`

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._max_collisions = MOST_COLLISIONS
        self.passed_over = []  # {"settings": ..., "reason": ..., "parameters": ...}
        self._trials_under_way = {}

    @property
    def plan(self):
        return self.our_trials.plan

    def create_trial(self, tuner_id: str) -> Trial:
        self._requeue_trials_of_the_lost(tuner_id)
        return super().create_trial(tuner_id)

    def end_trial(self, trial: Trial) -> None:
        # The worker sent the trial's values back with fewer digits.
        trial.hyperparameters = self.trials[trial.trial_id].hyperparameters
        super().end_trial(trial)
        self.report()

    def report(self) -> None:
        """Frees disk space, and writes the report on all trials."""
        outcomes = []
        for trial_id, trial in self.trials.items():
            settings = self.plan.space.settings(trial.hyperparameters.values)
            running = Outcome(trial=trial_id, status=RUNNING, settings=settings)
            outcomes.append(self.our_trials.outcome(trial_id) or running)
        outcomes += [Outcome(trial=None, status=PASSED_OVER, **one) for one in self.passed_over]
        self.our_trials.free_disk(outcomes)
        write_report(self.our_trials.folder, self.plan, outcomes)

    def _is_at_work(self, tuner_id: str) -> bool:
        return self.our_trials.folder.is_at_work(tuner_id)

    def _requeue_trials_of_the_lost(self, asking: str) -> None:
        for tuner_id in [*self.tuner_ids]:
            if tuner_id != asking and not self._is_at_work(tuner_id):
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
        complaint = self.our_trials.complaint(values)
        if complaint is not None:
            self._tried_so_far.add(self._compute_values_hash(values))
            settings = self.plan.space.settings(values)
            self.passed_over.append({"settings": settings, **complaint._asdict()})
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
        # A trial that is missing from the oracle's file was about to start when the search ended.
        # It will be drawn again.
        self.trials = {trial_id: self.trials[trial_id] for trial_id in self.start_order}
        # Keras Tuner first saves that a trial has ended, and later that it is no longer under way.
        waiting = {*self._retry_queue} - {*self.end_order}
        for tuner_id, trial_id in self._trials_under_way.items():
            # If the worker is still running, only the chief had stopped.
            if trial_id in waiting and self._is_at_work(tuner_id):
                waiting.remove(trial_id)
                self.ongoing_trials[tuner_id] = self.trials[trial_id]
                self.tuner_ids.add(tuner_id)
        # The queue is served from its end.
        self._retry_queue = sorted(waiting, key=self.start_order.index, reverse=True)

    @property
    def is_saved(self) -> bool:
        """Whether there is a saved state to reload."""
        return Path(self._get_oracle_fname()).exists()


class RandomSearchOracle(_Robust, keras_tuner.oracles.RandomSearchOracle):
    """Draws values at random."""


class BayesianOracle(_Robust, keras_tuner.oracles.BayesianOptimizationOracle):
    """Chooses the values that a Gaussian process expects to be most useful."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        # Keras Tuner does not save the state of this generator.
        self._random_state = np.random.RandomState(self.seed + len(self.trials))
        response = super().populate_space(trial_id)
        values = response["values"] and self.plan.space.rounded(response["values"])
        if values and not self._may_be_tried(values):
            return self._random_populate_space()
        return {**response, "values": values}


class HyperbandOracle(_Robust, keras_tuner.oracles.HyperbandOracle):
    """Trains many trials for a few epochs, and the best of them for more."""

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
        """Returns the key by which Keras Tuner sorts trials, in the objective's direction."""
        badness = (math.inf,)
        if trial.status == COMPLETED:
            badness = self.our_trials.outcome(trial.trial_id).badness(self.plan.objective)
        return tuple(self.plan.sign * number for number in badness)

    def _random_trial(self, trial_id: str, bracket: dict[str, Any]) -> dict[str, Any]:
        response = super()._random_trial(trial_id, bracket)
        if "values" in response:
            return response
        # No new values are left, so the first rung is full, and the next rungs follow.
        bracket["num_values"] = len(bracket["rounds"][0])
        return self.populate_space(trial_id)

    def _get_size(self, bracket_num: int, round_num: int) -> int:
        """Returns the size of a rung: Keras Tuner's, or less if the space ran out of values."""
        size = super()._get_size(bracket_num, round_num)
        for bracket in self._brackets:
            if bracket["bracket_num"] == bracket_num and "num_values" in bracket:
                return min(size, math.ceil(bracket["num_values"] / self.factor**round_num))
        return size
