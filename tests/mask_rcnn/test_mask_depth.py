"""The automatic depth of the mask convolutions, by hand and in the original's variables."""

from __future__ import annotations

import pytest

from tasks.mask_rcnn.mask_depth import FEATURE_CHANNELS, automatic_conv_depth
from tests.parity.reference import REFERENCES, SCOPES, Reference


@pytest.mark.parametrize(("channels", "classes", "depth"), [(2048, 90, 256), (1536, 90, 256), (1024, 90, 256), (2048, 4, 64)])
def test_automatic_depth(channels: int, classes: int, depth: int) -> None:
    # (2 * log2(2048) + 3 * log2(4)) / 5 = 5.6, rounded 6, so 64; the zoo's three are the originals' own.
    assert automatic_conv_depth(channels, classes) == depth


@pytest.mark.parametrize("name", SCOPES)
def test_channels_and_depth_are_those_of_the_originals_variables(name: str) -> None:
    shapes = Reference(REFERENCES / f"{name}_small.npz").variables()
    channels, classes = shapes["SecondStageBoxPredictor/ClassPredictor/weights"]
    assert FEATURE_CHANNELS[f"faster_rcnn_{name}"] == channels
    assert automatic_conv_depth(channels, classes - 1) == shapes["SecondStageBoxPredictor/Conv/weights"][-1]
