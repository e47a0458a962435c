"""A pytest plugin under which TensorFlow cannot be imported: `pytest -p tests.without_tensorflow`.

It stands in for a machine on which TensorFlow is not installed.
"""

import sys

ABSENT = ("tensorflow", "tensorflow_text", "tf_keras", "tensorboard")


class _Absent:
    """Finds no module of the given names, whatever is installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


sys.meta_path.insert(0, _Absent())
