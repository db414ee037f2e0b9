"""One batch over threads and processes: parts, sums over all, sharded weights."""
