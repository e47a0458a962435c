"""Parses options, reports errors in one line, handles exit codes and signals. Needs no Keras."""
