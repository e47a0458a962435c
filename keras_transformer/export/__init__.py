"""Exports for TensorFlow Serving, from the graph to its README; no server or command line."""

from keras_transformer.export.saved_model import export_saved_model
from keras_transformer.export.verification import verify_saved_model

__all__ = ["export_saved_model", "verify_saved_model"]
