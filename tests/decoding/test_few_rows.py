import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.decoding.few_rows import matmul_of_few_rows
from keras_transformer.layers.attention import scaled_dot_product_attention
from tests.random_models import TENSORFLOW_ONLY, numbers


def random(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype("float32")


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("axes", [(), (2, 3)], ids=["a matrix", "many"])
def test_it_is_the_product(axes, rows):
    x, y = random(*axes, rows, 4), random(*axes, 4, 6)
    expected = x @ y
    found = matmul_of_few_rows(ops.convert_to_tensor(x), ops.convert_to_tensor(y))
    np.testing.assert_allclose(numbers(found), expected, atol=1e-6)
    turned = ops.convert_to_tensor(np.swapaxes(y, -1, -2))
    found = matmul_of_few_rows(ops.convert_to_tensor(x), turned, transpose_y=True)
    np.testing.assert_allclose(numbers(found), expected, atol=1e-6)


def test_half_precisions_stay_what_they_are():
    x, y = (ops.cast(random(*shape), "bfloat16") for shape in ((1, 4), (4, 6)))
    found = matmul_of_few_rows(x, y)
    assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"
    np.testing.assert_allclose(
        numbers(ops.cast(found, "float32")), random(1, 4) @ random(4, 6), atol=0.1
    )


@TENSORFLOW_ONLY
def test_attention_multiplies_by_it_where_there_is_one_query():
    import tensorflow as tf

    def operations(query_length):
        spec = tf.TensorSpec([None, 2, None, 4])
        query = tf.TensorSpec([None, 2, query_length, 4])
        graph = tf.function(scaled_dot_product_attention).get_concrete_function(query, spec, spec)
        return [op.type for op in graph.graph.get_operations() if "MatMul" in op.type]

    assert operations(1) == ["BatchMatMulV3", "BatchMatMulV3"]
    assert operations(3) == operations(None) == ["BatchMatMulV2", "BatchMatMulV2"]


def test_attention_of_one_query_is_that_of_the_same_query_among_others():
    query, key, value = random(2, 3, 5, 4), random(2, 3, 7, 4), random(2, 3, 7, 6)
    together = numbers(scaled_dot_product_attention(query, key, value))
    alone = numbers(scaled_dot_product_attention(query[:, :, 1:2], key, value))
    np.testing.assert_allclose(alone, together[:, :, 1:2], atol=1e-6)


def test_a_model_may_be_built_of_it():
    query, key = keras.Input((2, 1, 4)), keras.Input((2, 7, 4))
    model = keras.Model([query, key], scaled_dot_product_attention(query, key, key))
    inputs = [random(3, 2, 1, 4), random(3, 2, 7, 4)]
    expected = numbers(scaled_dot_product_attention(*inputs, inputs[1]))
    np.testing.assert_allclose(numbers(model(inputs)), expected, atol=1e-6)
