"""Search (sections 3.1 and 6.1): it is handed a step function and knows no model."""
