"""A trained model as its users meet it."""
