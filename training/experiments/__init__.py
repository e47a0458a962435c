"""The paper's claims, each a command that measures it: `python -m training.experiments --help`.

An experiment is a module with a function `run(arguments)`, named in `__main__`. It prints a table,
and writes the same table, all numbers behind it and a picture (`report`).
"""
