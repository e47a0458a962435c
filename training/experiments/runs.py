"""Trains and scores the runs of an experiment; keeps finished runs in their folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from training.command_line.errors import InputError
from training.command_line.running import Terminated
from training.runs.files import write_text
from training.runs.folder import RunFolder
from training.runs.record import RunRecord
from training.settings import FIELDS, TrainingSettings
from training.tuning.child_process import STOPPED

SCORES_NAME = "validation_scores.json"


def trained_and_scored(run: Path, settings: TrainingSettings) -> dict:
    """Trains or resumes a run unless it is finished, and scores it on its validation text.

    Each run has its own process, so that none starts with memory that another has used.

    Args:
        run: The run folder. Its settings are also written to RUN.yaml beside it.
        settings: The run's settings.

    Returns:
        "val_perplexity", "val_token_accuracy" and the other metrics of the final weights; "bleu",
        "chrf" and "bleu_signature" of the beam search with these settings; and "seconds" of
        training.

    Raises:
        InputError: If the folder has a run with other settings, or a process fails.
    """
    folder = RunFolder(run)
    if folder.is_finished:
        _check_same(folder, settings)
        print(f"{run}: already finished", flush=True)
    else:
        config = run.with_name(f"{run.name}.yaml")
        run.parent.mkdir(parents=True, exist_ok=True)
        write_text(config, _changed_settings(settings))
        print(f"{run}: training", flush=True)
        _run_command("training.train", "--config", str(config), "--output", str(run))
    found = scores_of(run, run / SCORES_NAME, *settings.validation_files())
    metrics = folder.read_metrics()
    seconds = sum(line.get("seconds", 0) for line in metrics if "epoch" in line)
    final = next(line for line in metrics if line.get("final"))
    of_search = {name: found[name] for name in ("bleu", "chrf", "bleu_signature")}
    return {"seconds": seconds} | final | of_search


def scores_of(run: Path, scores: Path, source: str, reference: str) -> dict:
    """Returns the scores of a finished run's beam search on a text, computed by a child process.

    Args:
        run: The run folder.
        scores: The JSON file of `training.evaluate`. If it exists, nothing is translated again.
        source: The file of sentences to translate.
        reference: The file of their translations.

    Raises:
        InputError: If the process fails.
    """
    if not scores.exists():
        text = ["--source", source, "--reference", reference]
        _run_command("training.evaluate", str(run), *text, "--json", str(scores))
    return json.loads(scores.read_text(encoding="utf-8"))


def _check_same(folder: RunFolder, settings: TrainingSettings) -> None:
    differences = RunRecord.of(settings).differences(folder.read_record())
    if differences:
        raise InputError(
            f"{folder.path}: a finished run must have the same settings and data to be kept."
            f" Received: {'; '.join(differences)}. Choose another --output, or remove the run."
        )


def _changed_settings(settings: TrainingSettings) -> str:
    """Returns the settings that differ from the defaults, as YAML for `training.train`."""
    values = {name: getattr(settings, name) for name in FIELDS}
    changed = {name: value for name, value in values.items() if value != FIELDS[name].default}
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)


def _run_command(module: str, *arguments: str) -> None:
    """Runs `python -m MODULE ...` to its end.

    Raises:
        InputError: If the command fails; it has printed the reason.
        KeyboardInterrupt: If the command is stopped; the next call resumes it.
    """
    root = str(Path(__file__).parents[2])  # so that `training` is found from any directory
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], env={**os.environ, "PYTHONPATH": path}
    )
    try:
        code = process.wait()
    except KeyboardInterrupt as stop:  # Ctrl-C also reaches the process; SIGTERM does not
        if isinstance(stop, Terminated):
            process.terminate()
        process.wait()
        raise
    if code in STOPPED:
        raise KeyboardInterrupt
    if code:
        raise InputError(
            f"python -m {module} must succeed. Received: exit code {code}, with the reason above."
            " Fix it and run the same command again; finished runs are kept."
        )
