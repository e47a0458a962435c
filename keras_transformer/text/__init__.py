"""Text and its sub-words: tokenizers, BPE-dropout, reading lines; no batches, no models."""
