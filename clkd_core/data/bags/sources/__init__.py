"""What bags are written from."""
