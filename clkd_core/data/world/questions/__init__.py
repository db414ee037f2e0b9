"""What is asked about the synthetic world, and answers that follow from the scene."""
