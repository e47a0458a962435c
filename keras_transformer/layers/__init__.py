"""The boxes of the paper's Figure 1, one file each; nothing of decoding or search."""
