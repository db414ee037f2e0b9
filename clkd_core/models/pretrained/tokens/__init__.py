"""Released tokenizers, read without running anything that came with them."""
