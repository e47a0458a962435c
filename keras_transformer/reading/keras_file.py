"""Reads the weights in a `.keras` file, without Keras.

The configuration in the file is never used: it may name any class, and Keras would make it.
"""

from pathlib import Path

import numpy as np

from keras_transformer.reading.archive import members_of, read_member
from keras_transformer.reading.files import DamagedFile, opened
from keras_transformer.reading.hdf5 import read_hdf5

_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
# A compiled model's optimizer, which runs of earlier versions kept.
_OPTIMIZER = "optimizer/"
# What Keras adds to the weights: names, times, and the configuration.
_MOST_OTHER_BYTES = 2**26


def read_keras_weights(path: Path, num_parameters: int) -> dict[str, np.ndarray]:
    """Reads the weights in a `.keras` file.

    Args:
        path: The file.
        num_parameters: The number of parameters that the model must have.

    Returns:
        The weights by their path in the file, such as `layers/dense/vars/0`.

    Raises:
        DamagedFile: If the file is damaged, has something that Keras does not write, or holds
            another number of parameters.
    """
    with opened(path) as file:
        members = members_of(file)
        if {*members} != _MEMBERS:
            raise DamagedFile(f"an archive of {', '.join(sorted(members))[:200] or 'nothing'}")
        weights = members["model.weights.h5"]
        # With an optimizer, which has two numbers for each parameter.
        most = 3 * 4 * num_parameters + _MOST_OTHER_BYTES
        if weights.size > most:
            raise DamagedFile(
                f"{weights.size:,} bytes of weights for {num_parameters:,} parameters, as"
                " config.yaml describes"
            )
        arrays = read_hdf5(read_member(file, weights))
    arrays = {path: array for path, array in arrays.items() if not path.startswith(_OPTIMIZER)}
    found = sum(array.size for array in arrays.values())
    if found != num_parameters:
        raise DamagedFile(f"{found:,} parameters where config.yaml describes {num_parameters:,}")
    return arrays
