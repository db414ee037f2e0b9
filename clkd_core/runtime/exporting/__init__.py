"""A model in memory or on disk becomes a decision that runs without torch."""
