"""Of planned trajectories."""
