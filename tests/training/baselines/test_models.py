"""Each baseline has the properties that the Transformer must have."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.decoding import precision
from keras_transformer.decoding.precision import inference_model
from keras_transformer.decoding.steps import decoding_steps
from keras_transformer.layers import attention
from keras_transformer.losses import LabelSmoothedCrossentropy
from keras_transformer.model import (
    cross_attention_weights,
    has_cross_attention,
)
from keras_transformer.search.beam import beam_search
from keras_transformer.search.hypotheses import length_penalty_of
from keras_transformer.search.scoring import score
from keras_transformer.search.state import reorder_beams
from tests.random_models import (
    BATCH,
    END,
    SOURCE_LENGTH,
    START,
    TARGET_LENGTH,
    VOCABULARY,
    numbers,
    random_ids,
    random_vectors,
    randomize,
    with_the_same_dropout,
)
from training.baselines import build_convolutional, build_recurrent, convolutional
from training.baselines.convolutional import (
    ConvolutionalDecoderBlock,
    ConvolutionalEncoderBlock,
    GatedConvolution,
)

NAMES = ("gru", "lstm", "gru_attention", "lstm_attention", "convolution")
ATTENTIVE = ("gru_attention", "lstm_attention", "convolution")
NUM_LAYERS, MODEL_DIM, RECURRENT_DIM = 2, 12, 10


def build(name, **changes):
    sizes = {"vocabulary_size": VOCABULARY, "num_layers": NUM_LAYERS, "model_dim": MODEL_DIM}
    if name == "convolution":
        return build_convolutional(**{**sizes, **changes})
    cell, _, attention = name.partition("_")
    sizes |= {"cell": cell, "attention": bool(attention), "recurrent_dim": RECURRENT_DIM}
    return build_recurrent(**{**sizes, **changes})


@pytest.fixture(scope="module")
def models():
    return {name: randomize(build(name)) for name in NAMES}


@pytest.fixture(params=NAMES)
def model(models, request):
    return models[request.param]


@pytest.fixture(params=ATTENTIVE)
def attentive_model(models, request):
    return models[request.param]


def source_ids():
    """Two sources that end with the end id; the first has two positions of padding."""
    ids = random_ids(BATCH, SOURCE_LENGTH)
    ids[:, -1] = END
    ids[0, 2:] = [END, 0, 0]
    return ids


def target_ids(seed=8):
    ids = random_ids(BATCH, TARGET_LENGTH, seed=seed)
    ids[:, 0] = START
    return ids


def logits_of(model, source, target, **options):
    return numbers(model({"source_ids": source, "target_ids": target}, **options))


def assert_close(actual, expected, atol=1e-5):
    np.testing.assert_allclose(numbers(actual), numbers(expected), atol=atol, rtol=1e-5)


def test_logits_are_float32_of_each_target_position(model):
    logits = logits_of(model, source_ids(), target_ids())
    assert logits.shape == (BATCH, TARGET_LENGTH, VOCABULARY)
    assert logits.dtype == np.float32


def test_future_tokens_do_not_change_earlier_logits(model):
    changed = target_ids()
    changed[:, 4:] = target_ids(seed=99)[:, 4:]
    before, after = with_the_same_dropout(
        model,
        [
            lambda target=target: model(
                {"source_ids": source_ids(), "target_ids": target}, training=True
            )
            for target in (target_ids(), changed)
        ],
    )
    assert_close(after[:, :4], before[:, :4])
    assert not np.allclose(after[:, 4:], before[:, 4:], atol=1e-3)


def test_padding_after_a_source_changes_nothing(model):
    source = source_ids()
    longer = np.pad(source, [(0, 0), (0, 3)])
    assert_close(logits_of(model, longer, target_ids()), logits_of(model, source, target_ids()))
    alone = logits_of(model, source[:1, :3], target_ids()[:1])
    assert_close(logits_of(model, source, target_ids())[:1], alone)


def test_padding_after_a_target_changes_nothing(model):
    longer = np.pad(target_ids(), [(0, 0), (0, 2)])
    logits = logits_of(model, source_ids(), longer)[:, :TARGET_LENGTH]
    assert_close(logits, logits_of(model, source_ids(), target_ids()))


@pytest.mark.parametrize("position", range(SOURCE_LENGTH))
def test_every_source_token_affects_the_logits(model, position):
    changed = source_ids()[1:]
    changed[0, position] = 4 + (changed[0, position] - 3) % (VOCABULARY - 4)
    before = logits_of(model, source_ids()[1:], target_ids()[1:])
    assert np.abs(logits_of(model, changed, target_ids()[1:]) - before).max() > 1e-3


def decoded(model, source, targets):
    """Returns the logits of every position, decoded step by step.

    Args:
        targets: Integer (batch, beams, length).
    """
    encode, initial_state, step = decoding_steps(model)
    _, beams, length = targets.shape
    state = initial_state(encode(source), beams, max_length=length)
    found = []
    for position in range(length):
        logits, state = step(ops.convert_to_tensor(targets[:, :, position]), state)
        found.append(numbers(logits))
    return np.stack(found, axis=2)  # (batch, beams, length, vocabulary)


def test_step_by_step_equals_the_full_pass_for_each_beam(model):
    targets = np.stack([target_ids(seed) for seed in (8, 9, 10)], axis=1)
    stepwise = decoded(model, source_ids(), targets)
    for beam in range(3):
        full = logits_of(model, source_ids(), targets[:, beam])
        assert_close(stepwise[:, beam], full)


def test_reordered_beams_continue_from_their_own_states(model):
    encode, initial_state, step = decoding_steps(model)
    targets = np.stack([target_ids(8), target_ids(9)], axis=1)
    state = initial_state(encode(source_ids()), 2, max_length=TARGET_LENGTH)
    for position in range(4):
        _, state = step(ops.convert_to_tensor(targets[:, :, position]), state)
    order = np.array([[1, 0], [1, 1]], "int32")
    targets = np.stack([row[beams] for row, beams in zip(targets, order, strict=True)])
    logits, _ = step(
        ops.convert_to_tensor(targets[:, :, 4]), reorder_beams(state, ops.convert_to_tensor(order))
    )
    for beam in range(2):
        full = logits_of(model, source_ids(), targets[:, beam])
        assert_close(logits[:, beam], full[:, 4])


def searched(model, source, longest=4):
    encode, initial_state, step = decoding_steps(model)
    return beam_search(
        step,
        initial_state(encode(source), 2, max_length=longest),
        start_id=START,
        end_id=END,
        max_length=np.full(len(source), longest, "int32"),
        beam_size=2,
        num_results=2,
        barred_ids=(0, 1, 2),
    )


def test_search_scores_equal_those_of_the_full_pass_in_any_batch(model):
    found = searched(model, source_ids())
    for beam in range(2):
        log_probability, num_tokens = score(
            model, source_ids(), found.token_ids[:, beam], start_id=START
        )
        penalty = numbers(length_penalty_of(ops.cast(num_tokens, "float32"), 0.6, "gnmt"))
        assert_close(found.scores[:, beam], numbers(log_probability) / penalty, atol=1e-4)
    alone = searched(model, source_ids()[:1, :3])
    np.testing.assert_array_equal(numbers(found.token_ids)[:1], numbers(alone.token_ids))
    assert_close(found.scores[:1], alone.scores)


def test_a_saved_model_loads_unchanged(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(loaded) is type(model)
    expected = logits_of(model, source_ids(), target_ids())
    np.testing.assert_array_equal(logits_of(loaded, source_ids(), target_ids()), expected)
    targets = target_ids()[:, None]
    assert_close(decoded(loaded, source_ids(), targets)[:, 0], expected)


@pytest.mark.parametrize("kind", precision.PRECISIONS)
@pytest.mark.parametrize("name", ["gru", "lstm_attention", "convolution"])
def test_each_precision_gives_the_same_logits_in_steps_and_in_one_pass(
    models, name, kind, monkeypatch
):
    model = models[name]
    monkeypatch.setattr(precision, "_FEWEST_WEIGHTS_IN_8_BITS", 1)
    monkeypatch.setattr(precision, "_FEWEST_WEIGHTS_IN_PANELS", 1)
    other = inference_model(model, kind)
    full, expected = (logits_of(m, source_ids(), target_ids()) for m in (other, model))
    stepwise = decoded(other, source_ids(), target_ids()[:, None])[:, 0]
    rounding = (1e-5 if kind == "float32" else 0.05) * np.abs(expected).max()
    assert_close(full, expected, atol=rounding)
    # A sum in a different order may round to the next number.
    assert_close(stepwise, full, atol=1e-5 if kind == "float32" else rounding)
    if kind != "float32":
        assert np.abs(full - expected).max() > 1e-4  # it is rounded


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_a_decoder_without_attention_reads_one_vector_per_source(models, name):
    """The vector has the same size for sources of any length, and every step reads it."""
    encode, initial_state, step = decoding_steps(models[name])
    for length in (2, SOURCE_LENGTH):
        vector = encode(random_ids(BATCH, length))
        assert vector.shape == (BATCH, RECURRENT_DIM)
    state = initial_state(vector, 2, max_length=9)
    shapes = [tuple(x.shape) for x in keras.tree.flatten((state.per_beam, state.per_sentence))]
    num_states = 2 if name == "lstm" else 1
    of_beams = [(BATCH, 2, RECURRENT_DIM)] * (NUM_LAYERS * num_states)
    assert shapes == [*of_beams, (BATCH, 1, RECURRENT_DIM)]
    # Each step reads the vector again, not only the first state (Cho et al. 2014).
    tokens = ops.convert_to_tensor(random_ids(BATCH, 2))
    read, _ = step(tokens, state)
    unread, _ = step(tokens, state._replace(per_sentence=state.per_sentence * 0))
    assert np.abs(numbers(read) - numbers(unread)).max() > 1e-3


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_a_model_without_attention_has_no_weights_to_show(models, name):
    assert not has_cross_attention(models[name])
    with pytest.raises(TypeError, match="cross_attention_weights needs a model of a registered"):
        cross_attention_weights(models[name], source_ids(), target_ids())


def test_attention_goes_to_real_tokens_only_and_sums_to_1(attentive_model):
    assert has_cross_attention(attentive_model)
    weights = numbers(cross_attention_weights(attentive_model, source_ids(), target_ids()))
    assert weights.shape == (BATCH, 1, TARGET_LENGTH, SOURCE_LENGTH)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    assert (weights[0, :, :, 3:] == 0).all()
    assert (weights[1] > 0).all()
    assert weights[1].std(axis=-1).min() > 1e-3  # not spread evenly


def test_the_weights_shown_are_the_last_that_the_model_computes(attentive_model, monkeypatch):
    computed, compute = [], attention.attention_weights

    def recorded(*arguments):
        computed.append(compute(*arguments))
        return computed[-1]

    with monkeypatch.context() as patch:
        for module in (attention, convolutional):
            patch.setattr(module, "attention_weights", recorded)
        logits_of(attentive_model, source_ids(), target_ids())
    shown = numbers(cross_attention_weights(attentive_model, source_ids(), target_ids()))
    assert_close(shown, numbers(computed[-1]).reshape(shown.shape))


def test_a_convolutional_decoder_equals_that_of_the_paper(models):
    """Compares with the equations of a decoder's last layer (Gehring et al. 2017, section 3.3)."""
    model = models["convolution"]
    weights = numbers(cross_attention_weights(model, source_ids(), target_ids()))[:, 0]
    embedded_source = numbers(model.embedding(source_ids()))
    embedded = numbers(model.embedding(target_ids()))
    memory = embedded_source
    for block in model.encoder_blocks:
        memory = numbers(block(memory, padding_mask=source_ids() != 0))
    values = (memory + embedded_source) * 0.5**0.5
    mask = (source_ids() != 0)[:, None]
    first, last = model.decoder_blocks
    x = numbers(first(embedded, embedded, memory, values, attention_mask=mask))
    hidden = numbers(last.convolution(x))
    context = numbers(last.context_projection(weights @ values))
    expected = ((hidden + context) * 0.5**0.5 + x) * 0.5**0.5
    assert_close(last(x, embedded, memory, values, attention_mask=mask), expected)
    logits = numbers(model.get_layer("output")(expected)) @ numbers(model.embedding.embeddings).T
    assert_close(logits_of(model, source_ids(), target_ids()), logits)


@pytest.mark.parametrize("causal", [False, True])
def test_a_gated_convolution_equals_that_of_keras(causal):
    layer = randomize(built(GatedConvolution(4, kernel_size=3, causal=causal), (None, None, 5)))
    inputs = random_vectors(BATCH, SOURCE_LENGTH, 5)
    other = keras.layers.Conv1D(8, 3, padding="causal" if causal else "same")
    other.build((None, None, 5))
    kernel, bias = layer.kernel.get_weights()
    other.set_weights([kernel.reshape(3, 5, 8), bias])
    values, gates = np.split(numbers(other(inputs)), 2, axis=-1)
    assert_close(layer(inputs), values / (1 + np.exp(-gates)))


def test_a_convolution_sees_zeros_instead_of_padding():
    layer = randomize(built(GatedConvolution(4, kernel_size=3), (None, None, 5)))
    inputs = random_vectors(BATCH, SOURCE_LENGTH, 5)
    mask = np.arange(SOURCE_LENGTH) < np.array([[3], [SOURCE_LENGTH]])
    padded = layer(inputs, padding_mask=mask)
    assert_close(padded, layer(inputs * mask[:, :, None]))
    assert_close(padded[:1, :3], layer(inputs[:1, :3]))


def test_a_new_gated_convolution_has_the_variance_of_appendix_a():
    """For inputs of variance 1, a and b have variance 4, a * sigmoid(b) 4 E[sigmoid(b)^2]."""
    layer = GatedConvolution(256, kernel_size=3, dropout=0.2)
    outputs = numbers(layer(random_vectors(50, 20, 256), training=True))
    b = 2 * random_vectors(100_000)
    expected = 4 * np.mean((1 / (1 + np.exp(-b))) ** 2)
    assert outputs[:, 1:-1].var() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("kernel_size", "num_layers"), [(3, 2), (5, 1)])
def test_convolutional_decoders_see_as_far_back_as_their_kernels_reach(kernel_size, num_layers):
    model = randomize(build("convolution", kernel_size=kernel_size, num_layers=num_layers))
    changed = target_ids()
    changed[:, 0] = 9
    before, after = (logits_of(model, source_ids(), target) for target in (target_ids(), changed))
    reach = num_layers * (kernel_size - 1)
    differences = np.abs(after - before).max(axis=(0, 2))
    assert (differences[: reach + 1] > 1e-4).all()
    assert_close(after[:, reach + 1 :], before[:, reach + 1 :])
    assert_close(decoded(model, source_ids(), changed[:, None])[:, 0], after)


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel_size must be odd.*kernel_size=4. Choose 5"):
        GatedConvolution(4, kernel_size=4)


def test_an_unknown_cell_is_refused():
    with pytest.raises(ValueError, match=r"cell must be one of \('gru', 'lstm'\).*cell='rnn'"):
        build_recurrent(cell="rnn", attention=True, vocabulary_size=VOCABULARY)


def test_training_applies_dropout_in_every_layer(model):
    def logits(training):
        inputs = {"source_ids": source_ids(), "target_ids": target_ids()}
        return numbers(model(inputs, training=training))

    assert np.abs(logits(True) - logits(False)).max() > 1e-3
    rates = {
        layer.rate for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dropout)
    }
    assert rates >= {0.1}
    assert rates <= {0.1, 0.0}  # none of the attention weights


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_trains_near_float32(policy):
    """From the same weights, three steps have nearly the same losses, and so gradients."""
    losses = {}
    for name in ("gru_attention", "convolution"):
        for kind in ("float32", policy):
            keras.config.set_dtype_policy(kind)
            try:
                model = build(name, dropout=0.0)
            finally:
                keras.config.set_dtype_policy("float32")
            randomize(model)
            model.compile(optimizer=keras.optimizers.SGD(0.1), loss=LabelSmoothedCrossentropy(0.1))
            inputs = {"source_ids": source_ids(), "target_ids": target_ids()}
            labels = random_ids(BATCH, TARGET_LENGTH, seed=5)
            losses[kind] = [model.train_on_batch(inputs, labels) for _ in range(3)]
        assert losses["float32"][2] < losses["float32"][0]
        np.testing.assert_allclose(losses[policy], losses["float32"], rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTENTIVE)
def test_with_attention_a_model_learns_to_reverse(name):
    keras.utils.set_random_seed(3)
    model = build(
        name,
        num_layers=2,
        model_dim=32,
        dropout=0.0,
        **({} if name == "convolution" else {"recurrent_dim": 32}),
    )
    rate = keras.optimizers.schedules.CosineDecay(0.01, decay_steps=16 * 40)
    model.compile(
        optimizer=keras.optimizers.Adam(rate, clipnorm=1.0), loss=LabelSmoothedCrossentropy(0.0)
    )
    source, target = reversal_pairs(2000)
    inputs = {"source_ids": source, "target_ids": target[:, :-1]}
    model.fit(inputs, target[:, 1:], batch_size=50, epochs=16, verbose=0)
    source, target = reversal_pairs(100, seed=1)
    found = numbers(searched(model, source, longest=8).token_ids)[:, 0]
    right = [
        list(row[row != 0]) == list(expected[expected != 0])
        for row, expected in zip(found, target[:, 1:], strict=True)
    ]
    assert np.mean(right) > 0.9


def reversal_pairs(num_pairs, seed=0):
    """Returns sources of 2 to 6 tokens, and targets: START, the reversed tokens, END."""
    generator = np.random.default_rng(seed)
    source, target = np.zeros((num_pairs, 7), "int32"), np.zeros((num_pairs, 8), "int32")
    for row in range(num_pairs):
        tokens = generator.integers(4, VOCABULARY, generator.integers(2, 7))
        source[row, : len(tokens) + 1] = [*tokens, END]
        target[row, : len(tokens) + 2] = [START, *tokens[::-1], END]
    return source, target


def built(layer, *shapes):
    layer.build(*shapes)
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        ConvolutionalEncoderBlock(5, 0.3),
        ConvolutionalDecoderBlock(5, 0.3),
        GatedConvolution(4, 5, True, 0.3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_config_gives_back_the_layer(layer):
    config = type(layer).from_config(layer.get_config()).get_config()
    assert config == layer.get_config()
    assert config["kernel_size"] == 5
