"""The results of a search: a line and a row for each trial, a picture, and the best settings."""

import collections
import dataclasses
import json
from collections.abc import Iterable, Sequence

import yaml

from training.command_line.wording import shortened
from training.runs.files import write_text
from training.tuning.picture import draw_trials
from training.tuning.plan import SearchFolder, SearchPlan
from training.tuning.space import spelled
from training.tuning.trials import COMPLETED, FAILED, PASSED_OVER, RUNNING, Outcome, best_of

LONGEST_REASON = 140  # characters, in the table; trials.jsonl has the full text
IN_TABLE = (COMPLETED, RUNNING, FAILED, PASSED_OVER)  # from top to bottom


def write_report(folder: SearchFolder, plan: SearchPlan, outcomes: Sequence[Outcome]) -> None:
    """Rewrites trials.jsonl, trials.md, trials.png and best.yaml."""
    write_text(folder.rows_path, "".join(_line(outcome) for outcome in outcomes))
    write_text(folder.table_path, table(plan, outcomes))
    if best_of(outcomes, plan.objective) is not None:
        write_text(folder.best_path, best_settings(plan, outcomes))
        draw_trials(plan, outcomes, folder.picture_path)


def _line(outcome: Outcome) -> str:
    content = dataclasses.asdict(outcome)
    if outcome.status in (RUNNING, PASSED_OVER):
        names = ("trial", "status", "settings", "reason", "parameters")
        content = {name: content[name] for name in names}
    return json.dumps(content) + "\n"


def best_settings(plan: SearchPlan, outcomes: Sequence[Outcome]) -> str:
    """Returns the best settings as YAML for `python -m training.train --config`."""
    best = best_of(outcomes, plan.objective)
    count = sum(outcome.status == COMPLETED for outcome in outcomes)
    head = (
        f"# The best of {count} completed trials: trial {best.trial}, {plan.objective}"
        f" {best.objective:.4f} in epoch {best.best_epoch}.\n"
        f"# Tuned: {', '.join(best.settings)}. All other settings are those of the start.\n"
    )
    settings = dataclasses.asdict(dataclasses.replace(plan.settings, **best.settings))
    requested, actual = settings["vocabulary_size"], best.vocabulary_size
    if actual not in (None, requested):  # None if an earlier version started the search
        head += f"# The text gave {actual} sub-words; {requested} were requested.\n"
        settings["vocabulary_size"] = actual
    return head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def table(plan: SearchPlan, outcomes: Sequence[Outcome]) -> str:
    """Returns a Markdown table of completed trials, best first, and the others, with reasons."""
    ranked = sorted(
        outcomes,
        key=lambda one: (
            IN_TABLE.index(one.status),
            one.badness(plan.objective) if one.status == COMPLETED else (),
        ),
    )
    has_continued = any(outcome.continues for outcome in outcomes)
    head = ["trial", "status", plan.objective, "best epoch", "epochs", "parameters", "minutes"]
    head += ["continues"] * has_continued + [*plan.space.dimensions]
    text = markdown_table(head, (_cells(one, plan, has_continued) for one in ranked))
    reasons = [
        f"trial {one.trial} failed: {shortened(one.reason, LONGEST_REASON)}"
        for one in ranked
        if one.status == FAILED
    ]
    reasons += _reasons_to_pass_over(plan, [one for one in ranked if one.status == PASSED_OVER])
    return text + "\n" * bool(reasons) + "".join(f"- {reason}\n" for reason in reasons)


def _cells(outcome: Outcome, plan: SearchPlan, has_continued: bool) -> list[str]:
    return [
        _cell(outcome.trial),
        outcome.status,
        _cell(outcome.objective, ".3f"),
        _cell(outcome.best_epoch),
        _cell(outcome.epochs),
        _cell(outcome.parameters, ","),
        _cell(outcome.minutes, ".1f"),
        *[_cell(outcome.continues)] * has_continued,
        *[spelled(outcome.settings[name]) for name in plan.space.dimensions],
    ]


def _cell(value, form: str = "") -> str:
    return "" if value is None else format(value, form)


def _reasons_to_pass_over(plan: SearchPlan, outcomes: Sequence[Outcome]) -> list[str]:
    """Returns one line for all models that were too large, and one for each other reason."""
    sizes = [one.parameters for one in outcomes if one.parameters is not None]
    lines = []
    if sizes:
        least, most = min(sizes), max(sizes)
        span = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        lines.append(
            f"{len(sizes)} passed over: too large, {span} parameters, of at most"
            f" {plan.max_parameters:,}"
        )
    others = collections.Counter(one.reason for one in outcomes if one.parameters is None)
    return lines + [
        f"{count} passed over: {shortened(reason, LONGEST_REASON)}"
        for reason, count in others.items()
    ]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table with all columns except the first two aligned right."""
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
