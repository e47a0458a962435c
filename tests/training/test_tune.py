"""The search for settings; most tests replace training with a made-up function."""

import dataclasses
import itertools
import json
import math
import os
import types
from pathlib import Path

import filelock
import pytest
import yaml

from tests.training.conftest import as_arguments
from tests.training.small_run import SMALL
from training.command_line.errors import InputError
from training.command_line.running import run_command
from training.runs.architectures import num_parameters
from training.runs.folder import Position, RunFolder
from training.runs.record import RunRecord
from training.settings import make_settings, read_settings_file
from training.tune import main
from training.tuning import oracles
from training.tuning.child_process import Failure
from training.tuning.comparison import (
    Comparison,
    Result,
    comparison_table,
    difference_of_means,
)
from training.tuning.plan import SearchFolder, SearchPlan
from training.tuning.search import _await_chief, search
from training.tuning.space import Space
from training.tuning.trial_run import TrialFailed, train_apart
from training.tuning.trials import Complaint, Trials

SPACE = {"dropout": {"min": 0.0, "max": 0.5}, "warmup_steps": [10, 20, 40]}


# Fits its Gaussian process again for each trial.
SLOW_BAYESIAN = pytest.param("bayesian", marks=pytest.mark.slow)


@pytest.fixture
def make_plan(text_files):
    def make(space=SPACE, algorithm="random", **more):
        own = {key: more.pop(key) for key in [*more] if key in SearchPlan.__dataclass_fields__}
        settings = make_settings({**text_files, **SMALL, **more})
        values = {"objective": "val_perplexity", "max_epochs": 3, "factor": 3}
        values |= {"max_parameters": None, **own}
        return SearchPlan(
            record=RunRecord.of(settings), space=Space.of(space), algorithm=algorithm, **values
        )

    return make


class MadeUp:
    """A made-up training: better the closer dropout is to 0.3, and better with each epoch.

    Records which epochs of which trial it trained, and calls `before` ahead of each.
    """

    def __init__(self, before=lambda trial, epoch, settings: None):
        self.before = before
        self.epochs = []

    def __call__(self, run, settings, watch):
        assert f"epochs: {settings.epochs}\n" in run.config_path.read_text()
        lines = run.read_metrics()
        for epoch in range(len(lines) + 1, settings.epochs + 1):
            self.before(run.path.name, epoch, settings)
            value = 5 + abs(settings.dropout - 0.3) + 1 / epoch + settings.warmup_steps / 1e4
            lines.append({"epoch": epoch, "val_perplexity": value, "val_bleu": 50 - value})
            lines[-1]["val_chrf"] = 70 - value
            lines[-1]["seconds"] = 60.0
            run.write_metrics(lines)
            run.checkpoints_path.mkdir(exist_ok=True)
            run.checkpoint_path(Position(epoch, 0), "state").touch()
            self.epochs.append((run.path.name, epoch))
            watch()
        run.write_metrics([*lines, {"final": True}])
        run.model_path.touch()


MOST_SUB_WORDS = 299


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Replaces the tokenizer, the models and the pictures by fast fakes."""

    def tokenizer(trials, settings):
        size = min(settings.vocabulary_size, MOST_SUB_WORDS)
        return os.devnull, types.SimpleNamespace(
            vocabulary_size=size,
            source_vocabulary_size=size,
            shares_vocabulary=True,
            normalization="none",
        )

    monkeypatch.setattr(Trials, "_tokenizer", tokenizer)
    monkeypatch.setattr("training.tuning.trials.num_parameters", lambda *_: 1234)
    monkeypatch.setattr("training.tuning.report.draw_trials", lambda *_: None)


def rows_of(path):
    return [json.loads(line) for line in (path / "trials.jsonl").read_text().splitlines()]


def perform(plan, path, max_trials, train=None):
    search(Trials(SearchFolder(path), plan, train or MadeUp()), max_trials)
    return rows_of(path)


def one_line(capfd):
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("algorithm", ["random", SLOW_BAYESIAN, "hyperband"])
@pytest.mark.parametrize("objective", ["val_perplexity", "val_bleu", "val_chrf"])
def test_the_first_trial_is_the_start_and_the_best_settings_are_written(
    make_plan, tmp_path, algorithm, objective
):
    plan = make_plan(algorithm=algorithm, objective=objective)
    rows = perform(plan, tmp_path, max_trials=6)
    assert [row["trial"] for row in rows] == [str(number) for number in range(6)]
    assert rows[0]["settings"] == {"dropout": 0.1, "warmup_steps": 20}
    assert {row["status"] for row in rows} == {"completed"}
    sign = 1 if objective == "val_perplexity" else -1
    best = min(rows, key=lambda row: sign * row["objective"])
    written = make_settings(read_settings_file(tmp_path / "best.yaml"))
    expected = make_settings({**SMALL, **best["settings"], **data_of(plan)})
    assert written == expected
    table = (tmp_path / "trials.md").read_text().splitlines()
    assert table[2].startswith(f"| {best['trial']} | completed | {best['objective']:.3f} |")
    assert len(table) == 2 + 6


@pytest.mark.parametrize("space", [SPACE, {"vocabulary_size": [300, 310, 320]}])
def test_the_best_settings_have_the_vocabulary_size_that_the_text_allowed(
    make_plan, tmp_path, space
):
    plan = make_plan(vocabulary_size=300, space=space, objective="val_bleu")
    rows = perform(plan, tmp_path, max_trials=3)
    assert [row["vocabulary_size"] for row in rows] == [MOST_SUB_WORDS] * 3
    assert read_settings_file(tmp_path / "best.yaml")["vocabulary_size"] == MOST_SUB_WORDS
    assert "# The text gave 299 sub-words; 3" in (tmp_path / "best.yaml").read_text()
    for trial in ("0", "1", "2"):
        record = RunFolder(tmp_path / "trials" / trial).read_record()
        assert record.settings.vocabulary_size == MOST_SUB_WORDS


def data_of(plan):
    names = ("train_source", "train_target", "validation_source", "validation_target")
    return {name: getattr(plan.settings, name) for name in names}


def test_hyperband_gives_the_better_trials_more_epochs_without_repeating_any(make_plan, tmp_path):
    made_up = MadeUp()
    plan = make_plan(algorithm="hyperband", max_epochs=9)
    rows = perform(plan, tmp_path, None, made_up)
    assert len(made_up.epochs) == len({*made_up.epochs})
    trials = {row["trial"]: row for row in rows}
    # Li et al. 2018: with R = 9 and eta = 3 the first bracket has rungs of 9, 3 and 1 trials.
    first = [row for row in rows if row["epochs"] == 1]
    second = [row for row in rows if row["continues"] in {row["trial"] for row in first}]
    third = [row for row in rows if row["continues"] in {row["trial"] for row in second}]
    assert [len(first), len(second), len(third)] == [9, 3, 1]
    assert {row["continues"] for row in second} == {
        row["trial"] for row in sorted(first, key=lambda row: row["objective"])[:3]
    }
    for row in second + third:
        assert row["settings"] == trials[row["continues"]]["settings"]
        assert (row["trial"], trials[row["continues"]]["epochs"]) not in made_up.epochs
        assert row["minutes"] == row["epochs"]
    assert third[0]["epochs"] == 9


@pytest.mark.parametrize(("num_values", "rungs"), [(4, [4, 2, 1]), (10, [9, 3, 1, 1, 1])])
def test_hyperband_promotes_although_the_space_has_too_few_values(
    make_plan, tmp_path, num_values, rungs
):
    """A third of 4, rounded up, is 2. Of 10 values, one is left for the second bracket."""
    space = {"warmup_steps": [*range(10, 10 + num_values)]}
    plan = make_plan(space, algorithm="hyperband", max_epochs=9, warmup_steps=10)
    rows = perform(plan, tmp_path / "whole", None)
    assert len({json.dumps(row["settings"]) for row in rows}) == num_values
    assert [len([*group]) for _, group in itertools.groupby(rows, rung)] == rungs
    assert rows[sum(rungs[:3]) - 1]["settings"] == {"warmup_steps": 10}  # the smallest is the best
    assert rows[sum(rungs[:3]) - 1]["epochs"] == 9

    for max_trials in (num_values - 1, num_values + 1, len(rows)):  # ended and resumed
        resumed = perform(plan, tmp_path / "resumed", max_trials)
    names = ("settings", "epochs", "objective")  # the length of trial names depends on max_trials
    assert [[row[name] for name in names] for row in resumed] == [
        [row[name] for name in names] for row in rows
    ]


def rung(row):
    return row["epochs"], row["continues"] is None


def test_contradictory_settings_are_skipped_and_named(make_plan, tmp_path):
    plan = make_plan({"num_heads": [2, 3, 5, 7], "dropout": [0.0, 0.3]}, model_dim=6)
    rows = perform(plan, tmp_path, max_trials=10)
    done = [row for row in rows if row["status"] == "completed"]
    left = [row for row in rows if row["status"] == "passed over"]
    combinations = {(row["settings"]["num_heads"], row["settings"]["dropout"]) for row in done}
    assert combinations == {(heads, dropout) for heads in (2, 3) for dropout in (0.0, 0.3)}
    assert {row["settings"]["num_heads"] for row in left} == {5, 7}
    assert len(left) == 4  # each once
    assert "model_dim must be a multiple of num_heads" in left[0]["reason"]
    assert "- 2 passed over: model_dim must be a mult" in (tmp_path / "trials.md").read_text()


def test_models_that_are_too_large_are_skipped(make_plan, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "training.tuning.trials.num_parameters",
        lambda settings: settings.num_layers * settings.vocabulary_size,
    )
    plan = make_plan({"num_layers": [1, 2]}, max_parameters=400)
    trials = Trials(SearchFolder(tmp_path), plan)
    assert trials.complaint({"num_layers": 1}) is None
    assert trials.complaint({"num_layers": 2}) == Complaint(
        "too large: 580 parameters, of at most 400", 580
    )


def test_the_size_limit_counts_only_sub_words_that_the_text_has(make_plan, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "training.tuning.trials.num_parameters", lambda settings: settings.vocabulary_size
    )
    plan = make_plan({"vocabulary_size": [290, 1000]}, max_parameters=MOST_SUB_WORDS)
    assert Trials(SearchFolder(tmp_path), plan).complaint({"vocabulary_size": 1000}) is None


def test_a_vocabulary_that_is_too_small_for_the_text_fails_in_its_trial(
    make_plan, tmp_path, monkeypatch
):
    """The model's size is unknown, so it is not skipped as too large."""

    def tokenizer(trials, settings):
        raise TrialFailed("the text needs more")

    monkeypatch.setattr(Trials, "_tokenizer", tokenizer)
    [row] = perform(make_plan(max_parameters=1), tmp_path, 1)
    assert (row["status"], row["reason"]) == ("failed", "the text needs more")


def test_a_search_that_skips_every_trial_says_so_and_fails(
    monkeypatch, text_files, tmp_path, capfd
):
    monkeypatch.setattr(
        "training.tuning.trials.num_parameters", lambda settings: 1000 * settings.num_layers
    )
    (tmp_path / "space.yaml").write_text("num_layers: [1, 2, 3]\n")
    output = tmp_path / "out"
    arguments = as_arguments({**text_files, **SMALL, "space": tmp_path / "space.yaml"})
    arguments += [f"--output={output}", "--max-parameters=900"]
    assert run_command(main, arguments) == 1
    out, err = capfd.readouterr()
    assert "error: " in err.splitlines()[-1]
    assert "at least one trial must succeed. Received: only failures" in err.splitlines()[-1]
    assert "finished" not in out
    *rows, _, reason = (output / "trials.md").read_text().splitlines()
    assert "|  | passed over |  |  |  | 2,000 |  | 2 |" in rows
    assert reason == "- 3 passed over: too large, 1,000 to 3,000 parameters, of at most 900"
    assert {row["parameters"] for row in rows_of(output)} == {1000, 2000, 3000}


def test_parameters_are_counted_as_keras_counts_them():
    from keras_transformer.model import build_transformer

    settings = make_settings({**SMALL, "num_layers": 2, "vocabulary_size": 307})
    model = build_transformer(settings.model_config())
    assert num_parameters(settings) == model.count_params()


@pytest.mark.parametrize("algorithm", ["random", "bayesian", "hyperband"])
def test_failed_trials_are_recorded_and_the_search_continues(make_plan, tmp_path, algorithm):
    def fail(trial, epoch, settings):
        if settings.warmup_steps == 20:
            raise TrialFailed(f"The training loss must stay finite. Epoch {epoch}.")

    plan = make_plan(algorithm=algorithm, max_epochs=9)
    rows = perform(plan, tmp_path, 14 if algorithm == "hyperband" else 5, MadeUp(fail))
    first = rows[0]["trial"]
    failed = [row for row in rows if row["status"] == "failed"]
    assert {row["trial"] for row in failed} == {
        row["trial"] for row in rows if row["settings"]["warmup_steps"] == 20
    }
    assert failed[0]["trial"] == first  # the start
    assert all(row["objective"] is None for row in failed)
    assert all("loss must stay finite. Epoch 1." in row["reason"] for row in failed)
    state = json.loads((tmp_path / "keras_tuner" / f"trial_{first}" / "trial.json").read_text())
    assert state["status"] == "FAILED"
    assert state["message"] == failed[0]["reason"]
    assert (
        f"trial {first} failed: The training loss must stay finite"
        in (tmp_path / "trials.md").read_text()
    )
    if algorithm == "hyperband":  # its rungs fill up nevertheless
        assert max(row["epochs"] for row in rows) == 9


def test_an_objective_that_is_not_finite_is_a_failure(make_plan, tmp_path):
    class Endless(MadeUp):
        def __call__(self, run, settings, watch):
            lines = [{"epoch": 1, "val_perplexity": math.inf, "seconds": 1.0}]
            run.write_metrics(lines)

    [row] = perform(make_plan(), tmp_path, 1, Endless())
    assert (row["status"], row["reason"]) == (
        "failed",
        "val_perplexity must be finite. Received: inf.",
    )
    assert not (tmp_path / "best.yaml").exists()


class Killed(BaseException):
    """Simulates a process that ends without warning."""


@pytest.mark.parametrize("algorithm", ["random", SLOW_BAYESIAN, "hyperband"])
@pytest.mark.parametrize("where", ["training", "create", "end"])
def test_a_search_that_is_killed_repeatedly_ends_like_an_uninterrupted_one(
    make_plan, tmp_path, monkeypatch, algorithm, where
):
    space = {**SPACE, "num_heads": [2, 3, 5]}  # 5 contradicts model_dim
    plan = make_plan(space, algorithm=algorithm, max_epochs=4, factor=2)
    num_trials = 5 if algorithm == "bayesian" else 12  # bayesian gets slow after three
    expected = perform(plan, tmp_path / "whole", num_trials)

    countdown = [3]

    def strike():
        countdown[0] -= 1
        if countdown[0] == 0:
            raise Killed

    def before(trial, epoch, settings):
        if where == "training":
            strike()

    def write(path, text):
        # Between writing a trial's file and the oracle's, when a trial begins or ends.
        if where == "create" and path.name == "trial.json" and '"RUNNING"' in text:
            real_write(path, text)
            return strike()
        if where == "end" and path.name == "oracle.json":
            strike()
        return real_write(path, text)

    real_write = oracles.write_text
    monkeypatch.setattr(oracles, "write_text", write)
    num_kills, made_up = 0, MadeUp(before)
    while True:
        try:
            rows = perform(plan, tmp_path / "killed", num_trials, made_up)
            break
        except Killed:
            num_kills += 1
            assert num_kills < 60
            countdown[0] = 4
    assert num_kills >= 2
    assert rows == expected
    assert len(made_up.epochs) == len({*made_up.epochs})


def test_a_later_run_can_raise_the_number_of_trials(make_plan, tmp_path):
    plan = make_plan()
    assert perform(plan, tmp_path / "a", 3) == perform(plan, tmp_path / "a", 3)
    assert perform(plan, tmp_path / "a", 6) == perform(plan, tmp_path / "b", 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout": 0.2}, "dropout: 0.1 there, 0.2 now"),
        ({"objective": "val_bleu"}, "objective: val_perplexity there, val_bleu now"),
        ({"algorithm": "bayesian"}, "algorithm: random there, bayesian now"),
        ({"max_epochs": 4}, "max_epochs: 3 there, 4 now"),
        ({"space": {"dropout": SPACE["dropout"]}}, "warmup_steps in the space: .* there, none now"),
    ],
)
def test_a_search_must_be_resumed_with_its_settings(make_plan, tmp_path, change, message):
    perform(make_plan(), tmp_path, 1)
    before = (tmp_path / "search.yaml").read_bytes()
    with pytest.raises(InputError, match=message):
        perform(make_plan(**change), tmp_path, 2)
    assert (tmp_path / "search.yaml").read_bytes() == before


def test_a_search_must_be_resumed_with_its_text(make_plan, tmp_path, text_files):
    perform(make_plan(), tmp_path / "out", 1)
    changed = tmp_path / "changed"
    changed.write_text(Path(text_files["train_source"]).read_text().replace("one", "two"))
    with pytest.raises(InputError, match=r"train_source: sha256 \w+ there, \w+ now"):
        perform(make_plan(train_source=str(changed)), tmp_path / "out", 2)


def test_a_folder_with_other_content_is_refused(make_plan, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="a search needs a folder of its own"):
        perform(make_plan(), tmp_path, 1)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_the_disk_keeps_one_model_and_the_checkpoints_that_hyperband_may_resume(
    make_plan, tmp_path
):
    seen = []

    def look(trial, epoch, settings):
        models = [*(tmp_path / "trials").glob("*/model.keras")]
        seen.append((epoch, len([*(tmp_path / "trials").glob("*/checkpoints")]), len(models)))

    plan = make_plan(algorithm="hyperband", max_epochs=9)
    rows = perform(plan, tmp_path, 13, MadeUp(look))
    assert max(models for *_, models in seen) == 1
    # Those of nine trials that may be resumed, and of the running trial; the trial that it
    # continues loses its checkpoints when it has ended.
    assert [checkpoints for epoch, checkpoints, _ in seen if epoch == 2] == [10, 10, 10]
    assert [checkpoints for epoch, checkpoints, _ in seen if epoch == 4] == [10]
    assert [*(tmp_path / "trials").glob("*/checkpoints")] == []
    [model] = (tmp_path / "trials").glob("*/model.keras")
    assert model.parent.name == min(rows, key=lambda row: row["objective"])["trial"]


def test_an_error_that_all_trials_share_stops_the_search(make_plan, tmp_path):
    def fail(trial, epoch, settings):
        if trial == "1" and epoch == 2 and not told:
            told.append(True)
            raise InputError("logs must fit on the disk")

    told = []
    plan = make_plan()
    with pytest.raises(InputError, match="must fit on the disk"):
        perform(plan, tmp_path / "a", 3, MadeUp(fail))
    made_up = MadeUp(fail)
    assert perform(plan, tmp_path / "a", 3, made_up) == perform(plan, tmp_path / "b", 3)
    assert made_up.epochs[0] == ("1", 2)


@pytest.mark.parametrize("algorithm", ["random", "hyperband"])
def test_perplexity_breaks_ties_between_trials(make_plan, tmp_path, algorithm):
    """If BLEU is always 0, Hyperband would otherwise promote the first trials."""

    def train(run, settings, watch):
        made_up(run, settings, watch)
        *lines, final = run.read_metrics()
        run.write_metrics([*({**line, "val_bleu": 0.0} for line in lines), final])

    made_up = MadeUp()
    plan = make_plan(algorithm=algorithm, objective="val_bleu")
    rows = perform(plan, tmp_path, 5 if algorithm == "random" else None, train)
    assert {(row["objective"], row["best_epoch"] == row["epochs"]) for row in rows} == {(0.0, True)}
    best = min(rows, key=lambda row: row["perplexity"])
    table = (tmp_path / "trials.md").read_text().splitlines()
    assert table[2].startswith(f"| {best['trial']} | completed |")
    assert (
        f"# The best of {len(rows)} completed trials: trial {best['trial']},"
        in (tmp_path / "best.yaml").read_text()
    )
    if algorithm == "hyperband":
        first_rung = [row for row in rows[:3] if row["epochs"] == 1]
        promoted = next(row["continues"] for row in rows if row["continues"])
        assert promoted == min(first_rung, key=lambda row: row["perplexity"])["trial"]


def test_a_bug_keeps_its_traceback(make_plan, tmp_path):
    def fail(trial, epoch, settings):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        perform(make_plan(), tmp_path, 3, MadeUp(fail))


def test_the_trial_of_a_lost_worker_is_given_to_another(make_plan, tmp_path, monkeypatch):
    at_work = {"a", "b"}
    trials = Trials(SearchFolder(tmp_path), make_plan())
    monkeypatch.setattr(trials.folder, "is_at_work", at_work.__contains__)
    oracle = oracles.make_oracle(trials, 3)
    oracle._set_project_dir(str(tmp_path), "keras_tuner")
    first, second = oracle.create_trial("a"), oracle.create_trial("b")
    assert oracle.create_trial("b").trial_id == second.trial_id  # it came back
    at_work.remove("a")
    again = oracle.create_trial("c")
    assert (again.trial_id, again.hyperparameters.values) == ("0", first.hyperparameters.values)

    # While the chief was gone, b kept running and c was lost.
    at_work |= {"d"}
    reloaded = oracles.make_oracle(trials, 3)
    reloaded._set_project_dir(str(tmp_path), "keras_tuner")
    reloaded.reload()
    assert reloaded.ongoing_trials["b"].trial_id == "1"
    assert [reloaded.create_trial("d").trial_id, reloaded.create_trial("e").trial_id] == ["0", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algorithm=random"], "--max-trials must be given with --algorithm random"),
        (["--max-trials=0"], "--max-trials must be at least 1. Received: 0"),
        (["--factor=1"], "--factor must be at least 2"),
        (["--confirm-seeds=1"], "--confirm-seeds must be 0, or at least 2"),
        (["--confirm-minutes=0"], "--confirm-minutes must be above 0"),
        (["--objective=bleu"], "--objective must be one of val_perplexity, val_bleu"),
        (["--max-trial=3"], "Did you mean --max-trials?"),
    ],
)
def test_a_wrong_option_gives_one_line_and_exit_code_2(capfd, arguments, message):
    assert run_command(main, ["--output=out", *arguments]) == 2
    assert message in one_line(capfd)


@pytest.mark.parametrize("option", ["--bleu-tokenizer=13a", "--bleu-tokenizer=zh"])
def test_tokenized_text_has_no_other_bleu_tokenizer(capfd, option):
    assert run_command(main, ["--output=out", "--tokenized", option]) == 2
    assert f"Received: --tokenized, {option.replace('=', ' ')}" in one_line(capfd)


@pytest.mark.parametrize(
    ("in_file", "options", "expected"),
    [
        ("", [], "13a"),
        ("bleu_tokenizer: char", [], "char"),
        ("bleu_tokenizer: char", ["--bleu-tokenizer=13a"], "13a"),
        ("bleu_tokenizer: 13a", ["--tokenized"], "none"),  # options win over the file
    ],
)
def test_the_command_line_decides_on_the_bleu_tokenizer(
    tmp_path, text_files, monkeypatch, in_file, options, expected
):
    plans = []

    def search(trials, max_trials):
        plans.append(trials.plan)
        return False

    monkeypatch.setattr("training.tuning.search.search", search)
    config = tmp_path / "config.yaml"
    config.write_text(f"epochs: 2\n{in_file}\n")
    arguments = as_arguments({**text_files, "config": config, "output": tmp_path / "out"})
    main([*arguments, *options])
    assert plans[0].settings.bleu_tokenizer == expected


def test_missing_packages_are_named_with_their_install_command(monkeypatch, capfd):
    monkeypatch.setattr("training.tune.PACKAGES", {"keras_tuner_absent": "keras-tuner"})
    assert run_command(main, ["--output=out"]) == 1
    assert "no keras-tuner. Run pip install 'keras-seq2seq-transformer[tuner]'" in one_line(capfd)


def test_given_sub_words_cannot_be_tuned(tmp_path, text_files, capfd):
    (tmp_path / "space.yaml").write_text("vocabulary_size: [280, 290]\n")
    data = [f"--{name.replace('_', '-')}={path}" for name, path in text_files.items()]
    more = [f"--space={tmp_path / 'space.yaml'}", f"--output={tmp_path / 'out'}", "--tokenizer=x"]
    assert run_command(main, [*data, *more]) == 1
    assert "vocabulary_size must not be tuned when tokenizer provides" in one_line(capfd)


def test_an_environment_that_describes_only_half_of_a_chief_is_refused(
    make_plan, tmp_path, monkeypatch
):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    with pytest.raises(InputError, match="must be set together. .* no KERASTUNER_ORACLE_PORT"):
        perform(make_plan(), tmp_path, 1)


def test_the_difference_of_means_follows_the_textbook():
    # Variances 1 and 4 over 3 and 4 values: the standard error is (1 / 3 + 20 / 3 / 4) ** 0.5.
    assert difference_of_means([1, 2, 3], [2, 4, 6, 8]) == (3, (1 / 3 + 20 / 12) ** 0.5)


def test_a_comparison_shows_both_sides():
    scores = {"start": (30.0, 32.0), "best": (33.0, 35.0)}
    results = [
        Result(side, seed, score, perplexity=7.0, epochs=2, minutes=3.0)
        for side in scores
        for seed, score in enumerate(scores[side], start=1)
    ]
    text = comparison_table(results, shows_perplexity=True)
    assert "| start | 1, 2 | 31.00 ± 1.41 | 30.00, 32.00 | 7.000 | 2.0 | 3.0 |" in text
    assert "Difference: +3.00, standard error 1.41." in text
    text = comparison_table(results, shows_perplexity=False)  # different sub-words
    assert "| start | 1, 2 | 31.00 ± 1.41 | 30.00, 32.00 | 2.0 | 3.0 |" in text
    assert "perplexity" not in text


@pytest.fixture
def make_comparison(tmp_path):
    def make(plan):
        more = {"num_seeds": 2, "epochs": None, "max_minutes": None}
        return Comparison(SearchFolder(tmp_path / "search"), plan, **more)

    return make


TUNED_SUB_WORDS = {"vocabulary_size": [280, 290]}


@pytest.mark.parametrize(("space", "is_shown"), [(SPACE, True), (TUNED_SUB_WORDS, False)])
def test_a_comparison_shows_perplexities_only_if_the_sub_words_are_the_same(
    make_plan, make_comparison, monkeypatch, space, is_shown
):
    plan = make_plan(space)
    comparison = make_comparison(plan)
    comparison.path.mkdir(parents=True)
    comparison.folder.best_path.write_text(yaml.safe_dump(dataclasses.asdict(plan.settings)))
    monkeypatch.setattr(
        comparison,
        "_result",
        lambda side, settings: Result(side, settings.seed, 20.0, 7.25, 1, 1.0),
    )
    assert ("| 7.250 |" in comparison.perform()) == is_shown


def test_a_comparison_resumes_after_its_text_has_moved(
    make_plan, make_comparison, text_files, tmp_path
):
    plan = make_plan()
    comparison = make_comparison(plan)
    run = RunFolder(comparison.path / "start_seed_5")
    run.path.mkdir(parents=True)
    run.write_record(plan.record)
    run.write_metrics([{"epoch": 1, "seconds": 60.0}, {"final": True, "val_perplexity": 7.25}])
    run.model_path.touch()
    run.path.with_name("start_seed_5.json").write_text('{"bleu": 20.0}')

    moved = tmp_path / "moved"
    moved.write_bytes(Path(text_files["train_source"]).read_bytes())
    plan = make_plan(train_source=str(moved))
    expected = Result("start", 5, bleu=20.0, perplexity=7.25, epochs=1, minutes=1.0)
    assert make_comparison(plan)._result("start", plan.settings) == expected

    moved.write_text(moved.read_text().replace("one", "two"))
    plan = make_plan(train_source=str(moved), dropout=0.2)
    message = r"that differs \(dropout: 0.1 there, 0.2 now; train_source: sha256 \w+ there, \w+ now"
    with pytest.raises(InputError, match=message):
        make_comparison(plan)._result("start", plan.settings)


@pytest.mark.parametrize("command", ["trial", "comparison"])
def test_a_training_that_does_not_stop_is_named(
    make_plan, make_comparison, tmp_path, monkeypatch, command
):
    monkeypatch.setattr("training.tuning.trial_run.LOCK_SECONDS", 0)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    plan = make_plan()
    with filelock.FileLock(run.lock_path), pytest.raises(InputError, match="still running after 0"):
        if command == "trial":
            train_apart(run, plan.settings, lambda: None)
        else:
            make_comparison(plan)._train(run, plan.settings)


@pytest.mark.parametrize(
    ("failure", "error"), [(Failure("x.", True), TrialFailed), (Failure("x.", False), InputError)]
)
def test_a_failure_stops_the_search_unless_the_settings_are_at_fault(
    make_plan, tmp_path, monkeypatch, failure, error
):
    monkeypatch.setattr("training.tuning.trial_run.run_child", lambda *_: failure)
    log = r"" if error is TrialFailed else r"run: x\. The output of the training is in .*run\.log\."
    with pytest.raises(error, match=log):
        train_apart(RunFolder(tmp_path / "run"), make_plan().settings, lambda: None)


def test_a_worker_says_what_it_waits_for_and_stops_in_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.tuning.search.SECONDS_FOR_THE_CHIEF", -1)
    with pytest.raises(InputError, match="a worker needs a chief that searches in the same folder"):
        _await_chief(SearchFolder(tmp_path), None)
    assert capsys.readouterr().out == f"waiting up to -1 seconds for a chief in {tmp_path}\n"
