"""Scores, each with the source of its formula."""
