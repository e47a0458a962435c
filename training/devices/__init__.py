"""The devices to train on: one, all those of a machine, or those of several machines."""
