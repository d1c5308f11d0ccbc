"""Records to the network's batches."""
