"""Checkpoints of others, and of our own trainings, to the network's variables."""
