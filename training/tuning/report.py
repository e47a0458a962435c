"""What came out of a search: a line and a row for each trial, a picture, and the best settings."""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from training.files import write_text
from training.tuning.plan import SearchFolder, SearchPlan
from training.tuning.trials import COMPLETED, FAILED, Outcome, Trials

RUNNING, PASSED_OVER = "running", "passed over"
LONGEST_REASON = 140  # in the table; trials.jsonl has all of it


@dataclasses.dataclass(frozen=True)
class Row:
    """A trial, or values that were not tried.

    Attributes:
        status: COMPLETED, FAILED, RUNNING or PASSED_OVER.
        settings: The tuned ones, by name.
        outcome: What came of the trial; None if it is not over, or none.
        trial: Its name; None if it is none.
        reason: Why it failed or was passed over.
        parameters: Of the model, if it was passed over for having too many; else None.
    """

    status: str
    settings: dict[str, Any]
    outcome: Outcome | None = None
    trial: str | None = None
    reason: str | None = None
    parameters: int | None = None

    def content(self) -> dict[str, Any]:
        """A line of trials.jsonl."""
        if self.outcome is not None:
            return dataclasses.asdict(self.outcome)
        names = ("trial", "status", "settings", "reason", "parameters")
        return {name: getattr(self, name) for name in names}


def rows_of(
    trials: Trials,
    values: Mapping[str, Mapping[str, Any]],
    passed_over: Sequence[Mapping[str, Any]],
) -> list[Row]:
    """The rows of a search, in the order in which trials began.

    Args:
        trials: Knows the outcomes.
        values: Of Keras Tuner, by the name of the trial.
        passed_over: What the oracle did not try: "settings", "reason" and "parameters".
    """
    rows = []
    for trial, own in values.items():
        outcome = trials.outcome(trial)
        settings = trials.plan.space.settings(own)
        if outcome is None:
            rows.append(Row(RUNNING, settings, trial=trial))
        else:
            rows.append(Row(outcome.status, settings, outcome, trial, outcome.reason))
    # A search that an earlier version began may have no parameters there.
    return rows + [
        Row(PASSED_OVER, one["settings"], reason=one["reason"], parameters=one.get("parameters"))
        for one in passed_over
    ]


def write_report(folder: SearchFolder, plan: SearchPlan, rows: Sequence[Row]) -> None:
    """Renews trials.jsonl, trials.md, trials.png and best.yaml."""
    from training.tuning.picture import draw_trials

    lines = [json.dumps(row.content()) + "\n" for row in rows]
    write_text(folder.rows_path, "".join(lines))
    write_text(folder.table_path, table(plan, rows))
    best = best_outcome(plan, rows)
    if best is None:
        return
    write_text(folder.best_path, best_settings(plan, rows))
    draw_trials(plan, rows, folder.picture_path)


def best_outcome(plan: SearchPlan, rows: Sequence[Row]) -> Outcome | None:
    """The outcome of the best trial; None if none is completed."""
    completed = [row.outcome for row in rows if row.status == COMPLETED]
    return min(completed, key=lambda outcome: outcome.badness(plan.objective), default=None)


def best_settings(plan: SearchPlan, rows: Sequence[Row]) -> str:
    """YAML that `python -m training.train --config` takes: the start's settings, and the best."""
    best = best_outcome(plan, rows)
    count = sum(row.status == COMPLETED for row in rows)
    head = (
        f"# The best of {count} completed trials: trial {best.trial}, {plan.objective}"
        f" {best.objective:.4f} in epoch {best.best_epoch}.\n"
        f"# Tuned: {', '.join(best.settings)}. All else is what the search started from.\n"
    )
    settings = dataclasses.asdict(dataclasses.replace(plan.settings, **best.settings))
    asked, has = settings["vocabulary_size"], best.vocabulary_size
    if has not in (None, asked):  # None is of a search that an earlier version began
        head += f"# The tokenizer has {has} sub-words; asked for were {asked}.\n"
        settings["vocabulary_size"] = has
    return head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def table(plan: SearchPlan, rows: Sequence[Row]) -> str:
    """A Markdown table: completed trials, best first; then the others, with the reason."""
    names = [*plan.space.dimensions]
    continues = any(row.outcome and row.outcome.continues for row in rows)
    head = ["trial", "status", plan.objective, "best epoch", "epochs", "parameters", "minutes"]
    head += ["continues"] * continues + names
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    order = {COMPLETED: 0, RUNNING: 1, FAILED: 2, PASSED_OVER: 3}
    ranked = sorted(
        rows,
        key=lambda row: (
            order[row.status],
            row.outcome.badness(plan.objective) if row.status == COMPLETED else (),
        ),
    )
    for row in ranked:
        lines.append(_cells(row, continues) + [spelled(row.settings[name]) for name in names])
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    reasons = [
        f"trial {row.trial} failed: {_short(row.reason)}" for row in ranked if row.status == FAILED
    ]
    reasons += _reasons_to_pass_over(plan, [row for row in ranked if row.status == PASSED_OVER])
    return text + "\n" * bool(reasons) + "".join(f"- {reason}\n" for reason in reasons)


def _reasons_to_pass_over(plan: SearchPlan, rows: Sequence[Row]) -> list[str]:
    """One line for all that were too large, and one for each other reason."""
    numbers = [row.parameters for row in rows if row.parameters is not None]
    lines = []
    if numbers:
        least, most = min(numbers), max(numbers)
        span = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        lines.append(
            f"{len(numbers)} passed over: too large, {span} parameters, of at most"
            f" {plan.max_parameters:,}"
        )
    others = collections.Counter(row.reason for row in rows if row.parameters is None)
    return lines + [f"{count} passed over: {_short(reason)}" for reason, count in others.items()]


def _cells(row: Row, continues: bool) -> list[str]:
    outcome = row.outcome
    if outcome is None:
        parameters = "" if row.parameters is None else f"{row.parameters:,}"
        return [row.trial or "", row.status, "", "", "", parameters, *[""] * (1 + continues)]
    return [
        outcome.trial,
        outcome.status,
        "" if outcome.objective is None else f"{outcome.objective:.3f}",
        _in_cell(outcome.best_epoch),
        str(outcome.epochs),
        "" if outcome.parameters is None else f"{outcome.parameters:,}",
        f"{outcome.minutes:.1f}",
        *[_in_cell(outcome.continues)] * continues,
    ]


def _in_cell(value) -> str:
    return "" if value is None else str(value)


def spelled(value) -> str:
    """The value of a setting, short, as YAML spells it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _short(reason: str) -> str:
    return reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 3] + "..."
