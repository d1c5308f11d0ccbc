"""The region proposal network: features to one box encoding and two class logits per anchor."""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from tasks.mask_rcnn import config
from tasks.mask_rcnn.head_layers import convolution


class RegionProposalNetwork(tf_keras.Model):
    """A shared convolution and two predictors (Ren et al. 2015); the original's scopes `Conv` and `FirstStageBoxPredictor`."""

    def __init__(self, first_stage: config.FirstStage, anchors_per_cell: int, channels: int) -> None:
        super().__init__(name="rpn")
        hyperparams = first_stage.box_predictor_hyperparams
        self.conv = convolution(
            first_stage.box_predictor_depth,
            first_stage.box_predictor_kernel_size,
            "Conv",
            hyperparams,
            rate=first_stage.atrous_rate,
        )
        self.box_encodings = convolution(anchors_per_cell * 4, 1, "FirstStageBoxPredictor/BoxEncodingPredictor", hyperparams)
        self.objectness = convolution(anchors_per_cell * 2, 1, "FirstStageBoxPredictor/ClassPredictor", hyperparams)
        self.conv.build((None, None, None, channels))
        for predictor in (self.box_encodings, self.objectness):
            predictor.build((None, None, None, first_stage.box_predictor_depth))

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Float32 `rpn_box_encodings` [B, h * w * A, 4] and `rpn_objectness_predictions_with_background` [B, h * w * A, 2].

        `features` is [B, h, w, C]. Class 0 is background. The activation is relu6 whatever the config says, as in the original; its
        output comes back as `rpn_box_predictor_features`.
        """
        shared = tf.nn.relu6(self.conv(features))
        batch = tf.shape(features)[0]
        encodings = tf.cast(self.box_encodings(shared), tf.float32)
        objectness = tf.cast(self.objectness(shared), tf.float32)
        return {
            "rpn_box_predictor_features": shared,
            "rpn_box_encodings": tf.reshape(encodings, [batch, -1, 4]),
            "rpn_objectness_predictions_with_background": tf.reshape(objectness, [batch, -1, 2]),
        }
