"""The measurements of `training.benchmark`, and the processes that they start; no pictures."""
