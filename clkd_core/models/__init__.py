"""Networks: one model, one file, its architecture dataclass on top."""
