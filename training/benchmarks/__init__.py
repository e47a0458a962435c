"""The measurements behind `training.benchmark`, and the processes that they run; no pictures."""
