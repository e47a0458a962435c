"""One loaded version of a SavedModel: its signatures, and how to run them.

Nothing of this project is needed to load it: TensorFlow, and TensorFlow Text for its ops.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from keras_transformer.quiet import without_information
from training.serving.warm_up import warm_up_requests

WARM_UP_TEXT = b"one"


@dataclass(eq=False)
class LoadedVersion:
    """A version that can be run.

    Attributes:
        number: Its number.
        signature_defs: Its signatures by name, as SignatureDef.
        num_running: Requests that use it now.
    """

    number: int
    signature_defs: dict
    num_running: int = 0
    _functions: dict = field(default_factory=dict)
    _runs: dict = field(default_factory=dict)

    def run_of(self, signature_name: str) -> Callable[[dict], dict]:
        """What turns the inputs of a signature into its outputs, arrays by name."""
        return self._runs[signature_name]

    def rows_are_independent(self, signature_name: str) -> bool:
        """Whether rows of several requests may be run together, and parted again.

        So it is if the batch is the first axis of all inputs and outputs, and no other axis of an
        output is free: a free one is as long as its longest row, so that neighbours would show.
        """
        signature = self.signature_defs[signature_name]
        inputs = [_shape(info) for info in signature.inputs.values()]
        outputs = [_shape(info) for info in signature.outputs.values()]
        return all(shape and shape[0] == -1 for shape in inputs + outputs) and not any(
            -1 in shape[1:] for shape in outputs
        )

    def warm_up(self, path: str | os.PathLike) -> None:
        """Runs what the export says that it should be warmed up with, and each signature once.

        The first call of a signature takes seconds, since TensorFlow then optimises its graph.
        """
        for signature_name, inputs in warm_up_requests(path):
            if signature_name in self._runs:
                self.run_of(signature_name)(inputs)
        for signature_name, inputs in self._one_text_each():
            self.run_of(signature_name)(inputs)

    def _one_text_each(self) -> Iterator[tuple[str, dict]]:
        """One row of text for each signature that takes nothing else."""
        from tensorflow.core.framework import types_pb2

        for name in self._runs:
            inputs = self.signature_defs[name].inputs
            if all(i.dtype == types_pb2.DT_STRING and _shape(i) == [-1] for i in inputs.values()):
                yield name, {key: np.array([WARM_UP_TEXT], object) for key in inputs}


def load_version(path: str | os.PathLike, number: int) -> LoadedVersion:
    """Loads a version and warms it up.

    Args:
        path: Its folder.
        number: Its number.

    Raises:
        Exception: Many kinds, of TensorFlow, if the folder is no whole SavedModel.
    """
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the SentencePiece ops

    signature_defs = _signature_defs(path)
    with without_information():
        functions = dict(tf.saved_model.load(os.fspath(path)).signatures)
        version = LoadedVersion(number, signature_defs, _functions=functions)
        for name, function in functions.items():
            if name in signature_defs:
                version._runs[name] = partial(_run, function, dict(signature_defs[name].inputs))
        version.warm_up(path)
    return version


def _run(function, infos: dict, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import tensorflow as tf

    tensors = {
        name: tf.constant(array, tf.dtypes.as_dtype(infos[name].dtype), array.shape)
        for name, array in inputs.items()
    }
    return {name: np.asarray(value.numpy()) for name, value in function(**tensors).items()}


def _signature_defs(path) -> dict:
    """What the export says of its signatures, as TensorFlow Serving tells it, too."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((Path(path) / "saved_model.pb").read_bytes())
    for meta_graph in model.meta_graphs:
        if "serve" in meta_graph.meta_info_def.tags:
            found = dict(meta_graph.signature_def)
            # Copies, without the graph that they were part of.
            return {
                name: type(sig).FromString(sig.SerializeToString()) for name, sig in found.items()
            }
    raise ValueError("A SavedModel must have a graph with the tag serve. Received: none.")


def _shape(info) -> list[int] | None:
    return None if info.tensor_shape.unknown_rank else [d.size for d in info.tensor_shape.dim]
