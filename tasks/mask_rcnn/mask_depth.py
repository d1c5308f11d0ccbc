"""The depth of the mask convolutions where a config leaves it to the number of classes."""

from __future__ import annotations

import math

KERAS = "_keras"
"""How the names of those feature extractors end that the original built with Keras, for TensorFlow 2"""

_CHANNELS = {
    "faster_rcnn_inception_resnet_v2": 1536,
    "faster_rcnn_inception_v2": 1024,
    "faster_rcnn_resnet101": 2048,
    "faster_rcnn_resnet152": 2048,
    "faster_rcnn_resnet50": 2048,
}
FEATURE_CHANNELS = _CHANNELS | {f"{name}{KERAS}": channels for name, channels in _CHANNELS.items() if name != "faster_rcnn_inception_v2"}
"""Channels of the second stage's features, by feature extractor."""


def automatic_conv_depth(channels: int, num_classes: int) -> int:
    """Depth of the mask convolutions where the config says 0: a power of two between features and classes, on a log scale."""
    return int(2 ** round((2 * math.log2(channels) + 3 * math.log2(num_classes)) / 5))
