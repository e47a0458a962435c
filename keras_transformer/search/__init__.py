"""Greedy and beam search, sampling and scoring over a step function; no model, cache or text."""
