"""Commands built on the library, run as `python -m training.NAME`; the library imports none."""
