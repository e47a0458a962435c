"""The search for good settings, on Keras Tuner; its command is `training.tune`.

A trial is settings, a run folder that a process of its own trains, and a row in a table. `space`
says what may be tried; `plan` says what a search is and owns its folder. `search` is Keras Tuner's
loop. `oracles` choose values, which `trials` turns into settings and, through `trial_run` and
`child_process`, into an outcome. `report` and `picture` show the results; `comparison` trains the
winner against the start. `hyper_model` is for Keras Tuner's own tuners.
"""
