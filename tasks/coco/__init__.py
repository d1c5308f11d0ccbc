"""Masks, pictures and metrics in COCO's terms; no TensorFlow."""
