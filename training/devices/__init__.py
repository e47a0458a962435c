"""The devices that train: one, all of a machine, or those of several machines; not the training."""
