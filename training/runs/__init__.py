"""Trains into run folders and reads them. Parses no command line."""
