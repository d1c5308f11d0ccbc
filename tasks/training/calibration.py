"""Moving statistics for a model that starts from nothing.

The zoo's batch norm is frozen: it normalizes by statistics that came with a checkpoint. Without one they are 0 and 1, nothing is
normalized, and activations double from residual unit to residual unit. So a model that starts from scratch takes them from its own
first batches, once; or, where batch norm is trained, weighs its first steps so that 0 and 1 are soon forgotten. Why, with numbers:
docs/decisions/0004-from-scratch.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import tensorflow as tf

from tasks.mask_rcnn import config
from tasks.mask_rcnn.backbones import build_backbone
from tasks.mask_rcnn.backbones.slim_layers import BatchNorm
from tasks.mask_rcnn.crop import crop_and_pool
from tasks.mask_rcnn.model import MaskRCNN

# The batch norm that ends a ResNet's residual branch.
_LAST_OF_BRANCH = "bottleneck_v1/conv3/BatchNorm"


def silence_residual_branches(model: MaskRCNN) -> None:
    """Sets gamma of the batch norm that ends each residual branch to zero, so that every unit starts as its shortcut.

    Goyal et al. 2017, section 5.1. Inception networks have no such branches, or no gamma there, and stay as they are.
    """
    for layer in _batch_norms(model):
        if layer.name.endswith(_LAST_OF_BRANCH):
            layer.gamma.assign(tf.zeros_like(layer.gamma))


def begin_statistics_anew(model: MaskRCNN, steps: Callable[[], tf.Variable]) -> None:
    """Lets the moving statistics of all batch norms, which are trained, count from the first of `steps` on: `BatchNorm.begin_anew`."""
    for layer in _batch_norms(model):
        layer.begin_anew(steps)


def _batch_norms(model: MaskRCNN) -> Iterator[BatchNorm]:
    """Those of both backbone stages."""
    for stage in (model.first_stage, *([model.second_stage] if model.config.number_of_stages >= 2 else [])):
        yield from (layer for layer in stage.layers if isinstance(layer, BatchNorm))


def calibrate_batch_norm(model: MaskRCNN, batches: Iterable[tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]]) -> int:
    """Sets the moving statistics of both backbone stages to the mean of the batches' own; the number of layers set comes back.

    `batches` are training batches. Every layer sees inputs that the layers before it have normalized by the batch. The second stage
    sees crops at the ground truth.
    """
    extractor = config.FeatureExtractor(**(model.config.feature_extractor.as_dict() | {"batch_norm_trainable": True}))
    twin = build_backbone(extractor)
    stages = [(model.first_stage, twin.first_stage)]
    if model.config.number_of_stages >= 2:
        stages.append((model.second_stage, twin.second_stage))
    for ours, theirs in stages:
        theirs.set_weights(ours.get_weights())
    norms = [layer for _, stage in stages for layer in stage.layers if isinstance(layer, BatchNorm)]
    for layer in norms:
        layer.momentum = 0.0
    sums: list[tf.Tensor] | None = None
    count = 0
    for images, true_shapes, groundtruth in batches:
        features = twin.first_stage(twin.preprocess(images), training=True)
        if len(stages) == 2:
            padding = tf.cast(true_shapes, tf.float32) / tf.cast(tf.shape(images)[1:3], tf.float32)
            boxes = groundtruth["boxes"] * tf.tile(padding, [1, 2])[:, tf.newaxis]
            # The whole image stands beside the objects, so that an image without any has a crop.
            whole = tf.tile(padding, [1, 2])[:, tf.newaxis] * tf.constant([0.0, 0.0, 1.0, 1.0])
            crops = crop_and_pool(features, tf.concat([whole, boxes], 1), model.config.second_stage)
            real = tf.sequence_mask(groundtruth["num_boxes"] + 1, tf.shape(boxes)[1] + 1)
            twin.second_stage(tf.boolean_mask(crops, tf.reshape(real, [-1])), training=True)
        statistics = [value for layer in norms for value in (layer.moving_mean, layer.moving_variance)]
        sums = [tf.identity(v) for v in statistics] if sums is None else [s + v for s, v in zip(sums, statistics, strict=True)]
        count += 1
    if sums is None:
        raise ValueError("calibration needs at least one batch")
    for value, total in zip(statistics, sums, strict=True):
        value.assign(total / count)
    for ours, theirs in stages:
        ours.set_weights(theirs.get_weights())
    return len(norms)
