"""Writes the pages of the commands and the settings from the parsers, which --help uses too.

The parsers are found without TensorFlow: each command is started, and stopped where it parses.
"""

import argparse
import importlib
import re
from pathlib import Path
from unittest import mock

from training.benchmark import TASKS
from training.command_line.option_types import in_words
from training.command_line.parser import CommandParser, option_name
from training.experiments.__main__ import EXPERIMENTS
from training.settings import FIELDS, READERS, TYPES

ROOT = Path(__file__).parents[2]
COMMANDS_MARKER = "<!-- all commands -->"
SETTINGS_MARKER = "<!-- all settings -->"

COMMANDS = "train evaluate translate score average export import_marian serve tune demo".split()
# The commands whose first argument names a task.
GROUPS = {"benchmark": TASKS, "experiments": EXPERIMENTS}

# The title of each group of settings, by the group's first setting.
SETTING_GROUPS = {
    "train_source": "Text",
    "initial_run": "Sub-words",
    "model": "Model",
    "batch_tokens": "Batches",
    "epochs": "Length of the training",
    "peak_learning_rate": "Optimizer and loss",
    "dtype_policy": "Computation",
    "checkpoint_steps": "Checkpoints",
    "validation_bleu": "Validation",
    "early_stopping_epochs": "Which epochs make the model",
    "beam_size": "Search",
}


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Fills the two pages."""
    if COMMANDS_MARKER in markdown:
        return markdown.replace(COMMANDS_MARKER, commands_page())
    if SETTINGS_MARKER in markdown:
        return markdown.replace(SETTINGS_MARKER, settings_page())
    return markdown


# Commands


def commands_page() -> str:
    """Returns a section for each command."""
    sections = [_section(parser_of(command), "##") for command in COMMANDS]
    for command, tasks in GROUPS.items():
        module = importlib.import_module(_module(command))
        summary = module.__doc__.partition(": `")[0].rstrip(".") + "."
        choices = ", ".join(f"[`{task}`](#{command}-{task})" for task in tasks)
        sections.append(
            f"## training.{command} {{#{command}}}\n\n{summary} Its first argument is one of"
            f" {choices}."
        )
        sections += [_section(parser_of(f"{command} {task}"), "###") for task in tasks]
    return "\n\n".join(sections)


class _Found(Exception):
    """Carries a command's parser out of the command."""


def parser_of(command: str) -> CommandParser:
    """Returns the parser of `python -m training.COMMAND`, such as "train" or "benchmark decode"."""

    def stop(parser, *_arguments):
        raise _Found(parser)

    name, *task = command.split()
    with mock.patch.object(CommandParser, "parse_known_args", stop):
        try:
            importlib.import_module(_module(name)).main(task)
        except _Found as found:
            return found.args[0]
    raise ValueError(f"training.{command} must use CommandParser. Received: another parser.")


def _module(command: str) -> str:
    return "training.experiments.__main__" if command == "experiments" else f"training.{command}"


def _section(parser: CommandParser, marks: str) -> str:
    name = parser.prog.removeprefix("python -m training.")
    own = [action for action in options_of(parser) if action.dest not in FIELDS]
    settings = [action for action in options_of(parser) if action.dest in FIELDS]
    if name not in ("train", "tune"):  # only these two take settings, others have options like them
        own, settings = options_of(parser), []
    parts = [
        f"{marks} training.{name} {{#{name.replace(' ', '-')}}}",
        _plain(parser.description),
        f"```bash\n{_usage(parser)}\n```",
        *map(_definition, own),
    ]
    if settings:
        links = [
            f"[`{action.option_strings[0]}`](settings.md#{action.dest})" for action in settings
        ]
        listed = f'<span class="options">{", ".join(links)}</span>'
        parts.append(f"Each [setting](settings.md) is an option, too: {listed}.")
    return "\n\n".join(parts)


def options_of(parser: CommandParser) -> list[argparse.Action]:
    """Returns the arguments and options of a command, without --help."""
    return [action for action in parser._actions if action.dest != "help"]


def _usage(parser: CommandParser) -> str:
    """Returns the shortest command line, with what must be given."""
    needed = []
    for action in options_of(parser):
        value = action.dest.upper() + (" ..." if action.nargs == "+" else "")
        if not action.option_strings:
            needed.append(value)
        elif action.required:
            needed.append(f"{action.option_strings[0]} {value}")
    return " ".join([parser.prog, *needed, "[OPTIONS]"])


def _definition(action: argparse.Action) -> str:
    """Returns an argument or an option as an entry of a definition list."""
    text, form = described(action)
    name = action.option_strings[0] if action.option_strings else action.dest.upper()
    note = f' <span class="form">{_plain(form)}</span>' if form else ""
    return f"`{name}`{note}\n:   {_plain(text)}"


def described(action: argparse.Action) -> tuple[str, str]:
    """Returns the meaning of an option, and its type with its default."""
    text = action.help.replace("%%", "%").replace(f"{ROOT}/", "")
    if not action.option_strings:
        return text, "one or more" if action.nargs == "+" else ""
    if action.nargs == 0:
        return text, "takes no value"
    type_hint = action.type.args[1]  # of the partial function that converts the text
    text, _, form = text.rpartition(f" ({in_words(type_hint)}")
    form = in_words(type_hint) + form.removesuffix(")")
    if action.nargs is not None:
        number = "one or more values" if action.nargs == "+" else f"{action.nargs} values"
        form = f"{number}, each {form}"
    return text, f"required; {form}" if action.required else form


# Settings


def settings_page() -> str:
    """Returns a section for each setting, in groups."""
    sections = []
    for name, field in FIELDS.items():
        if name in SETTING_GROUPS:
            sections.append(f"## {SETTING_GROUPS[name]}")
        sections.append(_setting(name, field))
    return "\n\n".join(sections)


def _setting(name: str, field) -> str:
    lines = [
        f"### `{name}` {{#{name}}}",
        f'<span class="form">{_plain(_type_and_range(name, field))}; default:'
        f" `{_yaml(field.default)}`; option `{option_name(name)}`</span>",
        _linked(field.metadata["help"], name),
    ]
    if name in READERS:
        readers = ", ".join(f"`{model}`" for model in READERS[name])
        lines.append(f"Only for [`model`](#model) {readers}.")
    return "\n\n".join(lines)


def _type_and_range(name: str, field) -> str:
    limits = field.metadata
    ranges = [
        f"{words} {limits[limit]}"
        for limit, words in (("minimum", "at least"), ("above", "above"), ("below", "below"))
        if limits[limit] is not None
    ]
    form = in_words(TYPES[name])
    return f"{form}, {' and '.join(ranges)}" if ranges else form


def _yaml(value) -> str:
    """Returns a default as a YAML file spells it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _linked(text: str, own_name: str) -> str:
    """Links the settings that a help text names, except the one that it describes."""
    names = [name for name in FIELDS if name != own_name and "_" in name]
    parts = re.split(rf"(`\w+`|\b(?:{'|'.join(names)})\b)", text)
    for place, part in enumerate(parts):
        name = part.strip("`")
        is_name = place % 2 and name in FIELDS
        parts[place] = f"[`{name}`](#{name})" if is_name else _plain(part)
    return "".join(parts)


def _plain(text: str) -> str:
    """Escapes what Markdown would read as markup, formats options, and links pages."""
    parts = re.split(r"(`[^`]+`|(?<!\S)--[a-z][a-z0-9-]*|docs/\w+\.md)", text)
    parts[::2] = [re.sub(r"([*_\[\]<>\\])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [_code_or_link(part) for part in parts[1::2]]
    return "".join(parts)


def _code_or_link(text: str) -> str:
    if text.startswith("docs/"):
        return f"[{text}](../{text.removeprefix('docs/')})"
    return text if text.startswith("`") else f"`{text}`"
