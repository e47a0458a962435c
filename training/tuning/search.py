"""Runs a search: Keras Tuner's loop over trials, in one process or in a chief and workers."""

import os
import time
from concurrent import futures
from typing import Any

import keras_tuner
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial

from keras_transformer.wording import counted
from training.command_line.errors import InputError
from training.devices.opening import leave_devices_to_children
from training.tuning.oracles import make_oracle
from training.tuning.plan import SearchFolder, SearchPlan, is_held
from training.tuning.space import spelled
from training.tuning.trials import FAILED, Outcome, Trials

PROJECT_NAME = "keras_tuner"
ENVIRONMENT = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
SECONDS_BETWEEN_REQUESTS = 0.5
SECONDS_FOR_THE_CHIEF = 600


class _Stop(keras_tuner.errors.FatalError):
    """Carries an error through Keras Tuner, which would otherwise record it as a failed trial."""


class _Tuner(BaseTuner):
    """Keras Tuner's loop, in which `Trials` performs each trial; workers ask the chief for it."""

    def __init__(self, trials: Trials, oracle: keras_tuner.Oracle, is_worker: bool = False):
        super().__init__(oracle, directory=str(trials.folder.path), project_name=PROJECT_NAME)
        self.trials = trials
        self.is_worker = is_worker
        if not is_worker and oracle.is_saved:
            self.reload()

    def _get_tuner_fname(self) -> str:
        return os.devnull + ".json"  # the tuner has no state, and __init__ reloads the oracle

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
        parts.append(f"continues trial {values['tuner/trial_id']}")
    if "tuner/epochs" in values:
        parts.append(counted(values["tuner/epochs"], "epoch"))
    return ", ".join(parts)


def search(trials: Trials, max_trials: int | None) -> bool:
    """Runs or resumes a search to its end, alone, as the chief, or as a worker.

    Args:
        trials: The trials to perform, with the plan and the folder of the search.
        max_trials: The largest number of trials; None lets Hyperband decide.

    Returns:
        True if this process has written the results: if it is alone or the chief.

    Raises:
        InputError: If the folder, the environment or the disk prevents the search.
        KeyboardInterrupt: If the search is stopped; the next call resumes it.
    """
    role = _role()
    leave_devices_to_children()
    oracle = make_oracle(trials, max_trials)
    try:
        if role == "worker":
            _work(trials, oracle)
        else:
            _lead(trials, oracle, is_chief=role == "chief")
    except _Stop as stop:
        raise stop.__cause__ from None
    return role != "worker"


def _role() -> str:
    """Reads this process's role from the environment: "alone", "chief" or "worker"."""
    missing = [name for name in ENVIRONMENT if not os.environ.get(name)]
    if len(missing) == len(ENVIRONMENT):
        return "alone"
    if missing:
        raise InputError(
            f"{', '.join(ENVIRONMENT)} must be set together. Received: no {', '.join(missing)}."
            " Set all of them for a chief and its workers, or none."
        )
    return "chief" if "chief" in os.environ[ENVIRONMENT[0]] else "worker"


def _lead(trials: Trials, oracle: keras_tuner.Oracle, is_chief: bool) -> None:
    with trials.folder.claimed(trials.plan):
        tuner = _Tuner(trials, oracle)
        tuner.save()
        if is_chief:
            _serve(oracle, trials.folder)
        else:
            tuner.search()
        for trial_id in oracle.trials:
            trials.drop_checkpoints(trial_id)
        oracle.report()


def _work(trials: Trials, oracle: keras_tuner.Oracle) -> None:
    import grpc

    folder = trials.folder
    with folder.worker_lock(os.environ[ENVIRONMENT[0]]):
        _await_chief(folder, trials.plan)
        try:
            _Tuner(trials, oracle, is_worker=True).search()
        except grpc.RpcError as error:
            raise InputError(
                f"{folder.path}: the chief must run until the search is over. Received: no answer"
                f" from the chief ({error.code().name}: {error.details()}). Run the same commands"
                " again to resume."
            ) from error


def _await_chief(folder: SearchFolder, plan: SearchPlan) -> None:
    """Waits until the chief has opened the search."""

    def has_come():
        return folder.plan_path.exists() and is_held(folder.lock_path)

    deadline = time.monotonic() + SECONDS_FOR_THE_CHIEF
    if not has_come():
        print(f"waiting up to {SECONDS_FOR_THE_CHIEF} seconds for a chief in {folder.path}")
    while not has_come():
        if time.monotonic() > deadline:
            raise InputError(
                f"{folder.path}: a worker needs a chief that searches in the same folder. Received:"
                f" no chief within {SECONDS_FOR_THE_CHIEF} seconds. Start the same command with"
                " KERASTUNER_TUNER_ID=chief."
            )
        time.sleep(SECONDS_BETWEEN_REQUESTS)
    folder.check_same(plan)


def _serve(oracle: keras_tuner.Oracle, folder: SearchFolder) -> None:
    """Answers the workers until the search is over and they have stopped."""
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

    def workers_have_stopped():
        names = {*oracle.tuner_ids, *oracle.ongoing_trials}
        return not any(folder.is_at_work(name) for name in names)

    try:
        while not (servicer.stop_triggered and workers_have_stopped()):
            time.sleep(SECONDS_BETWEEN_REQUESTS)
    finally:
        server.stop(grace=5).wait()
    if oracle.ongoing_trials:
        names = ", ".join(trial.trial_id for trial in oracle.ongoing_trials.values())
        raise InputError(
            f"{folder.path}: workers must run until the search is over. Received: the workers of"
            f" trial {names} are gone. Run the same commands again to resume."
        )
