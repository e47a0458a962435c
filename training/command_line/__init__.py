"""Parses options, reports errors in one line, sets exit codes, handles signals; trains nothing."""
