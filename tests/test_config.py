import dataclasses

import pytest

from keras_transformer.config import TABLE_3, TransformerConfig

# Table 3 as printed, from left to right: N, d_model, d_ff, h, d_k, d_v, P_drop, epsilon_ls.
# d_k = d_v = d_model / h where the base model's columns are left empty.
PRINTED_ROWS = {
    "base": (6, 512, 2048, 8, 64, 64, 0.1, 0.1),
    "A_heads_1": (6, 512, 2048, 1, 512, 512, 0.1, 0.1),
    "A_heads_4": (6, 512, 2048, 4, 128, 128, 0.1, 0.1),
    "A_heads_16": (6, 512, 2048, 16, 32, 32, 0.1, 0.1),
    "A_heads_32": (6, 512, 2048, 32, 16, 16, 0.1, 0.1),
    "B_head_dim_16": (6, 512, 2048, 8, 16, 64, 0.1, 0.1),
    "B_head_dim_32": (6, 512, 2048, 8, 32, 64, 0.1, 0.1),
    "C_layers_2": (2, 512, 2048, 8, 64, 64, 0.1, 0.1),
    "C_layers_4": (4, 512, 2048, 8, 64, 64, 0.1, 0.1),
    "C_layers_8": (8, 512, 2048, 8, 64, 64, 0.1, 0.1),
    "C_model_dim_256": (6, 256, 2048, 8, 32, 32, 0.1, 0.1),
    "C_model_dim_1024": (6, 1024, 2048, 8, 128, 128, 0.1, 0.1),
    "C_feed_forward_dim_1024": (6, 512, 1024, 8, 64, 64, 0.1, 0.1),
    "C_feed_forward_dim_4096": (6, 512, 4096, 8, 64, 64, 0.1, 0.1),
    "D_dropout_0.0": (6, 512, 2048, 8, 64, 64, 0.0, 0.1),
    "D_dropout_0.2": (6, 512, 2048, 8, 64, 64, 0.2, 0.1),
    "D_label_smoothing_0.0": (6, 512, 2048, 8, 64, 64, 0.1, 0.0),
    "D_label_smoothing_0.2": (6, 512, 2048, 8, 64, 64, 0.1, 0.2),
    "E_learned_positions": (6, 512, 2048, 8, 64, 64, 0.1, 0.1),
    "big": (6, 1024, 4096, 16, 64, 64, 0.3, 0.1),
}


def printed_columns(config):
    head_dim = config.head_dim or config.model_dim // config.num_heads
    return (
        config.num_layers,
        config.model_dim,
        config.feed_forward_dim,
        config.num_heads,
        head_dim,
        config.value_dim or head_dim,
        config.dropout,
        config.label_smoothing,
    )


@pytest.mark.parametrize("row", PRINTED_ROWS)
def test_each_row_of_table_3_has_the_printed_values(row):
    config = TransformerConfig.table3(row, vocabulary_size=37_000)
    assert printed_columns(config) == PRINTED_ROWS[row]
    learned = row == "E_learned_positions"
    assert config.position_encoding == ("learned" if learned else "sinusoidal")
    assert config.activation == "relu"
    assert not config.normalize_first


def test_every_row_of_table_3_is_there():
    assert set(TABLE_3) == set(PRINTED_ROWS)


def test_base_is_the_default():
    assert TransformerConfig.base(vocabulary_size=23) == TransformerConfig(vocabulary_size=23)


def test_tiny_is_the_model_of_wu_et_al():
    config = TransformerConfig.tiny(vocabulary_size=23)
    assert printed_columns(config) == (4, 128, 256, 4, 32, 32, 0.3, 0.1)


@pytest.mark.parametrize("name", ["tiny", "base", "big"])
def test_a_preset_takes_changes(name):
    config = getattr(TransformerConfig, name)(23, num_layers=5, dropout=0.25)
    preset = getattr(TransformerConfig, name)(23)
    assert config == dataclasses.replace(preset, num_layers=5, dropout=0.25)


def test_config_cannot_be_changed():
    config = TransformerConfig(vocabulary_size=23)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_layers = 3


@pytest.mark.parametrize(
    "name",
    [
        "num_layers",
        "model_dim",
        "feed_forward_dim",
        "num_heads",
        "head_dim",
        "value_dim",
        "max_positions",
        "max_source_tokens",
    ],
)
@pytest.mark.parametrize("value", [0, -3])
def test_sizes_start_at_one(name, value):
    message = rf"{name} must be at least 1\. Received: {name}={value}\. Choose 1 or more"
    with pytest.raises(ValueError, match=message):
        TransformerConfig(vocabulary_size=23, **{name: value})


@pytest.mark.parametrize("name", ["dropout", "label_smoothing"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 10, float("nan")])
def test_shares_are_at_least_0_and_below_1(name, value):
    message = rf"{name} must be at least 0 and below 1\. Received: {name}={value}\. Choose"
    with pytest.raises(ValueError, match=message):
        TransformerConfig(vocabulary_size=23, **{name: value})


def test_a_vocabulary_of_only_special_ids_is_refused():
    with pytest.raises(ValueError, match=r"one sub-word besides .* Received: vocabulary_size=4\."):
        TransformerConfig(vocabulary_size=4)


def test_width_that_heads_do_not_divide_is_refused():
    message = r"multiple of num_heads.* Received: model_dim=10, num_heads=3\. .*model_dim=9 or 12\."
    with pytest.raises(ValueError, match=message):
        TransformerConfig(vocabulary_size=23, model_dim=10, num_heads=3)


def test_width_need_not_be_a_multiple_if_head_dim_is_given():
    config = TransformerConfig(vocabulary_size=23, model_dim=10, num_heads=3, head_dim=4)
    assert config.head_dim == 4


def test_unknown_position_encoding_is_refused():
    with pytest.raises(ValueError, match=r"one of .*'learned'.* Received: .*='rotary'\. Choose"):
        TransformerConfig(vocabulary_size=23, position_encoding="rotary")


def test_odd_width_with_sinusoids_is_refused():
    with pytest.raises(ValueError, match=r"must be even.* Received: model_dim=15\. .*model_dim=16"):
        TransformerConfig(vocabulary_size=23, model_dim=15, num_heads=3)


def test_odd_width_with_learned_positions_is_accepted():
    config = TransformerConfig(
        vocabulary_size=23, model_dim=15, num_heads=3, position_encoding="learned"
    )
    assert config.model_dim == 15


def test_unknown_row_of_table_3_is_refused():
    with pytest.raises(ValueError, match=r"Received: row='F'\. Choose one of base, A_heads_1, "):
        TransformerConfig.table3("F", vocabulary_size=23)


def test_learned_positions_have_room_for_a_translation():
    settings = {"position_encoding": "learned", "max_source_tokens": 100}
    message = r"max_positions must be at least max_source_tokens \+ 50 .* Choose max_positions=150"
    with pytest.raises(ValueError, match=message):
        TransformerConfig(vocabulary_size=23, max_positions=149, **settings)
    assert TransformerConfig(vocabulary_size=23, max_positions=150, **settings)


@pytest.mark.parametrize(
    ("model_dim", "choice"), [(4, r"model_dim=8\."), (12, r"model_dim=8 or 16\.")]
)
def test_the_error_for_a_width_that_heads_do_not_divide_suggests_the_nearest(model_dim, choice):
    with pytest.raises(ValueError, match=rf"multiple of num_heads .* Choose {choice}"):
        TransformerConfig(vocabulary_size=23, model_dim=model_dim, num_heads=8)
