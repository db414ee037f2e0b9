"""Quality against speed and size: the paper's Figure 1 from files of `clkd bench latency`."""
