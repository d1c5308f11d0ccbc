"""The pipeline.config language: schema, parser, the six edits to Mask R-CNN, translation to an experiment. TF-free."""
