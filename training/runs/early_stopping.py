"""When a run ends before it has trained all its epochs: time, or epochs without a better one.

Every decision rests on metrics.jsonl alone, so a run that is resumed decides the same.
"""

import math
from typing import Any

from training.runs.monitor import best_epoch
from training.settings import TrainingSettings

Metrics = list[dict[str, Any]]


def is_over(metrics: Metrics, settings: TrainingSettings) -> bool:
    """Whether no epoch follows those in the metrics."""
    num_epochs = sum("epoch" in line for line in metrics)
    return num_epochs >= settings.epochs or early_end(metrics, settings) is not None


def early_end(metrics: Metrics, settings: TrainingSettings) -> str | None:
    """One line that says why training ends before all its epochs; None if it does not."""
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
    """Whether one more epoch as long as the last would end after `max_minutes` of epochs.

    The epochs before an interruption count, too; the time between does not.
    """
    seconds = [line["seconds"] for line in metrics if "epoch" in line]
    return bool(seconds) and seconds[-1] > seconds_left(metrics, max_minutes)


def seconds_left(metrics: Metrics, max_minutes: float | None) -> float:
    """What the epochs so far leave of `max_minutes`; infinity if it is None."""
    if max_minutes is None:
        return math.inf
    return 60 * max_minutes - sum(line["seconds"] for line in metrics if "epoch" in line)


def _is_hopeless(metrics: Metrics, settings: TrainingSettings) -> bool:
    """Whether the last `early_stopping_epochs` epochs were no better than an earlier one."""
    lines = [line for line in metrics if "epoch" in line]
    most = settings.early_stopping_epochs
    if most is None or not lines:
        return False
    return lines[-1]["epoch"] - best_epoch(lines, settings.monitor) >= most
