"""A checkpoint judged on a set or on bags: many tasks, every baseline, one report."""
