"""Pictures of attention, speed and memory, and the style of all pictures; nothing is measured."""
