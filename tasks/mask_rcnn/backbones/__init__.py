"""The feature extractors of the zoo: what a backbone is, and the registry of those that can be built."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable

import tensorflow as tf
import tf_keras

from tasks.mask_rcnn import config
from tasks.mask_rcnn.mask_depth import FEATURE_CHANNELS
from tasks.running.errors import UserError

FIRST_STAGE_SCOPE = "FirstStageFeatureExtractor"
SECOND_STAGE_SCOPE = "SecondStageFeatureExtractor"


@dataclasses.dataclass(frozen=True)
class Backbone:
    """The two halves of a feature extractor. Every layer that owns variables is named by its full TF1 scope.

    `name` is the network's TF1 scope, e.g. `resnet_v1_50`. `preprocess` maps RGB images, float32 [B, H, W, 3] in 0..255, to what the
    network was trained on. `first_stage` maps those to features [B, h, w, C], whose cells lie `first_stage_features_stride` pixels
    apart. `second_stage` maps pooled crops of these features, [N, c, c, C], to [N, c', c', C'].
    """

    name: str
    preprocess: Callable[[tf.Tensor], tf.Tensor]
    first_stage: tf_keras.Model
    second_stage: tf_keras.Model


MODULES = {
    "faster_rcnn_inception_resnet_v2": "inception_resnet_v2",
    "faster_rcnn_inception_v2": "inception_v2",
    "faster_rcnn_resnet101": "resnet_v1",
    "faster_rcnn_resnet152": "resnet_v1",
    "faster_rcnn_resnet50": "resnet_v1",
}
"""The module that builds a network, in either form; each has `build(config.FeatureExtractor) -> Backbone`."""


def build_backbone(feature_extractor: config.FeatureExtractor) -> Backbone:
    """The backbone that `feature_extractor.type` names, with fresh variables; UserError for an unknown type."""
    if feature_extractor.type not in FEATURE_CHANNELS:
        raise UserError(f"feature_extractor.type {feature_extractor.type!r} is unknown", f"use one of {', '.join(FEATURE_CHANNELS)}")
    backbone: Backbone = importlib.import_module(f"{__name__}.{MODULES[feature_extractor.network]}").build(feature_extractor)
    return backbone
