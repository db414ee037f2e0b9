"""Training the planner on a frozen student's vision features."""
