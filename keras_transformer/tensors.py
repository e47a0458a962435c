"""The types of tensors and shapes in hints.

Keras and TensorFlow have no static types, and a tensor may belong to any backend. So type checkers
accept anything as a `Tensor` and allow everything with one; docstrings say its dtype and shape.
"""

from typing import Any, TypeAlias

# A tensor, a variable or an array: whatever `keras.ops` takes and returns.
Tensor: TypeAlias = Any

# A tensor, or tensors in nested tuples, lists and dictionaries, as in `keras.tree`.
Nest: TypeAlias = Any

# The length of each axis, in order; None if unknown. A layer's last axis is always an int, which no
# type can say.
Shape: TypeAlias = tuple[Any, ...]
