"""A network's detections on records, and what they are worth."""
