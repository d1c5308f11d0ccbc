"""What steps need while they run."""
