"""Senna's questions by rule, and its own JSON layout of them read and written."""
