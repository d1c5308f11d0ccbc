"""What a training will need, before it takes a machine: counted on the model's own graph, measured where it can be run."""
