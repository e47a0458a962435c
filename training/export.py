"""Exports a run for TensorFlow Serving: `python -m training.export --help`."""

import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from training.command_line.errors import InputError, UsageError, input_errors
from training.command_line.outputs import check_output_folder
from training.command_line.parser import CommandParser, Options, option_name, parse
from training.command_line.running import import_keras, run_command
from training.command_line.search_options import add_search_options, search_settings
from training.runs.files import refuse_pipe
from training.runs.folder import RunFolder
from training.runs.translator import load_translator

TEXTS_VERIFIED = 20  # checked in seconds

# The README of an export quotes these values.
_READ_OF_EVALUATION = {"bleu": (int, float), "bleu_signature": (str,), "num_sentences": (int,)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = _parser()
    options = parse(parser, arguments)
    if options.verify is not None:
        verify(options)
        return
    missing = [name for name in ("run", "directory") if options[name] is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    _check_format(options)
    check_output_folder("the directory", options.directory)
    about = {"description": options.description} if options.description else {}
    if options.evaluation is not None:
        about["evaluation"] = read_evaluation(options.evaluation)
    if options.verify_texts is not None:
        texts = first_lines(options.verify_texts)
    translator = load_translator(options.run, **search_settings(options))
    run = RunFolder(options.run)
    if options.verify_texts is None:
        texts = validation_texts(run)
    if options.format != "saved_model":
        _export_elsewhere(translator, options, texts)
        return
    about["training"] = training_facts(run, options.epoch)
    from keras_transformer.export.saved_model import export_saved_model
    from keras_transformer.export.verification import HARD_TEXTS

    texts = [*HARD_TEXTS, *texts]
    print("writing the export and comparing it with the run: a minute or two")
    version = export_saved_model(translator, options.directory, verify_texts=texts, about=about)
    print(f"verified: {len(texts)} texts, the same answers as before the export")
    print(f"exported: {version}")


def _check_format(options: Options) -> None:
    """Refuses options that belong to another format.

    Raises:
        UsageError: If there is one.
    """
    only = {
        "quantization": "ctranslate2",
        "description": "saved_model",
        "evaluation": "saved_model",
    }
    for name, format_name in only.items():
        if options[name] and options.format != format_name:
            raise UsageError(
                f"{option_name(name)} must be given only with --format {format_name}. Received:"
                f" --format {options.format}. Leave it out."
            )
    if options.precision != "float32" and options.format != "saved_model":
        raise UsageError(
            f"--precision must be float32 with --format {options.format}, which reads the run's own"
            f" weights. Received: --precision {options.precision}. Leave it out."
        )


def _export_elsewhere(translator, options: Options, texts: list[str]) -> None:
    """Writes a folder for another program."""
    from keras_transformer.export.ctranslate2 import export_ctranslate2
    from keras_transformer.export.hugging_face import export_hugging_face
    from keras_transformer.export.verification import HARD_TEXTS

    texts = [*HARD_TEXTS, *texts]
    print("writing the export and comparing it with the run")
    if options.format == "ctranslate2":
        quantization = {"quantization": options.quantization}
        export_ctranslate2(translator, options.directory, verify_texts=texts, **quantization)
    else:
        export_hugging_face(translator, options.directory, verify_texts=texts)
    print(f"exported: {options.directory}")


def _parser() -> CommandParser:
    parser = CommandParser(
        "export",
        "Exports a run as the next version of a SavedModel, after checking that it answers like the"
        " run; or with --format for another program. With --verify, checks that the files of an"
        " export have not changed since.",
    )
    parser.add_positional("run", "The folder of a finished run.", nargs="?")
    parser.add_positional(
        "directory",
        "saved_models/NAME; the version becomes a folder in it. With --format, a new folder.",
        nargs="?",
    )
    _add_format_options(parser)
    add_search_options(parser)
    parser.add_option("description", str, "", "What it translates, for README and model.json.")
    parser.add_option(
        "evaluation", str | None, None, "JSON of training.evaluate, for README and model.json."
    )
    parser.add_option(
        "verify_texts",
        str | None,
        None,
        f"Compare export and run on the first {TEXTS_VERIFIED} lines of this file (default: the"
        " run's validation source).",
    )
    parser.add_option(
        "verify",
        str | None,
        None,
        "Export nothing; compare the files of saved_models/NAME (all versions) or"
        " saved_models/NAME/VERSION with checksums.json.",
    )
    parser.add_threads()
    return parser


def _add_format_options(parser: CommandParser) -> None:
    parser.add_option(
        "format",
        Literal["saved_model", "ctranslate2", "huggingface"],
        "saved_model",
        "What to write: a SavedModel, or a new folder for CTranslate2 (which must be installed) or"
        " Hugging Face's MarianMTModel.",
    )
    parser.add_option(
        "quantization",
        Literal[
            "int8",
            "int8_float32",
            "int8_bfloat16",
            "int8_float16",
            "int16",
            "float16",
            "bfloat16",
            "float32",
        ]
        | None,
        None,
        "The numbers of the weights, for --format ctranslate2 (default: float32).",
    )


def verify(options: Options) -> None:
    """Compares the versions of an export with their checksums, and prints a line for each.

    Raises:
        UsageError: If more than the folder is given.
        InputError: If a version has changed since it was exported, or has no checksums.
    """
    if options.run is not None:
        raise UsageError(
            f"--verify must be given without a run. Received: {options.run}. Leave one of them out."
        )
    import_keras()
    from keras_transformer.checksums import CHECKSUMS_FILE, check_export
    from keras_transformer.wording import counted

    wrong, versions = [], _versions_in(Path(options.verify))
    for version in versions:
        try:
            if check_export(version):
                print(f"{version}: every file is as it was exported")
                continue
            print(f"{version}: cannot be checked without {CHECKSUMS_FILE}")
        except input_errors() as error:
            print(error)
        wrong.append(version.name)
    if wrong:
        raise InputError(
            f"{options.verify}: every file must be as it was exported. Received:"
            f" {len(wrong)} of {counted(len(versions), 'version')} that cannot be confirmed"
            f" ({', '.join(wrong)}). Get the folder again, or export the run again."
        )


def _versions_in(folder: Path) -> list[Path]:
    """Returns the versions in a folder, in order, or the folder itself if it is a version."""
    found = [path for path in folder.glob("*") if path.name.isdecimal() and path.name.isascii()]
    if found:
        return sorted(found, key=lambda path: int(path.name))
    if (folder / "saved_model.pb").exists() or (folder / "checksums.json").exists():
        return [folder]
    raise InputError(
        f"{folder}: must be an export, saved_models/NAME or saved_models/NAME/VERSION. Received: a"
        " path without versions. Check the path."
    )


def read_evaluation(path: str) -> dict[str, Any]:
    """Reads the scores that training.evaluate wrote.

    Raises:
        InputError: If the file cannot be read or holds something else.
    """
    refuse_pipe(path)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        for name, types in _READ_OF_EVALUATION.items():
            if type(content[name]) not in types:
                raise TypeError(f"{name} is {content[name]!r:.50}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: an evaluation must be the JSON that `training.evaluate --json` wrote."
            f" Received: {type(error).__name__}: {error}. Evaluate the run again."
        ) from error
    return content


def first_lines(path: str) -> list[str]:
    """Reads the first `TEXTS_VERIFIED` lines of a text file.

    Raises:
        InputError: If the file cannot be read, is empty or is not UTF-8.
    """
    import_keras()
    from keras_transformer.text.lines import iterate_lines

    return list(itertools.islice(iterate_lines(path), TEXTS_VERIFIED))


def validation_texts(run: RunFolder) -> list[str]:
    """Reads the first lines of the run's validation source; returns [] without one."""
    path = run.read_record().settings.validation_source
    try:
        return [] if path is None else first_lines(path)
    except input_errors():
        return []


def training_facts(run: RunFolder, epoch: int | None = None) -> dict[str, Any]:
    """Collects the facts about a run's training: settings, data, and how it ended.

    Args:
        run: The run.
        epoch: The epoch whose weights are exported; None means the finished model.
    """
    record, metrics = run.read_record(), run.read_metrics()
    facts = {
        "settings": dataclasses.asdict(record.settings),
        "data_sha256": record.data_sha256,
        "epochs": max((line.get("epoch", 0) for line in metrics), default=0),
        "steps": max((line.get("steps", 0) for line in metrics), default=0),
    }
    for line in metrics:
        is_exported = line.get("final") if epoch is None else line.get("epoch") == epoch
        if is_exported:
            facts |= {key: value for key, value in line.items() if key.startswith("val_")}
            facts["averaged_epochs"] = line.get("epochs", []) if epoch is None else [epoch]
        if line.get("num_pairs") is not None:  # streamed text is not counted
            facts["num_pairs"] = line["num_pairs"]
    return facts


if __name__ == "__main__":
    sys.exit(run_command(main))
