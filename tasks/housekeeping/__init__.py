"""What of a workspace somebody still needs, and what can go."""
