"""What one task does: its frames answered, in its own order and by nothing but itself."""
