"""Bounded readers of files that may come from a stranger.

    files.py      regular files inside a run folder, up to a size
    settings.py   the settings in a run's config.yaml
    archive.py    members of an uncompressed zip archive: model.keras, checkpoints
    hdf5.py       the arrays in the HDF5 file that Keras writes
    npz.py        the arrays in a file that np.savez writes
    safetensors.py, torch_file.py    the tensors in a model of Hugging Face
    plain_yaml.py the settings and vocabularies of a Marian model

Each reader accepts only what these programs write, follows no link, runs no code from a
file, and checks sizes against the file before it takes memory.
"""
