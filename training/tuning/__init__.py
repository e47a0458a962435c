"""The search for good settings with Keras Tuner; its command is `training.tune`.

A trial consists of settings, a run folder that a separate process trains, and a row in a table.
`space` defines the values to try; `plan` defines a search and its folder. `search` runs Keras
Tuner's loop. `oracles` choose values, which `trials` turns into settings and, through `trial_run`
and `child_process`, into an outcome. `report` and `picture` show the results; `comparison` trains
the best settings against the start. `hyper_model` is for Keras Tuner's own tuners.
"""
