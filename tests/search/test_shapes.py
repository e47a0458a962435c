import keras

from keras_transformer.search.shapes import as_length
from tests.random_models import ON_TENSORFLOW


def test_with_fixed_shapes_the_allocation_length_is_an_int():
    length = as_length(keras.ops.convert_to_tensor(7))
    assert int(length) == 7
    assert isinstance(length, int) != ON_TENSORFLOW
