"""Measures the paper's claims, one module each; no library code: `python -m training.experiments`.

An experiment is a module with a function `run(arguments)`, named in `__main__`. It prints a table,
and writes the table, all numbers behind it and a picture (`report`).
"""
