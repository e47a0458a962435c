"""Pictures of attention, speed and memory, and the style that all pictures share."""
