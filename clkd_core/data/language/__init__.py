"""Driving data sets of questions and answers: DriveLM, CODA-LM, and both merged into one set."""
