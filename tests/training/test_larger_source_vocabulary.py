"""A run whose source has more sub-words than its target."""

import pytest

from keras_transformer.finished_run import read_model
from keras_transformer.text.tokenizer_pair import load_tokenizer
from keras_transformer.translator import Translator
from tests.training.small_run import once
from training import average
from training.command_line.running import run_command
from training.runs.folder import RunFolder
from training.runs.translator import load_translator
from training.train import main as train_main


@pytest.fixture(scope="module")
def arguments(train_arguments, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "larger_source"
    more = ["--source-vocabulary-size=301", "--keep-checkpoints=3", "--checkpoint-steps=null"]
    return once([*train_arguments, *more, f"--output={run}"])


@pytest.fixture(scope="module")
def run(arguments):
    assert run_command(train_main, arguments) == 0
    return RunFolder(arguments[-1].partition("=")[2])


def test_each_side_learns_sub_words_of_its_own(run):
    tokenizer = load_tokenizer(run.tokenizer_path)
    model, settings = read_model(run.model_path), run.read_record().settings
    assert tokenizer.source_vocabulary_size == model.source_embedding.vocabulary_size == 301
    assert tokenizer.vocabulary_size == model.output_shape[-1] == 290
    assert (settings.source_vocabulary_size, settings.vocabulary_size) == (301, 290)
    assert not tokenizer.shares_vocabulary


def test_every_kept_epoch_is_read(run):
    translator = Translator.load(run.path)
    for epoch in (1, 2, 3):
        of_epoch = load_translator(str(run.path), epoch=epoch)
        assert of_epoch.tokenizer.serialized_model == translator.tokenizer.serialized_model
        assert len(of_epoch(["one two"])) == 1


def test_epochs_are_averaged(run, capsys):
    assert run_command(average.main, [str(run.path), "--epochs", "2", "3"]) == 0
    assert "perplexity" in capsys.readouterr().out


def test_a_finished_run_is_not_trained_with_other_sub_words(run, arguments, capfd):
    other = once([*arguments, "--source-vocabulary-size=300", "--epochs=4"])
    assert run_command(train_main, other) != 0
    assert "source_vocabulary_size: 301 there, 300 now" in capfd.readouterr().err
