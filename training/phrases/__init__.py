"""The demo's sentences, a phrase grammar and the text that it writes; the model is elsewhere."""
