"""The demo's sentences: a phrase grammar and the text that it writes; no model, no training loop."""
