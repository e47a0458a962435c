"""Draws attention, speed and memory in one style; measures nothing."""
