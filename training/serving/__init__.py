"""A local server that speaks TensorFlow Serving's REST interface; `python -m training.serve`."""
