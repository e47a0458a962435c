"""The boxes of the paper's Figure 1, one file each, without decoding and search."""
