"""The vehicle: how it moves, and how it is held on a plan."""
