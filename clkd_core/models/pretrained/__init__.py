"""Released weights and tokenizers, read into our models."""
