"""Greedy and beam search, sampling and scoring with a step function; no model, cache or text."""
