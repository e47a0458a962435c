"""Run folders: what trains into one, and what reads one. No command line."""
