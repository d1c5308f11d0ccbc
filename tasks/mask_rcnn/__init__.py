"""The zoo models: single-level Faster R-CNN with a third, mask stage, as a Model Garden task."""
