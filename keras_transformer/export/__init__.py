"""SavedModels for TensorFlow Serving: signatures, verification, model card, warm-up requests."""
