"""Parsing options, reporting errors in one line, exit codes and signals. No training, no keras."""
