"""The search for good settings, on Keras Tuner: `python -m training.tune`.

`space` says what is tried, `plan` what a search is and which folder it has, `oracles` chooses the
values of each trial, `trials` trains one in a process of its own (`child_process`), `search` brings
these together, `report` and `picture` show what came out, `comparison` tests the winner.
"""
