"""What the times come to: rows, ratios, goals, and their table."""
