"""What a training run leaves on disk, and how runs are laid side by side."""
