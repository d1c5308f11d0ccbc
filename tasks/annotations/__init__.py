"""Source formats to typed records."""
