"""Lines of text and their sub-words: files, tokenizer, BPE-dropout; no batches, no models."""
