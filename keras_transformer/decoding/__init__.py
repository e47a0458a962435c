"""Fast decoding, one position at a time: cache, steps, precision; without search and layers."""
