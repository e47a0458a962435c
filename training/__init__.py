"""Recipes over the library, run as `python -m training.NAME`; the library never imports them."""
