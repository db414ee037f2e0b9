"""``clkd bench pipeline``: bag -> nodes -> trajectory, live, and what each stage takes of it."""
