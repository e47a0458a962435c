"""Makes copies of models that only translate, in any of several precisions.

A model may translate in a different precision than it was trained in: bfloat16 has half the bits of
float32 and int8 a quarter, which are read faster and, on newer processors, multiplied faster.
"""

from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_transformer.decoding.few_rows import matmul_of_few_rows
from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.layers.heads import MultiHeadLayer
from keras_transformer.layers.normalization import LayerNormalization, layer_normalization
from keras_transformer.tensors import Tensor

PRECISIONS = ("float32", "bfloat16", "int8", "int8_bfloat16")

# Smaller products take less time than rounding their factors.
_FEWEST_WEIGHTS_IN_8_BITS = 2**16

# Smaller kernels stay in the processor's cache, whatever their order. With fewer inputs, the usual
# product is so quick that panels save less time than reordering their outputs takes.
_FEWEST_WEIGHTS_IN_PANELS = 2**19
_FEWEST_INPUTS_OF_PANELS = 256
# Uses the first that divides the number of outputs, so that none must be cut off, or else 64.
_PANEL_WIDTHS = (64, 80, 96, 48, 112)

# Keeps scales above 0; no weight and no vector is this small.
_SMALLEST = 1e-30

Function: TypeAlias = Callable[[Tensor], Tensor]


def inference_model(model: keras.Model, precision: str) -> keras.Model:
    """Makes a copy of a model that only translates, with the model's current weights.

    float32: everything, whatever policy the model was trained with.
    bfloat16: weights and products; softmax, normalization and logits stay float32.
    int8: the weights of linear maps, with a scale for each output, and their inputs, with a scale
        for each row, so that no sentence changes another. All else is float32. It pays off on
        processors that multiply 8 bits (Intel since 2019, AMD since 2022). On TensorFlow it needs
        an x86 processor, and large sums overflow on older processors.
    int8_bfloat16: int8, but with attention's queries, keys and values in bfloat16, which halves the
        memory that beams read. It pays off for beams on processors that also multiply bfloat16
        (Intel since 2023, AMD since 2022).

    Args:
        model: A functional model.
        precision: One of `PRECISIONS`.

    Returns:
        A model of the same class. It cannot be trained, saved, copied or pickled, because no file
        format holds its parts. Save the original model instead.

    Raises:
        ValueError: If the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision must be one of {PRECISIONS}. Received: precision={precision!r}. Choose one"
            " of them."
        )
    policy = "bfloat16" if precision == "bfloat16" else "float32"

    def with_policy(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.Layer):  # not one of Keras' functions
            config["dtype"] = policy
        if "dropout" in config:
            config["dropout"] = 0.0  # a seed generator would leak 20 kB
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=with_policy)
    if hasattr(model, "max_source_tokens"):  # Keras clones only the graph
        copy.max_source_tokens = model.max_source_tokens
    copy.set_weights(model.get_weights())
    copy.trainable = False
    for layer in copy._flatten_layers():
        if isinstance(layer, PositionalEmbedding):
            if layer.name != "source_embedding":  # which gives no logits
                layer.logits = Logits(layer, precision)  # type: ignore[method-assign]
        else:
            _replace_parts(layer, precision)
        if isinstance(layer, MultiHeadLayer) and precision == "int8_bfloat16":
            _attend_in_bfloat16(layer)
    # The first two refuse before half a file is written; every other way to write, copy, pickle or
    # load a Keras model calls one of the others.
    for name in ("save", "save_weights", "get_config", "save_own_variables", "load_own_variables"):
        setattr(copy, name, _refuse_to_be_saved)
    return copy


def _refuse_to_be_saved(*_: Any, **__: Any) -> NoReturn:
    raise TypeError(
        "A model that is saved, copied or pickled must not come from inference_model. Received: a"
        " model from it, whose weights are rounded or reordered. Use the original model, which is a"
        " Translator's `model`, and call inference_model again later."
    )


def _replace_parts(layer: keras.Layer, precision: str) -> None:
    for name, part in list(vars(layer).items()):
        if isinstance(part, LayerNormalization):
            setattr(layer, name, FixedNormalization(part))
        elif isinstance(part, keras.layers.Dense):
            product = _faster_product(part.kernel, precision)
            if product is not None:
                setattr(layer, name, product(part.kernel, part.bias, part.activation))


def _attend_in_bfloat16(layer: MultiHeadLayer) -> None:
    """Rounds the queries, keys and values that attention reads; its output stays float32."""

    def rounded(part: Function) -> Function:
        return lambda x: ops.cast(part(x), "bfloat16")

    for name in ("query_key_value", "query_projection", "key_value"):
        if hasattr(layer, name):
            setattr(layer, name, rounded(getattr(layer, name)))
    project = layer.output_projection
    layer.output_projection = lambda x: project(ops.cast(x, "float32"))


class Logits:
    """Replaces the method `logits` of a PositionalEmbedding: a product, then the bias."""

    def __init__(self, layer: PositionalEmbedding, precision: str) -> None:
        kernel = ops.transpose(layer.embeddings)  # (model_dim, vocabulary)
        self.product = (_faster_product(kernel, precision) or Product)(kernel)
        # A constant, as in `Product`.
        self.bias = None if layer.bias is None else ops.convert_to_numpy(layer.bias)

    def __call__(self, x: Tensor) -> Tensor:
        logits = ops.cast(self.product(x), "float32")
        return logits if self.bias is None else logits + self.bias


def _faster_product(kernel: Tensor, precision: str) -> type["Product"] | None:
    """Returns the class that multiplies by a kernel faster than Keras' Dense, or None."""
    num_weights = np.prod(kernel.shape)
    if precision.startswith("int8") and num_weights >= _FEWEST_WEIGHTS_IN_8_BITS:
        return Int8Product
    if precision == "bfloat16" or keras.backend.backend() != "tensorflow":
        return None
    if num_weights < _FEWEST_WEIGHTS_IN_PANELS:
        return FewRowsProduct
    return PanelProduct if kernel.shape[0] >= _FEWEST_INPUTS_OF_PANELS else None


class Product:
    """Computes activation(x W + b).

    Args:
        kernel: Float (inputs, outputs).
        bias: Float (outputs,), or None.
        activation: A function, or None.

    Call arguments:
        x: Float (..., inputs).

    Returns:
        Float (..., outputs).
    """

    def __init__(
        self, kernel: Tensor, bias: Tensor | None = None, activation: Function | None = None
    ) -> None:
        if not isinstance(kernel, keras.Variable):
            kernel = keras.Variable(kernel, trainable=False, dtype=kernel.dtype, name="kernel")
        self.kernel = kernel
        # A constant: reading a variable would take one more operation at each step.
        self.bias = None if bias is None else ops.convert_to_numpy(bias)
        self.activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        outputs = self._product(x)
        if self.bias is not None:
            outputs = self._biased(outputs)
        return outputs if self.activation is None else self.activation(outputs)

    def _product(self, x: Tensor) -> Tensor:
        return ops.matmul(x, self.kernel)

    def _biased(self, outputs: Tensor) -> Tensor:
        return ops.add(outputs, self.bias)


def _by_rows(product: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Extends a product that takes (rows, inputs) to (..., inputs)."""

    def by_rows(self: Any, x: Tensor) -> Tensor:
        if len(x.shape) == 2:
            return product(self, x)
        rows = product(self, ops.reshape(x, (-1, x.shape[-1])))  # (rows, outputs)
        return ops.reshape(rows, (*ops.shape(x)[:-1], rows.shape[-1]))

    return by_rows


class FixedNormalization:
    """A LayerNormalization of the last axis whose weights are constants, as in `Product`."""

    def __init__(self, layer: LayerNormalization) -> None:
        self.gamma = ops.convert_to_numpy(ops.cast(layer.gamma, "float32"))
        self.beta = ops.convert_to_numpy(ops.cast(layer.beta, "float32"))
        self.epsilon = layer.epsilon
        self.dtype = layer.compute_dtype

    def __call__(self, x: Tensor) -> Tensor:
        x = ops.cast(x, "float32")
        return ops.cast(layer_normalization(x, self.gamma, self.beta, self.epsilon), self.dtype)


class FewRowsProduct(Product):
    """A Product for few rows; see `matmul_of_few_rows`."""

    @_by_rows
    def _product(self, rows: Tensor) -> Tensor:
        return matmul_of_few_rows(rows, self.kernel)


class PanelProduct(Product):
    """A Product for few rows on TensorFlow, with the kernel cut into panels of several columns.

    A product of few rows takes as long as reading the kernel. Panels lie in memory one after the
    other, so this kernel is read sequentially.
    """

    def __init__(
        self, kernel: Tensor, bias: Tensor | None = None, activation: Function | None = None
    ) -> None:
        inputs, self.num_outputs = kernel.shape
        fitting = [width for width in _PANEL_WIDTHS if self.num_outputs % width == 0]
        width = (fitting or _PANEL_WIDTHS)[0]
        columns = ops.pad(kernel, ((0, 0), (0, -self.num_outputs % width)))
        panels = ops.reshape(columns, (inputs, -1, width))
        super().__init__(ops.transpose(panels, (1, 0, 2)), bias, activation)

    @_by_rows
    def _product(self, rows: Tensor) -> Tensor:
        import tensorflow as tf

        rows = ops.reshape(rows, (1, -1, rows.shape[-1]))  # (1, rows, inputs)
        outputs = tf.cond(
            tf.equal(tf.shape(rows)[1], 1),
            lambda: matmul_of_few_rows(rows, self.kernel),  # two rows would take twice as long
            lambda: ops.matmul(rows, self.kernel),
        )  # (panels, rows, width)
        outputs = ops.transpose(outputs, (1, 0, 2))  # (rows, panels, width)
        width = self.kernel.shape[0] * self.kernel.shape[2]
        outputs = ops.reshape(outputs, (-1, width))  # (rows, outputs filled up to whole panels)
        return outputs if width == self.num_outputs else outputs[:, : self.num_outputs]


class Int8Product(Product):
    """A Product of x and W rounded to 8 bits.

    With x_i the row i of x and w_j the column j of W, a_i = max |x_i| / 127, c_j = max |w_j| / 127:
        x_i . w_j is about a_i c_j (round(x_i / a_i) . round(w_j / c_j)).

    It returns Float32.
    """

    def __init__(
        self, kernel: Tensor, bias: Tensor | None = None, activation: Function | None = None
    ) -> None:
        kernel = ops.convert_to_numpy(ops.cast(kernel, "float32"))
        largest = np.maximum(np.abs(kernel).max(axis=0), _SMALLEST)  # (outputs,)
        self.kernel = np.round(kernel * (127 / largest)).astype("int8")
        self.scale = largest / 127**2
        self.bias = None if bias is None else ops.convert_to_numpy(ops.cast(bias, "float32"))
        self.activation = activation
        self._exact_product = _exact_product(self.kernel)

    @_by_rows
    def _product(self, rows: Tensor) -> Tensor:
        rows = ops.cast(rows, "float32")
        largest = ops.max(ops.abs(rows), axis=1, keepdims=True)  # (rows, 1)
        largest = ops.maximum(largest, _SMALLEST)
        return self._exact_product(rows * (127 / largest)) * largest * self.scale

    def _biased(self, outputs: Tensor) -> Tensor:
        return outputs + self.bias  # `ops.add` would round differently


def _exact_product(kernel: np.ndarray) -> Function:
    """Returns a function that multiplies rows by a kernel; see `_int8_matmul`."""
    if keras.backend.backend() != "tensorflow":
        return lambda rows: _int8_matmul(rows, kernel)
    import tensorflow as tf

    # A graph holds the constants of a function once, however often it calls the function. Otherwise
    # every signature of an export would hold a copy of each kernel and take a minute to load.
    rows = tf.TensorSpec([None, kernel.shape[0]], tf.float32)
    return tf.function(
        lambda rows: _int8_matmul(rows, kernel), input_signature=[rows], autograph=False
    )


def _int8_matmul(rows: Tensor, kernel: np.ndarray) -> Tensor:
    """Rounds rows and returns their exact product with a kernel.

    Args:
        rows: Float32 (rows, inputs), -127 to 127.
        kernel: int8 NumPy array (inputs, outputs).

    Returns:
        Float32 (rows, outputs), whole numbers.
    """
    if keras.backend.backend() != "tensorflow":
        rows = ops.cast(ops.round(rows), "int8")
        return ops.cast(ops.matmul(rows, ops.convert_to_tensor(kernel)), "float32")
    import tensorflow as tf

    # TensorFlow's fast operation needs one unsigned factor: add 128 to it, and subtract what this
    # adds to the product. The kernel must be a constant of the graph to be packed only once.
    # Casting a positive number plus a half rounds it.
    offset = -128 * kernel.sum(axis=0, dtype="int32")
    return tf.raw_ops.QuantizedMatMulWithBiasAndDequantize(
        a=tf.bitcast(tf.cast(rows + 128.5, tf.uint8), tf.quint8),
        b=tf.constant(kernel.astype(tf.qint8.as_numpy_dtype), tf.qint8),
        bias=tf.constant(offset.astype(tf.qint32.as_numpy_dtype), tf.qint32),
        # With these ranges a step of each factor is 1, and so is one of the product.
        min_a=0.0,
        max_a=255.0,
        min_b=-127.0,
        max_b=127.0,
        min_freezed_output=0.0,
        max_freezed_output=1.0,
        Toutput=tf.float32,
        input_quant_mode="SCALED",
    )
