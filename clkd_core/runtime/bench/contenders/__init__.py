"""Who takes part in the latency benchmark, and how each is built."""
