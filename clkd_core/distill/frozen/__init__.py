"""What frozen networks said: soft labels, shortened, and features, kept on disk."""
