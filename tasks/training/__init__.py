"""What trains a zoo model: its experiment, the Model Garden task, and the loop."""
