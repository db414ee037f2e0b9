"""Who does the tasks: this process, processes beside it, or a Ray cluster."""
