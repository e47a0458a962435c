"""Greedy search, beam search, sampling and scoring, over a step function; no models."""
