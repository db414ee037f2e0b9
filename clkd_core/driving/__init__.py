"""The synthetic world, driven in closed loop by both systems."""
