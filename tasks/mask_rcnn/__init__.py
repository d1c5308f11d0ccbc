"""The zoo models' network: single-level Faster R-CNN with a third, mask stage."""
