"""When an answer is there: latencies measured once, and workers that are busy meanwhile."""
