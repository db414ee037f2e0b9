"""From a run's files to its numbers, before any of them is laid out."""
