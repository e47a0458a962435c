"""The demo's phrase grammar and the text that it generates; no model."""
