"""What must be beaten before a score says anything."""
