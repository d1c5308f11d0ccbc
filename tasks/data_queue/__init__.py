"""What to do next with the data: labels that all models contradict, and images that would teach most, by stored matches of evaluations."""
