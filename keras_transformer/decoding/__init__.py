"""Decoding one position at a time, and fast: cache, steps, precision. No search, no layer."""
