"""The local server that speaks TensorFlow Serving's REST interface, and its page; no commands."""
