"""What `training.benchmark` measures, with the processes that it measures in."""
