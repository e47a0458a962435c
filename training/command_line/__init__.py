"""What all commands share: their parser, options, one-line errors, exit codes and signals."""

import os
import sys

from training.command_line.backend import choose_backend, defer_library

choose_backend(sys.argv[1:])  # before Keras is imported
defer_library()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
