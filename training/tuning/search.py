"""A search: Keras Tuner's loop over the project's own trials, alone or as chief and workers."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import keras_tuner
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial

from keras_transformer.wording import counted
from training.command_line.errors import InputError
from training.devices.opening import leave_devices_to_children
from training.runs.folder import RunFolder
from training.settings import TrainingSettings
from training.tuning.oracles import Complaint, Surroundings, make_oracle
from training.tuning.plan import SearchFolder, SearchPlan, is_held
from training.tuning.report import Row, rows_of, spelled, write_report
from training.tuning.trials import COMPLETED, FAILED, Outcome, Trials, num_parameters

PROJECT_NAME = "keras_tuner"
ENVIRONMENT = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
SECONDS_BETWEEN_REQUESTS = 0.5
SECONDS_FOR_THE_CHIEF = 600


class _Stop(keras_tuner.errors.FatalError):
    """Carries an error through Keras Tuner, which would take it for the trial's."""


class _Tuner(BaseTuner):
    """Keras Tuner's loop, which gives each trial to `Trials`.

    Args:
        trials: What trains them.
        oracle: What chooses their values.
        is_worker: Whether the chief's oracle is asked in place of this one.
    """

    def __init__(self, trials: Trials, oracle: keras_tuner.Oracle, is_worker: bool):
        super().__init__(oracle, directory=str(trials.folder.path), project_name=PROJECT_NAME)
        self.trials = trials
        self.is_worker = is_worker
        if not is_worker and oracle.is_saved:
            self.reload()

    def _get_tuner_fname(self) -> str:
        return os.devnull + ".json"  # this class has no state, and its oracle is reloaded above

    def save(self) -> None:
        if not self.is_worker:
            self.oracle.save()

    def reload(self) -> None:
        self.oracle.reload()

    def pre_create_trial(self) -> None:
        if self.is_worker:
            time.sleep(SECONDS_BETWEEN_REQUESTS)  # Keras Tuner would ask without a pause

    def run_trial(self, trial: Trial) -> dict[str, float]:
        try:
            outcome = self._perform(trial)
        except Exception as error:
            raise _Stop from error
        if outcome.status == FAILED:
            raise keras_tuner.errors.FailedTrialError(outcome.reason)
        return {self.trials.plan.objective: outcome.objective}

    def _perform(self, trial: Trial) -> Outcome:
        values = trial.hyperparameters.values
        print(f"trial {trial.trial_id}: {_in_words(self.trials.plan, values)}")
        outcome = self.trials.perform(trial.trial_id, values)
        if outcome.status == FAILED:
            print(f"  failed: {outcome.reason}")
        else:
            print(f"  best: {self.trials.plan.objective} {outcome.objective:.3f}")
        return outcome

    def on_trial_end(self, trial: Trial) -> None:
        if trial.status == "FAILED":
            trial.message = self.trials.outcome(trial.trial_id).reason
        super().on_trial_end(trial)


def _in_words(plan: SearchPlan, values: dict[str, Any]) -> str:
    parts = [f"{name} {spelled(value)}" for name, value in plan.space.settings(values).items()]
    if values.get("tuner/trial_id"):
        parts.append(f"from trial {values['tuner/trial_id']} on")
    if "tuner/epochs" in values:
        parts.append(counted(values["tuner/epochs"], "epoch"))
    return ", ".join(parts)


def search(trials: Trials, max_trials: int | None) -> bool:
    """Searches, or goes on with it, up to its end; alone, as chief or as worker.

    Args:
        trials: What trains a trial, in which folder.
        max_trials: Trials at most; None, with Hyperband only, is as many as it wants.

    Returns:
        Whether this process has the last word, and has written down what came out: no worker does.

    Raises:
        InputError: If the folder, the environment or the disk does not allow it.
        KeyboardInterrupt: If it is stopped; a trial that is under way goes on next time.
    """
    role = _role()
    folder, plan = trials.folder, trials.plan
    leave_devices_to_children()
    if role == "worker":
        tuner_id = os.environ[ENVIRONMENT[0]]
        with folder.worker_lock(tuner_id):
            _await_chief(folder, plan)
            oracle = make_oracle(plan, max_trials, _surroundings(trials, lambda: None))
            with _chief_is_missed(folder):
                _run(_Tuner(trials, oracle, is_worker=True).search)
        return False
    with folder.claimed(plan):
        surroundings = _surroundings(trials, lambda: _update(trials, oracle))
        oracle = make_oracle(plan, max_trials, surroundings)
        tuner = _Tuner(trials, oracle, is_worker=False)
        tuner.save()
        _run(functools.partial(serve, oracle, folder) if role == "chief" else tuner.search)
        for trial_id in oracle.trials:
            trials.drop_checkpoints(trial_id)
        _update(trials, oracle)
    return True


def _run(loop: Callable[[], None]) -> None:
    try:
        loop()
    except _Stop as stop:
        raise stop.__cause__ from None


def _role() -> str:
    """What the environment makes of this process: alone, chief or worker.

    Raises:
        InputError: If it does not name all three things.
    """
    missing = [name for name in ENVIRONMENT if not os.environ.get(name)]
    if len(missing) == len(ENVIRONMENT):
        return "alone"
    if missing:
        raise InputError(
            f"{', '.join(ENVIRONMENT)} must be set together. Received: no {', '.join(missing)}."
            " Set all of them for a chief and its workers, or none."
        )
    return "chief" if "chief" in os.environ[ENVIRONMENT[0]] else "worker"


def _surroundings(trials: Trials, ended: Callable[[], None]) -> Surroundings:
    return Surroundings(
        complaint=functools.partial(complaint_about, trials.plan),
        is_at_work=trials.folder.is_at_work,
        badness=lambda trial: trials.outcome(trial).badness(trials.plan.objective),
        ended=ended,
    )


def complaint_about(plan: SearchPlan, values: dict[str, Any]) -> Complaint | None:
    """Why a trial of these values cannot be trained, or None."""
    try:
        settings = plan.trial_settings(plan.space.settings(values), plan.max_epochs)
    except ValueError as error:
        return Complaint(str(error))
    if plan.max_parameters is None:
        return None
    number = num_parameters(settings, _vocabulary_size(settings))
    if number > plan.max_parameters:
        limit = f"of at most {plan.max_parameters:,}"
        return Complaint(f"too large: {number:,} parameters, {limit}", parameters=number)
    return None


def _vocabulary_size(settings: TrainingSettings) -> int:
    """Of the tokenizer that is given; else what the tokenizer will have at most."""
    if settings.tokenizer is not None:
        return _size_of(settings.tokenizer)
    if settings.initial_run is not None:
        return _size_of(str(RunFolder(settings.initial_run).tokenizer_path))
    return settings.vocabulary_size


@functools.cache
def _size_of(tokenizer: str) -> int:
    from keras_transformer.text.subword_tokenizer import SubwordTokenizer

    return SubwordTokenizer.load(tokenizer).vocabulary_size


def _update(trials: Trials, oracle: keras_tuner.Oracle) -> None:
    """Frees the disk, and writes down how far the search has come."""
    values = {name: trial.hyperparameters.values for name, trial in oracle.trials.items()}
    rows = rows_of(trials, values, oracle.passed_over)
    _free_disk(trials, rows)
    write_report(trials.folder, trials.plan, rows)


def _free_disk(trials: Trials, rows: list[Row]) -> None:
    """Keeps the best trial's model, and checkpoints that Hyperband may still take up."""
    outcomes = [row.outcome for row in rows if row.outcome is not None]
    completed = [outcome for outcome in outcomes if outcome.status == COMPLETED]
    best = min(completed, key=lambda one: one.badness(trials.plan.objective), default=None)
    is_hyperband = trials.plan.algorithm == "hyperband"
    continued = {outcome.continues for outcome in outcomes}
    for outcome in outcomes:
        may_go_on = is_hyperband and outcome in completed and outcome.trial not in continued
        if not may_go_on:
            trials.drop_checkpoints(outcome.trial)
        if outcome is not best:
            trials.drop_model(outcome.trial)


@contextlib.contextmanager
def _chief_is_missed(folder: SearchFolder) -> Iterator[None]:
    """Turns the error by which the loss of the chief shows into one that says so."""
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        raise InputError(
            f"{folder.path}: the chief must run until the search is over. Received: it does not"
            f" answer ({error.code().name}: {error.details()}). Run the same commands again to go"
            " on."
        ) from error


def _await_chief(folder: SearchFolder, plan: SearchPlan) -> None:
    """Waits until the chief has opened the search.

    Raises:
        InputError: If it does not come, or searches for something else.
    """

    def has_come():
        return folder.plan_path.exists() and is_held(folder.lock_path)

    deadline = time.monotonic() + SECONDS_FOR_THE_CHIEF
    if not has_come():
        print(f"waiting {SECONDS_FOR_THE_CHIEF} seconds at most for a chief in {folder.path}")
    while not has_come():
        if time.monotonic() > deadline:
            raise InputError(
                f"{folder.path}: a worker needs a chief that searches in the same folder. Received:"
                f" none in {SECONDS_FOR_THE_CHIEF} seconds. Start the same command with"
                " KERASTUNER_TUNER_ID=chief."
            )
        time.sleep(SECONDS_BETWEEN_REQUESTS)
    folder.check_same(plan)


def serve(oracle: keras_tuner.Oracle, folder: SearchFolder) -> None:
    """Answers the workers until the search is over and they have gone.

    Raises:
        InputError: If the address cannot be taken, or workers were lost at the end.
    """
    import grpc
    from keras_tuner.src import protos
    from keras_tuner.src.distribute.oracle_chief import OracleServicer

    address = f"{os.environ[ENVIRONMENT[1]]}:{os.environ[ENVIRONMENT[2]]}"
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    servicer = OracleServicer(oracle)
    protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise InputError(
            f"The chief must be able to listen at {address}. Received: {error}. Choose another"
            " KERASTUNER_ORACLE_PORT."
        ) from error
    server.start()
    print(f"waiting for workers at {address}")
    try:
        while not (servicer.stop_triggered and _all_have_gone(oracle, folder)):
            time.sleep(SECONDS_BETWEEN_REQUESTS)
    finally:
        server.stop(grace=5).wait()
    if oracle.ongoing_trials:
        names = ", ".join(trial.trial_id for trial in oracle.ongoing_trials.values())
        raise InputError(
            f"{folder.path}: workers must run until the search is over. Received: the workers of"
            f" trial {names} are gone. Run the same commands again to go on."
        )


def _all_have_gone(oracle: keras_tuner.Oracle, folder: SearchFolder) -> bool:
    names = {*oracle.tuner_ids, *oracle.ongoing_trials}
    return not any(folder.is_at_work(name) for name in names)
