"""Of meta-actions: how often they are right, and how often in time."""
