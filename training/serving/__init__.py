"""The local server with TensorFlow Serving's REST interface, and its web page; no commands."""
