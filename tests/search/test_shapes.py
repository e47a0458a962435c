import keras

from keras_transformer.search.shapes import as_length
from tests.random_models import ON_TENSORFLOW


def test_a_length_to_allocate_by_is_a_number_where_shapes_are_fixed():
    length = as_length(keras.ops.convert_to_tensor(7))
    assert int(length) == 7
    assert isinstance(length, int) != ON_TENSORFLOW
