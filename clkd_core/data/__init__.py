"""Data sets, labels, prompts and bags: everything that is read before a model sees it."""
