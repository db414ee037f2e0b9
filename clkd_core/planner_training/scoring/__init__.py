"""Judging a planner on validation drives."""
