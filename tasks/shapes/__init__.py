"""The embedded default dataset `shapes`: photograph-like scenes of balls, blocks, rings and stars on a table, with exact masks.

Everything follows from the seed; the images and their COCO JSON enter materialization by the same door as anybody's data.
"""
