"""Experiments that measure the paper's claims: `python -m training.experiments`.

An experiment is a module with a function `run(arguments)`, listed in `__main__`. It prints a table,
and writes the table, all the measured numbers, and a picture (`report`).
"""
