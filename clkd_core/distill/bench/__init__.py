"""What distilling costs beside plain fine-tuning, in time and memory."""
