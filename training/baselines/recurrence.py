"""Recurrent layers whose loops compute only what depends on the previous step.

    x W               before the loop, all positions in one product
    h U               in the loop, since it needs the previous step
    gradient of U     after the loop, all positions in one product

Here x is the input, h the hidden state, and W and U are their kernels. Keras' own layers have the
same cells, but multiply by W inside the loop, and sum the gradient of U position by position.

Inside `recur`, length comes before batch, because a loop reads and writes one position at a time.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import ops

from keras_transformer.custom_gradients import with_gradient


class Cell(NamedTuple):
    """A kind of recurrent unit.

    Its gates add the projected input x and p = h U + b, both Float32 (..., gates * units). States
    are Float32 (..., units); the first one is the hidden state h, which is also the output.
    """

    name: str
    num_gates: int
    num_states: int
    num_known: int  # number of the other Float32 (..., units) that the gradient needs, "known"
    advance: Callable  # (x, p, states) -> (new states, known)
    slopes: Callable  # (known, earlier states) -> factors for the gradients below
    of_product: Callable  # (gradients of the new states, factors) -> gradient of p
    of_input: Callable  # (the same) -> gradient of x
    of_states: Callable  # (the same) -> gradients of the earlier states, except through p


def _advance_gru(x, p, states):
    """Computes z, r = sigmoid(x + p); n = tanh(x + r p); h' = z h + (1 - z) n."""
    [h] = states
    x_update, x_reset, x_new = ops.split(x, 3, axis=-1)
    p_update, p_reset, p_new = ops.split(p, 3, axis=-1)
    update = ops.sigmoid(x_update + p_update)
    reset = ops.sigmoid(x_reset + p_reset)
    new = ops.tanh(x_new + reset * p_new)
    return (new + update * (h - new),), (update, reset, new, p_new)


def _gru_slopes(known, states_before):
    [h] = states_before
    update, reset, new, p_new = known
    of_update = (h - new) * update * (1 - update)
    of_new = (1 - update) * (1 - new * new)
    of_reset = of_new * p_new * reset * (1 - reset)
    of_product = ops.concatenate([of_update, of_reset, of_new * reset], axis=-1)
    of_input = ops.concatenate([of_update, of_reset, of_new], axis=-1)
    return update, of_product, of_input


def _advance_lstm(x, p, states):
    """Computes i, f, o = sigmoid(x + p); g = tanh(x + p); c' = f c + i g; h' = o tanh(c')."""
    _, c = states
    read, keep, new, write = ops.split(x + p, 4, axis=-1)
    read, keep, write = ops.sigmoid(read), ops.sigmoid(keep), ops.sigmoid(write)
    new = ops.tanh(new)
    c = keep * c + read * new
    shown = ops.tanh(c)
    return (write * shown, c), (read, keep, new, write, shown)


def _lstm_slopes(known, states_before):
    _, c = states_before
    read, keep, new, write, shown = known
    through_cell = [new * read * (1 - read), c * keep * (1 - keep), read * (1 - new * new)]
    return (
        keep,
        ops.concatenate(through_cell, axis=-1),
        shown * write * (1 - write),
        write * (1 - shown * shown),
    )


def _of_lstm_product(gradients, factors):
    of_h, of_c = gradients
    _, through_cell, of_write, of_shown = factors
    of_c = of_c + of_h * of_shown
    return ops.concatenate([_repeated(of_c, 3) * through_cell, of_h * of_write], axis=-1)


def _of_lstm_states(gradients, factors):
    of_h, of_c = gradients
    keep, _, _, of_shown = factors
    return ops.zeros_like(of_h), (of_c + of_h * of_shown) * keep


def _repeated(x, times):
    return ops.concatenate([x] * times, axis=-1)


CELLS = {
    "gru": Cell(
        name="gru",
        num_gates=3,
        num_states=1,
        num_known=4,
        advance=_advance_gru,
        slopes=_gru_slopes,
        of_product=lambda gradients, factors: _repeated(gradients[0], 3) * factors[1],
        of_input=lambda gradients, factors: _repeated(gradients[0], 3) * factors[2],
        of_states=lambda gradients, factors: (gradients[0] * factors[0],),
    ),
    "lstm": Cell(
        name="lstm",
        num_gates=4,
        num_states=2,
        num_known=5,
        advance=_advance_lstm,
        slopes=_lstm_slopes,
        of_product=_of_lstm_product,
        of_input=_of_lstm_product,
        of_states=_of_lstm_states,
    ),
}


def recur(cell: Cell, x, states, kernel, bias, training: bool = True):
    """Computes the hidden states of all positions.

    Source: Cho et al. 2014, section 2.3, in the form of NVIDIA's cuDNN, which applies the reset
        gate after the product (GRU); Hochreiter and Schmidhuber 1997, Gers et al. 2000 (LSTM).

    Args:
        cell: One of `CELLS`.
        x: Float (batch, length, gates * units), the projected input.
        states: Float (batch, units) each, the cell's states before the first position.
        kernel: Float (units, gates * units), U. Products have its dtype; all else is float32.
        bias: Float (gates * units,).
        training: Whether to prepare the gradients described above.

    Returns:
        Float32 (batch, length, units).
    """
    x, bias = ops.cast(x, "float32"), ops.cast(bias, "float32")
    states = [ops.cast(state, "float32") for state in states]

    arguments = ops.transpose(x, (1, 0, 2)), kernel, bias, *states
    run, gradient = functools.partial(_run, cell), functools.partial(_gradient, cell)
    if training:
        outputs = with_gradient(f"recur_{cell.name}", run, gradient, *arguments)
    else:
        outputs, _ = run(*arguments)
    return ops.transpose(outputs, (1, 0, 2))  # (batch, length, units)


def _run(cell, x, kernel, bias, *states):
    """Returns the hidden states, and all states and known values that the gradient needs."""

    def advance(states, xs):
        [x] = xs
        states, known = cell.advance(x, _matmul(states[0], kernel) + bias, states)
        return states, (*states, *known)

    _, outputs = _scan(advance, states, (x,), cell.num_states + cell.num_known)
    return outputs[0], outputs


def _gradient(cell, upstream, x, kernel, bias, *tensors):
    number = cell.num_states
    states, new_states, known = (
        tensors[:number],
        tensors[number : 2 * number],
        tensors[2 * number :],
    )
    before = tuple(
        ops.concatenate([first[None], later[:-1]])
        for first, later in zip(states, new_states, strict=True)
    )
    factors = cell.slopes(known, before)
    transposed = ops.transpose(kernel)

    def retreat(carried, xs):
        upstream, *factors = xs
        gradients = (carried[0] + upstream, *carried[1:])
        of_h, *others = cell.of_states(gradients, factors)
        of_h = of_h + _matmul(cell.of_product(gradients, factors), transposed)
        return (of_h, *others), gradients

    of_states, gradients = _scan(
        retreat,
        tuple(ops.zeros_like(state) for state in states),
        (upstream, *factors),
        cell.num_states,
        backwards=True,
    )
    of_product = cell.of_product(gradients, factors)  # (length, batch, gates * units)
    of_product = ops.reshape(of_product, (-1, of_product.shape[-1]))
    rows = ops.reshape(before[0], (-1, kernel.shape[0]))  # (length * batch, units)
    of_kernel = ops.matmul(ops.transpose(rows), of_product)
    return (
        cell.of_input(gradients, factors),
        ops.cast(of_kernel, kernel.dtype),
        ops.sum(of_product, axis=0),
        *of_states,
    )


def recur_once(cell: Cell, x, states, kernel, bias):
    """Computes the states after one position, Float32 (..., units) each, from those before it.

    `x` is Float (..., gates * units); the other arguments are as for `recur`.
    """
    product = _matmul(states[0], kernel) + ops.cast(bias, "float32")
    return cell.advance(ops.cast(x, "float32"), product, states)[0]


def _matmul(x, kernel):
    """Multiplies in the kernel's dtype and casts the product to float32."""
    return ops.cast(ops.matmul(ops.cast(x, kernel.dtype), kernel), "float32")


def _scan(advance, carried, sequences, num_outputs, backwards=False):
    """Loops over the positions of sequences.

    Args:
        advance: Maps (carried, the sequences at one position) to (carried, outputs), all tuples.
        carried: The first carried values, a tuple of Float32 (batch, units).
        sequences: A tuple of Float32 (length, batch, width).
        num_outputs: The number of outputs of a position, Float32 (batch, units) each.
        backwards: Whether to start at the last position.

    Returns:
        (the last carried values, a tuple of the outputs, Float32 (length, batch, units) each).
    """
    if keras.backend.backend() != "tensorflow":
        return ops.scan(advance, carried, sequences, reverse=backwards)
    # On TensorFlow, Keras' scan can output only the carried values.
    import tensorflow as tf

    length = tf.shape(sequences[0])[0]

    def array(x):
        return tf.TensorArray("float32", length, element_shape=x.shape)

    def at_one_position(number, carried, outputs):
        position = length - 1 - number if backwards else number
        xs = tuple(sequence.read(position) for sequence in read)
        carried, new = advance(carried, xs)
        outputs = tuple(out.write(position, x) for out, x in zip(outputs, new, strict=True))
        return number + 1, tuple(carried), outputs

    read = [array(sequence[0]).unstack(sequence) for sequence in sequences]
    _, carried, outputs = tf.while_loop(
        lambda number, *_: number < length,
        at_one_position,
        (0, tuple(carried), tuple(array(carried[0]) for _ in range(num_outputs))),
        maximum_iterations=length,
    )
    return carried, tuple(out.stack() for out in outputs)
