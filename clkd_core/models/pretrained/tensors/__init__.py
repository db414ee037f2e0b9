"""Released weights: files of tensors, the spelling of their keys, and filling a model."""
