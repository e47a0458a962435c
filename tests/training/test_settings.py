import dataclasses
import itertools
import os
import re
from pathlib import Path

import pytest

from keras_transformer import config
from keras_transformer.config import TransformerConfig
from keras_transformer.data import Corpus
from keras_transformer.model import Transformer
from training.baselines import Convolutional, Recurrent, RecurrentWithAttention
from training.command_line.errors import InputError, input_errors
from training.command_line.parser import parse
from training.command_line.running import run_command
from training.runs.architectures import build_model
from training.settings import (
    CONFIG_SETTINGS,
    CORPUS_KEYS,
    EXTRA_TARGET_TOKENS,
    FIELDS,
    MODELS,
    TYPES,
    TrainingSettings,
    make_settings,
    make_settings_parser,
    read_settings_file,
)
from training.train import main

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


def settings_file(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_model_defaults_are_the_papers_base_model():
    config = TrainingSettings().model_config(vocabulary_size=37_000)
    assert config == TransformerConfig.base(vocabulary_size=37_000)


def test_settings_shared_with_the_library_have_the_same_names():
    """The settings repeat names because importing the library takes seconds."""
    fields = [field.name for field in dataclasses.fields(TransformerConfig)]
    assert ["vocabulary_size", *CONFIG_SETTINGS] == fields
    assert [field.name for field in dataclasses.fields(Corpus)] == [*CORPUS_KEYS]
    assert EXTRA_TARGET_TOKENS == config.EXTRA_TARGET_TOKENS


@pytest.mark.parametrize(
    "values",
    [
        {"model_dim": 10, "num_heads": 3},
        {"model_dim": 2, "num_heads": 3},
        {"position_encoding": "learned", "max_positions": 300},
        {"model_dim": 9, "num_heads": 3},
    ],
)
def test_wrong_sizes_have_the_librarys_error_message(values):
    with pytest.raises(ValueError) as theirs:
        TransformerConfig(vocabulary_size=23, **values)
    with pytest.raises(ValueError) as ours:
        TrainingSettings(**values)
    assert str(ours.value) == str(theirs.value).replace("'", "")


def test_every_setting_has_a_type_a_default_and_a_help_text():
    for name, field in FIELDS.items():
        assert name in TYPES
        assert field.default is not dataclasses.MISSING
        assert field.metadata["help"].endswith(".")


@pytest.mark.parametrize("name", ["base", "big"])
def test_the_config_of_the_papers_model_gives_its_row_of_table_3(name):
    settings = make_settings(read_settings_file(CONFIGS / f"{name}.yaml"))
    assert settings.model_config(37_000) == getattr(TransformerConfig, name)(37_000)


def test_the_multi30k_config_is_the_tiny_model_in_pre_norm_with_less_dropout():
    settings = make_settings(read_settings_file(CONFIGS / "multi30k_tiny.yaml"))
    tiny = TransformerConfig.tiny(10_000, normalize_first=True, dropout=0.2)
    assert settings.model_config(10_000) == tiny


@pytest.mark.parametrize("name", ["gru", "gru_attention", "convolution"])
def test_the_baselines_have_about_the_size_of_the_transformer_they_are_compared_with(name):
    """They have its parameters to within a tenth, and the same text and search."""
    settings = make_settings(read_settings_file(CONFIGS / f"multi30k_{name}.yaml"))
    transformer = make_settings(read_settings_file(CONFIGS / "multi30k_transformer.yaml"))
    assert settings.model == name
    sizes = [build_model(each).count_params() for each in (settings, transformer)]
    assert 0.9 < sizes[0] / sizes[1] < 1.1
    for same in (
        "vocabulary_size tokenizer_type max_length max_minutes average_checkpoints beam_size"
        " length_penalty"
    ).split():
        assert getattr(settings, same) == getattr(transformer, same), same


@pytest.mark.parametrize("name", MODELS)
def test_each_model_is_named_by_a_setting(tmp_path, name):
    path = settings_file(tmp_path, f"model: {name}\nmodel_dim: 8\nnum_layers: 1\n")
    settings = make_settings(read_settings_file(path))
    model = build_model(dataclasses.replace(settings, vocabulary_size=23))
    assert model.name == name
    assert (model.name.startswith(("gru", "lstm"))) == isinstance(model, Recurrent)
    assert name.endswith("_attention") == isinstance(model, RecurrentWithAttention)
    assert (name == "convolution") == isinstance(model, Convolutional)
    assert (name == "transformer") == isinstance(model, Transformer)
    assert len(model.decoder_blocks) == 1


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": "gru", "recurrent_dim": 6}, ("units", 6)),
        ({"model": "lstm"}, ("cell", "lstm")),
        ({"model": "lstm_attention", "dropout": 0.3}, ("dropout", 0.3)),
        ({"model": "convolution", "kernel_size": 5}, ("kernel_size", 5)),
        ({"model": "convolution", "dropout": 0.3}, ("dropout", 0.3)),
    ],
)
def test_settings_of_a_baseline_reach_its_layers(changes, what):
    name, value = what
    settings = TrainingSettings(
        **{"model_dim": 8, "num_layers": 2, "vocabulary_size": 23, **changes}
    )
    model = build_model(settings)
    for block in (*model.encoder_blocks, *model.decoder_blocks):
        assert getattr(block, name) == value
    assert len(model.encoder_blocks) == 2
    assert model.embedding.model_dim == 8


def test_settings_of_positions_reach_the_convolutional_model():
    settings = TrainingSettings(
        model="convolution",
        model_dim=8,
        vocabulary_size=23,
        position_encoding="learned",
        max_positions=306,
    )
    assert build_model(settings).embedding.position_table.shape == (306, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "gru", "num_heads": 4, "normalize_first": True},
            "model=gru does not read.*num_heads=4, normalize_first=True. Leave them out",
        ),
        ({"model": "lstm", "max_positions": 9}, "model=lstm does not read.*max_positions=9. Leave"),
        ({"recurrent_dim": 8}, "model=transformer does not read.*recurrent_dim=8. Leave it out"),
        ({"model": "gru", "kernel_size": 5}, "does not read.*kernel_size=5"),
        ({"model": "gru", "model_dim": 9}, "recurrent_dim.*must be even.*model_dim=9"),
        (
            {"model": "convolution", "position_encoding": "learned", "max_positions": 300},
            "max_positions must be at least.*Choose max_positions=306",
        ),
        ({"model": "convolution", "kernel_size": 4}, "kernel_size must be odd.*Choose 5"),
        ({"model": "convolution", "model_dim": 9}, "model_dim must be even.*Choose model_dim=10"),
    ],
)
def test_settings_that_a_model_cannot_use_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**changes)


def test_a_baseline_ignores_constraints_on_settings_that_it_does_not_read():
    """The default of 8 heads does not divide this width."""
    assert TrainingSettings(model="gru", model_dim=12).model_dim == 12


def test_values_are_converted_to_the_type_of_their_setting(tmp_path):
    path = settings_file(tmp_path, "adam_epsilon: 1e-9\ndropout: 0\nhead_dim: null\nepochs: 7\n")
    values = read_settings_file(path)
    assert values == {"adam_epsilon": 1e-9, "dropout": 0.0, "head_dim": None, "epochs": 7}
    assert isinstance(values["dropout"], float)


def test_a_settings_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = settings_file(tmp_path, "\ufeffepochs: 7\n")
    assert read_settings_file(path) == {"epochs": 7}
    assert read_settings_file(path).places == {"epochs": f"{path}:1"}


def test_a_pipe_of_settings_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match=r"fifo: must be a regular file, .* Received: a pipe\."):
        read_settings_file(tmp_path / "fifo")


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 8)}]\n"
    for old, new in itertools.pairwise("abcdefghij")
)
MERGED_BOMB = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 8)}]}}\n"
    for old, new in itertools.pairwise("abcdefghij")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3\nwarmup_step: 9\n", r"settings.yaml:2: every key must be a setting. Received: "
         r"warmup_step. Did you mean warmup_steps\?"),
        ("zzz: 1\n", r"settings.yaml:1: .* Received: zzz. .*--help` lists the settings"),
        ("epochs: many\n", r"settings.yaml:1: epochs must be a whole number. Received: "
         r"epochs='many'"),
        ("# c\n\nepochs: 2.5\n", r"settings.yaml:3: epochs must be a whole number. Received: "
         r"epochs=2.5"),
        ("dropout: true\n", r"settings.yaml:1: dropout must be a number. Received: dropout=True"),
        ("train_source: 7\n", r"train_source must be text or a list of texts or null. Received:"),
        ("tokenizer_type: words\n", r"tokenizer_type must be one of bpe, unigram. Received: "),
        ("dropout: 1.0\n", r"settings.yaml:1: dropout must be below 1. Received: dropout=1.0"),
        ("epochs: 0\n", r"settings.yaml:1: epochs must be at least 1. Received: epochs=0"),
        ("peak_learning_rate: 0\n", r"peak_learning_rate must be above 0"),
        ("length_penalty: .inf\n", r"length_penalty must be finite"),
        ("ema_decay: 1\n", r"ema_decay must be below 1. Received: ema_decay=1.0. .* 0.999"),
        ("max_length_ratio: 1\n", r"max_length_ratio must be above 1. Received: .* example: 1.5"),
        ("length_penalty: .nan\n", r"length_penalty must be at least 0"),
        ("epochs: 1\nepochs: 2\n", r"settings.yaml:2: a setting must be given once. Received: "
         r"epochs again, first on line 1"),
        ("train_corpora:\n- source: a.tsv\n  source: b.tsv\n", r"settings.yaml:3: .* Received: "
         r"source twice in one mapping"),
        ("- epochs\n", r"settings.yaml: a settings file must hold `name: value` lines"),
        ("", r"settings.yaml: a settings file must hold `name: value` lines"),
        ("epochs: [1\n", r"settings.yaml:2: the settings file must be plain YAML"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\n", r"settings.yaml:1: every key must be a setting"),
        (BOMB, r"settings.yaml:\d+: .* more than 50,000 values, with references written out"),
        (MERGED_BOMB, r"settings.yaml:\d+: .* more than 50,000 values"),
        ("train_source: &a [*a]\n", r"settings.yaml:1: .* a part within itself"),
        ("epochs: " + "[" * 5000, r"settings.yaml:1: .* values nested too deeply"),
        ("epochs: " + "9" * 5000, r"settings.yaml:1: .* more than 100 digits"),
        ("epochs: [" + "1:" * 20_000 + "1]", r"settings.yaml:1: .* more than 100 digits"),
        ("epochs: 2026-13-45\n", r"settings.yaml:1: .* a value that does not fit its type"),
        ("epochs: " + "x" * 5000, r"settings.yaml:1: epochs must be .{0,300}\. Correct the line"),
        ("#" * 2**21, r"settings.yaml: a settings file must have at most 1,048,576 bytes"),
        ("epochs: !!python/object/apply:os.getpid []\n", r"settings.yaml:1: .* could not determine "
         r"a constructor"),
        ("train_corpora:\n- source: a.tsv\n- target: b\n", r"settings.yaml:3: Each of "
         r"train_corpora must have a source"),
        ("train_corpora:\n- source: a.tsv\n  weight: 0\n", r"settings.yaml:2: weight must be "
         r"greater than 0"),
        ("train_corpora: [{source: a,\n columns: [1]}]\n", r"settings.yaml:1: columns must be two"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_its_file_and_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_settings_file(settings_file(tmp_path, text))


def test_a_missing_settings_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml: the settings file must be readable"):
        read_settings_file(tmp_path / "absent.yaml")


def test_a_settings_file_that_is_not_utf_8_is_named(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"train_source: caf\xe9\n")
    with pytest.raises(InputError, match=r"latin\.yaml: the settings file must be plain YAML"):
        read_settings_file(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_dim": 10, "num_heads": 3}, "model_dim must be a multiple of num_heads"),
        ({"position_encoding": "learned", "max_positions": 100}, "max_length must be at most"),
        ({"monitor": "val_bleu"}, "monitor must be val_perplexity unless validation_bleu"),
        ({"sampling": 0.1}, "sampling needs steps_per_epoch, .* Received: sampling=0.1"),
        ({"tokenizer": "a", "initial_run": "b"}, "tokenizer must not be given with initial_run"),
        (
            {"train_corpora": [{"source": "a"}], "train_source": "b"},
            "train_corpora must be the only text",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, message):
    with pytest.raises(InputError, match=f"^{message}"):
        make_settings(values)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("model_dim: 100\n\nnum_heads: 3\nseed: 5\n", [], "{file}:3: model_dim must be a multiple"),
        (
            "seed: 5\nmodel_dim: 100\n",
            ["--num-heads", "3"],
            "{file}:2: model_dim must be a multiple",
        ),
        ("model_dim: 96\nnum_heads: 3\n", ["--model-dim", "100"], "{file}:2: model_dim must be a"),
        (
            "model_dim: 96\nnum_heads: 4\n",
            ["--model-dim", "100", "--num-heads", "3"],
            "model_dim must be a multiple",
        ),
        (
            "train_source: a\ntrain_corpora:\n- source: b\n",
            [],
            "{file}:1: train_corpora must be the only text",
        ),
    ],
)
def test_a_contradiction_is_reported_with_its_last_line(tmp_path, capfd, text, options, message):
    path = settings_file(tmp_path, text)
    assert run_command(main, ["--config", str(path), "--output", "r", *options]) == 1
    assert capfd.readouterr().err.startswith("error: " + message.format(file=path))


def test_missing_data_settings_are_named_as_options():
    settings = make_settings({"train_source": "a", "train_target": "b"})
    with pytest.raises(InputError, match="no --validation-source, --validation-target"):
        settings.corpora()


VALIDATION = {"validation_source": "v.en", "validation_target": "v.de"}


@pytest.mark.parametrize(
    ("values", "corpora"),
    [
        ({"train_source": "a.en", "train_target": "a.de"}, [Corpus("a.en", "a.de")]),
        ({"train_source": "*.en", "train_target": "*.de"}, [Corpus("*.en", "*.de")]),
        ({"train_source": "pairs-*.tsv.gz"}, [Corpus("pairs-*.tsv.gz")]),
        ({"train_source": "a.tsv.GZ"}, [Corpus("a.tsv.GZ")]),
        ({"train_source": ["a.TSV.xz", "b.tsv.bz2"]}, [Corpus(["a.TSV.xz", "b.tsv.bz2"])]),
        ({"train_source": ["a.tsv", "b.tsv"]}, [Corpus(["a.tsv", "b.tsv"])]),
        (
            {
                "train_corpora": [
                    {"source": "a.en", "target": "a.de", "weight": 2},
                    {"source": "b.tsv", "columns": [2, 3]},
                ]
            },
            [Corpus("a.en", "a.de", 2), Corpus("b.tsv", columns=(2, 3))],
        ),
    ],
)
def test_training_text_can_be_named_in_several_ways(values, corpora):
    assert make_settings({**values, **VALIDATION}).corpora() == corpora


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no --train-source, --train-target. Give"),
        ({"train_source": "pairs.txt"}, "no --train-target. Give"),
        ({"train_source": ["a.tsv", "b.en"]}, "no --train-target. Give"),
        ({"train_corpora": []}, "no --train-corpora. Give"),
        ({"train_corpora": [{"target": "a"}]}, "Each of train_corpora must have a source"),
        ({"train_corpora": [{"source": "a", "wieght": 2}]}, "Each of train_corpora must have"),
        ({"train_corpora": [{"source": "a", "weight": "2"}]}, r"weight \(a number\)"),
        ({"train_corpora": [{"source": "a", "weight": 0}]}, "weight must be greater than 0"),
        ({"train_corpora": [{"source": "a", "columns": 2}]}, r"columns \(two numbers\)"),
        ({"train_corpora": [{"source": "a", "columns": [1]}]}, "columns must be two different"),
    ],
)
def test_wrongly_named_training_text_is_refused(values, message):
    with pytest.raises(input_errors(), match=message):
        make_settings({**values, **VALIDATION}).corpora()


def test_corpora_can_be_given_in_a_file_and_on_the_command_line(tmp_path):
    (tmp_path / "a.yaml").write_text("train_corpora:\n- source: a.tsv\n  weight: 0.5\n")
    from_file = read_settings_file(tmp_path / "a.yaml")["train_corpora"]
    option = '--train-corpora=[{"source": "a.tsv", "weight": 0.5}]'
    from_option = parse(make_settings_parser(), [option]).train_corpora
    assert from_file == from_option == [{"source": "a.tsv", "weight": 0.5}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], r"unrecognized arguments: --epoch 3. Did you mean --epochs\?"),
        (["--batch_tokens=3"], r"Did you mean --batch-tokens\?"),
        (["--epochs", "x"], r"--epochs must be a whole number. Received: x"),
        (["--beam-size", "1.5"], r"--beam-size must be a whole number. Received: 1.5"),
    ],
)
def test_a_wrong_option_gives_one_line_and_exit_code_2(capfd, arguments, message):
    assert run_command(main, ["--output", "run", *arguments]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)


def test_an_option_out_of_range_gives_one_line_and_exit_code_1(capfd):
    assert run_command(main, ["--output", "run", "--dropout", "1.5"]) == 1
    assert capfd.readouterr().err == (
        "error: dropout must be below 1. Received: dropout=1.5. For example: 0.1.\n"
    )


def test_an_option_overrides_the_file(tmp_path, capfd):
    path = settings_file(tmp_path, "dropout: 0.5\n")
    # The error is about the option's value, which overrides the file's.
    assert run_command(main, ["--config", str(path), "--output", "r", "--dropout", "2"]) == 1
    assert "Received: dropout=2.0" in capfd.readouterr().err


def test_help_names_every_setting(capfd):
    with pytest.raises(SystemExit, match="0"):
        run_command(main, ["--help"])
    text = capfd.readouterr().out
    for name in FIELDS:
        assert f"--{name.replace('_', '-')}" in text
