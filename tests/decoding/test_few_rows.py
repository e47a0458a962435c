import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.decoding.few_rows import matmul_of_few_rows
from tests.random_models import numbers


def random(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype("float32")


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("axes", [(), (2, 3)], ids=["a matrix", "many"])
def test_the_product_of_few_rows_equals_the_usual_product(axes, rows):
    x, y = random(*axes, rows, 4), random(*axes, 4, 6)
    expected = x @ y
    found = matmul_of_few_rows(ops.convert_to_tensor(x), ops.convert_to_tensor(y))
    np.testing.assert_allclose(numbers(found), expected, atol=1e-6)
    turned = ops.convert_to_tensor(np.swapaxes(y, -1, -2))
    found = matmul_of_few_rows(ops.convert_to_tensor(x), turned, transpose_y=True)
    np.testing.assert_allclose(numbers(found), expected, atol=1e-6)


def test_half_precision_inputs_give_half_precision_products():
    x, y = (ops.cast(random(*shape), "bfloat16") for shape in ((1, 4), (4, 6)))
    found = matmul_of_few_rows(x, y)
    assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"
    np.testing.assert_allclose(
        numbers(ops.cast(found, "float32")), random(1, 4) @ random(4, 6), atol=0.1
    )
