"""A pytest plugin that makes TensorFlow impossible to import: `pytest -p tests.without_tensorflow`.

It simulates a machine without TensorFlow.
"""

import sys

ABSENT = ("tensorflow", "tensorflow_text", "tf_keras", "tensorboard")


class _Absent:
    """Hides the modules in `ABSENT`, even if they are installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


sys.meta_path.insert(0, _Absent())
