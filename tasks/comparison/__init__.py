"""Evaluated models side by side: what is known of each, where they differ, and the page that shows it."""
