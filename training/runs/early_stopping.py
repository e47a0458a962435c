"""Decides whether a run ends before its last epoch: for time, or for lack of improvement.

Every decision depends on metrics.jsonl alone, so a resumed run decides the same.
"""

import math
from typing import Any

from training.runs.monitor import best_epoch
from training.settings import TrainingSettings

Metrics = list[dict[str, Any]]


def is_over(metrics: Metrics, settings: TrainingSettings) -> bool:
    """Whether the epochs in the metrics are all that the run will train."""
    num_epochs = sum("epoch" in line for line in metrics)
    return num_epochs >= settings.epochs or early_end(metrics, settings) is not None


def early_end(metrics: Metrics, settings: TrainingSettings) -> str | None:
    """Returns one line that explains why training ends early; None if it does not."""
    num_epochs = sum("epoch" in line for line in metrics)
    if num_epochs >= settings.epochs:
        return None
    reason = None
    if time_is_up(metrics, settings.max_minutes):
        reason = f"one more would take it beyond {settings.max_minutes:g} minutes (max_minutes)"
    elif _is_hopeless(metrics, settings):
        count = settings.early_stopping_epochs
        last = "the last" if count == 1 else f"the last {count}"
        reason = f"{last} brought no better {settings.monitor} (early_stopping_epochs)"
    return reason and f"ended after {num_epochs} of {settings.epochs} epochs: {reason}"


def time_is_up(metrics: Metrics, max_minutes: float | None) -> bool:
    """Whether one more epoch, as long as the last, would exceed `max_minutes` in total.

    Counts the epochs before an interruption, but not the interruption itself.
    """
    seconds = [line.get("seconds", 0.0) for line in metrics if "epoch" in line]
    return bool(seconds) and seconds[-1] > seconds_left(metrics, max_minutes)


def seconds_left(metrics: Metrics, max_minutes: float | None) -> float:
    """Returns the seconds of `max_minutes` that are left; infinity if `max_minutes` is None."""
    if max_minutes is None:
        return math.inf
    return 60 * max_minutes - sum(line.get("seconds", 0.0) for line in metrics if "epoch" in line)


def _is_hopeless(metrics: Metrics, settings: TrainingSettings) -> bool:
    """Whether the last `early_stopping_epochs` epochs were no better than an earlier one."""
    lines = [line for line in metrics if "epoch" in line]
    most = settings.early_stopping_epochs
    if most is None or not lines:
        return False
    return lines[-1]["epoch"] - best_epoch(lines, settings.monitor) >= most
