"""Our engine timed beside what a user would run instead, each in a process of its own."""
