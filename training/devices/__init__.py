"""Where a training runs: one device, several, several machines."""
