"""The models as the original computes them, without our shortcuts, over the same layers.

The second stage runs whole on the crops. The mask branch runs on every sampled proposal in training and on every place for a detection at
inference, enlarges all channels of a crop before its first convolution, and predicts every class, of which one is taken.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from tasks.mask_rcnn import config, xla
from tasks.mask_rcnn.crop import crop_and_pool
from tasks.mask_rcnn.cropped_network import CroppedNetwork
from tasks.mask_rcnn.mask_head import MaskHead
from tasks.mask_rcnn.model import MaskRCNN, Tensors


class PlainMaskHead(tf_keras.Model):
    """The layers of a `MaskHead` applied in the order that they are written in."""

    def __init__(self, head: MaskHead, mask_head: config.MaskHead) -> None:
        super().__init__(name="mask_head")
        self.convs = head.convs
        self._size = (mask_head.height, mask_head.width)

    def call(self, features: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Logits float32 [N, mask_h, mask_w] of class `classes` (int32 [N], zero-based) for `features` [N, h, w, C]."""
        return tf.gather(self.all_classes(features), classes, axis=1, batch_dims=1)

    def all_classes(self, features: tf.Tensor) -> tf.Tensor:
        """Logits float32 [N, num_classes, mask_h, mask_w]."""
        x = tf.raw_ops.ResizeBilinear(images=features, size=self._size, align_corners=True, half_pixel_centers=False)
        *hidden, last = self.convs
        for layer in hidden:
            x = tf.nn.relu(layer(x))
        return tf.transpose(last(x), [0, 3, 1, 2])


class PlainCroppedNetwork(CroppedNetwork):
    """The network as a whole on the crops."""

    def __call__(
        self, features: tf.Tensor, boxes_yxyx_normalized: tf.Tensor, *, training: bool = False, apply: xla.Apply = xla.plain
    ) -> tf.Tensor:
        return apply(self.network, crop_and_pool(features, boxes_yxyx_normalized, self.second_stage), training=training)


class PlainMaskRCNN(MaskRCNN):
    """The model with the mask branch on all that could be a positive or a detection; weights in the order of `MaskRCNN`'s."""

    def __init__(self, model: config.MaskRCNN) -> None:
        super().__init__(model)
        self._cropped = PlainCroppedNetwork(self.second_stage, model.second_stage)
        self.mask_head = PlainMaskHead(self.mask_head, model.mask_head)

    def masks(self, outputs: Tensors, true_shapes: tf.Tensor) -> tf.Tensor:
        classes = outputs["detection_classes"]
        crops = self._cropped(outputs["rpn_features_to_crop"], self.mask_boxes(outputs, true_shapes))
        logits = self.mask_head(crops, tf.reshape(classes, [-1]))
        return tf.reshape(tf.sigmoid(logits), [-1, classes.shape[1], *logits.shape[1:]])

    def mask_rows(self, target_classes: tf.Tensor) -> tf.Tensor:
        return tf.range(tf.size(target_classes))
