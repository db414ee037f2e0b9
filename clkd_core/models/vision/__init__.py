"""Vision towers: one tower, one file, its config on top; ``build`` knows them all."""
