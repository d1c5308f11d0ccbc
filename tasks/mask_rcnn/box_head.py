"""The box head: second-stage features to refined boxes and class logits."""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from tasks.mask_rcnn import config, draws
from tasks.mask_rcnn.head_layers import fully_connected


class BoxHead(tf_keras.Model):
    """Two products on the spatial mean of a crop's features; the original's scope `SecondStageBoxPredictor`."""

    def __init__(self, second_stage: config.SecondStage, num_classes: int, channels: int) -> None:
        super().__init__(name="box_head")
        self._box_classes = 1 if second_stage.share_box_across_classes else num_classes
        self._drop = 1.0 - second_stage.dropout_keep_probability if second_stage.use_dropout else 0.0
        self.box_encodings = fully_connected(
            self._box_classes * 4, "SecondStageBoxPredictor/BoxEncodingPredictor", second_stage.fc_hyperparams
        )
        self.classes = fully_connected(num_classes + 1, "SecondStageBoxPredictor/ClassPredictor", second_stage.fc_hyperparams)
        for predictor in (self.box_encodings, self.classes):
            predictor.build((None, channels))

    def call(self, features: tf.Tensor, training: bool = False, seeds: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Float32 `refined_box_encodings` [N, classes or 1, 4] and logits `class_predictions_with_background` [N, 1 + classes].

        `features` is [N, h, w, C]; background is column 0. `seeds` int32 [B, 2], of images with N / B rows each, are what training draws
        the features by that it drops, where the config has it drop any.
        """
        pooled = tf.reduce_mean(features, axis=[1, 2])

        def predicted(layer: tf_keras.layers.Dense, stream: int) -> tf.Tensor:
            # Each predictor drops features of its own, as in the original.
            kept = draws.dropout(pooled, self._drop, seeds, stream) if training and self._drop else pooled
            return tf.cast(layer(kept), tf.float32)

        return {
            "refined_box_encodings": tf.reshape(predicted(self.box_encodings, draws.BOX_FEATURES), [-1, self._box_classes, 4]),
            "class_predictions_with_background": predicted(self.classes, draws.CLASS_FEATURES),
        }
