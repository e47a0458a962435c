"""Models that Marian or Hugging Face trained, as models of this package; no command line.

import_marian.py          a folder in, a Translator out
native_folder.py          folders of Marian and OPUS-MT
hugging_face_folder.py    folders of Hugging Face's MarianMTModel
foreign_model.py          what both kinds of folders hold
parts.py                  which tensor goes where, by the names of Marian
hugging_face_names.py     the same tensors by the names of Hugging Face
"""
