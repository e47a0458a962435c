"""Symbols of the user's own, as a setting of a run."""

import dataclasses

import pytest

from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from keras_transformer.text.tokenizer_pair import TokenizerPair, load_tokenizer
from tests.training.conftest import as_arguments
from tests.training.small_run import SMALL
from training.command_line.parser import parse
from training.command_line.running import run_command
from training.runs.folder import RunFolder
from training.runs.record import RunRecord
from training.runs.text import _make_tokenizer
from training.settings import make_settings, make_settings_parser, read_settings_file
from training.train import main

SYMBOLS = [">>de<<", "<b>"]


def train(text_files, output, *, symbols=None, **changes):
    """Trains a run of one epoch, with the symbols in a settings file."""
    settings = output.parent / "settings.yaml"
    settings.write_text(f"user_symbols: {symbols or 'null'}\n")
    values = {**text_files, **SMALL, "epochs": 1, "average_checkpoints": 1, **changes}
    return run_command(main, [*as_arguments(values), f"--config={settings}", f"--output={output}"])


@pytest.fixture(scope="module")
def run(text_files, tmp_path_factory):
    output = tmp_path_factory.mktemp("symbols") / "run"
    assert train(text_files, output, symbols=SYMBOLS) == 0
    return output


def error_of(capfd):
    return capfd.readouterr().err.splitlines()[-1]


def test_a_runs_tokenizer_has_the_symbols_of_the_setting(run):
    assert RunFolder(run).read_record().settings.user_symbols == SYMBOLS
    tokenizer = load_tokenizer(run / "tokenizer.model")
    assert tokenizer.user_symbols == tuple(SYMBOLS)
    assert tokenizer.pieces(tokenizer.encode(">>de<<<b>")) == SYMBOLS


def test_both_tokenizers_of_two_vocabularies_have_them(text_files, tmp_path):
    sizes = {"vocabulary_size": 290, "source_vocabulary_size": 280}
    settings = make_settings({**text_files, **sizes, "user_symbols": SYMBOLS})
    pair = _make_tokenizer(RunFolder(tmp_path), settings)
    assert isinstance(pair, TokenizerPair)
    assert pair.source.user_symbols == pair.target.user_symbols == tuple(SYMBOLS)


def test_the_option_is_a_list_as_in_the_file():
    options = parse(make_settings_parser(), ['--user-symbols=[">>de<<", "<b>"]'])
    assert options.user_symbols == SYMBOLS


def test_resuming_with_other_symbols_names_them(text_files, run, capfd):
    for symbols, now in ((["<b>"], r"['<b>']"), (None, "None")):
        assert train(text_files, run, symbols=symbols, epochs=2) == 1
        assert f"user_symbols: ['>>de<<', '<b>'] there, {now} now" in error_of(capfd)


def test_a_run_of_a_version_without_symbols_has_none(text_files, tmp_path):
    record = RunRecord.of(make_settings(text_files))
    run = RunFolder(tmp_path)
    run.write_record(record)
    config = run.config_path.read_text()
    run.config_path.write_text(config.replace("user_symbols: null\n", ""))
    assert run.config_path.read_text() != config
    assert make_settings(read_settings_file(run.config_path)).user_symbols is None
    assert record.differences(run.read_record()) == []
    with_symbols = dataclasses.replace(record.settings, user_symbols=SYMBOLS)
    [difference] = RunRecord.of(with_symbols).differences(run.read_record())
    assert difference == "user_symbols: None there, ['>>de<<', '<b>'] now"


@pytest.mark.parametrize(
    ("symbols", "changes", "message"),
    [
        (["a b"], {}, "Received: 'a b', which has white space"),
        (["<b>", "<b>"], {}, "Received: '<b>', which is there twice"),
        (["<b>"], {"normalization": "nfkc"}, "user_symbols need normalization=none"),
    ],
)
def test_impossible_symbols_are_reported_before_the_text_is_read(
    text_files, tmp_path, capfd, symbols, changes, message
):
    files = text_files | {"train_source": tmp_path / "missing", "train_target": tmp_path / "too"}
    assert train(files, tmp_path / "run", symbols=symbols, **changes) == 1
    assert message in error_of(capfd)
    assert not (tmp_path / "run").exists()


def test_a_given_tokenizer_must_have_the_symbols(text_files, tmp_path, capfd):
    path = tmp_path / "given.model"
    SubwordTokenizer.train_from_lines(["one"], 300, user_symbols=["<b>", "<c>"]).save(path)
    assert train(text_files, tmp_path / "run", symbols=SYMBOLS, tokenizer=path) == 1
    assert (
        f"{path}: the tokenizer must have the symbols of the setting. Received: user_symbols with"
        " '>>de<<', which it splits. Leave user_symbols out, or train another tokenizer."
    ) in error_of(capfd)
    assert not (tmp_path / "run").exists()
    settings = make_settings({**text_files, "user_symbols": ["<b>"], "tokenizer": str(path)})
    assert _make_tokenizer(RunFolder(tmp_path), settings).user_symbols == ("<b>", "<c>")


def test_the_tokenizer_of_another_run_must_have_them_too(text_files, run, tmp_path, capfd):
    assert train(text_files, tmp_path / "run", symbols=["<c>"], initial_run=run) == 1
    assert "Received: user_symbols with '<c>', which it splits" in error_of(capfd)
    assert not (tmp_path / "run").exists()
