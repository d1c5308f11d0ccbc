"""The five losses, normalized and weighted as the original's; their plain sum is the total."""

from __future__ import annotations

import tensorflow as tf

from tasks.mask_rcnn import config

RPN_LOCALIZATION = "Loss/RPNLoss/localization_loss"
RPN_OBJECTNESS = "Loss/RPNLoss/objectness_loss"
BOX_LOCALIZATION = "Loss/BoxClassifierLoss/localization_loss"
BOX_CLASSIFICATION = "Loss/BoxClassifierLoss/classification_loss"
MASK = "Loss/BoxClassifierLoss/mask_loss"


def huber(predictions: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Huber loss of delta 1 summed over the last axis, [..., 4] -> [...]."""
    error = tf.abs(predictions - targets)
    return tf.reduce_sum(tf.where(error <= 1.0, 0.5 * error * error, error - 0.5), axis=-1)


def rpn_losses(outputs: dict[str, tf.Tensor], first_stage: config.FirstStage) -> dict[str, tf.Tensor]:
    """Losses of the sampled anchors: per image a sum over their number, then the mean over images.

    Of `outputs`: `rpn_box_encodings` [B, N, 4], `rpn_objectness_predictions_with_background` [B, N, 2] and, of the same N anchors,
    `rpn_target_encodings` [B, N, 4], `rpn_target_box_weights`, `rpn_target_objectness` (int32, 1 for objects), `rpn_sampled` (0 or 1).
    """
    sampled = outputs["rpn_sampled"]
    normalizer = tf.maximum(tf.reduce_sum(sampled, axis=1), 1.0)
    localization = huber(outputs["rpn_box_encodings"], outputs["rpn_target_encodings"])
    objectness = tf.nn.sparse_softmax_cross_entropy_with_logits(
        outputs["rpn_target_objectness"], outputs["rpn_objectness_predictions_with_background"]
    )
    box_weights = sampled * outputs["rpn_target_box_weights"]
    return {
        RPN_LOCALIZATION: first_stage.localization_loss_weight
        * tf.reduce_mean(tf.reduce_sum(localization * box_weights, axis=1) / normalizer),
        RPN_OBJECTNESS: first_stage.objectness_loss_weight * tf.reduce_mean(tf.reduce_sum(objectness * sampled, axis=1) / normalizer),
    }


def box_losses(outputs: dict[str, tf.Tensor], second_stage: config.SecondStage) -> dict[str, tf.Tensor]:
    """Losses of the sampled proposals: per image a sum over their number, then the mean over images; padding counts nothing.

    Of `outputs`: `num_proposals` [B], `refined_box_encodings` [B * P, classes or 1, 4], `class_predictions_with_background`
    [B * P, 1 + classes], and the targets `target_encodings` [B, P, 4], `target_classes` (int32 [B, P], 0 for background),
    `target_box_weights` and `target_class_weights` [B, P]. Where objects can have several classes, there is also `target_class_sets`
    float32 [B, P, 1 + classes], with a 1 for each.
    """
    classes = outputs["target_classes"]
    batch, count = tf.shape(classes)[0], tf.shape(classes)[1]
    valid = tf.sequence_mask(outputs["num_proposals"], count, tf.float32)
    normalizer = tf.cast(tf.maximum(outputs["num_proposals"], 1), tf.float32)
    encodings = outputs["refined_box_encodings"]
    encoded_class = tf.minimum(tf.maximum(tf.reshape(classes, [-1]) - 1, 0), tf.shape(encodings)[1] - 1)
    encodings = tf.reshape(tf.gather(encodings, encoded_class, axis=1, batch_dims=1), [batch, count, 4])
    logits = outputs["class_predictions_with_background"]
    logits = tf.reshape(logits, [batch, count, logits.shape[-1]])
    localization = huber(encodings, outputs["target_encodings"]) * outputs["target_box_weights"] * valid
    if second_stage.classification_loss == "weighted_sigmoid":
        sets = outputs.get("target_class_sets", tf.one_hot(classes, logits.shape[-1]))
        classification = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(sets, logits), axis=-1)
    elif "target_class_sets" in outputs:
        classification = tf.nn.softmax_cross_entropy_with_logits(outputs["target_class_sets"], logits)
    else:
        classification = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
    classification = classification * outputs["target_class_weights"] * valid
    return {
        BOX_LOCALIZATION: second_stage.localization_loss_weight * tf.reduce_mean(tf.reduce_sum(localization, axis=1) / normalizer),
        BOX_CLASSIFICATION: second_stage.classification_loss_weight * tf.reduce_mean(tf.reduce_sum(classification, axis=1) / normalizer),
    }


def mask_loss(outputs: dict[str, tf.Tensor], mask_head: config.MaskHead) -> dict[str, tf.Tensor]:
    """Loss of the positive proposals' masks: one sum over the (weighted) number of their pixels in the whole batch.

    Where several replicas have a share of the batch each, the mean of their losses is that of the whole.

    Of `outputs`: `mask_logits` and `mask_targets` [R, mask_h, mask_w] of R proposals, all positives among them, and `mask_weights` [R],
    zero for background.
    """
    logits, weights = outputs["mask_logits"], outputs["mask_weights"]
    losses = tf.nn.sigmoid_cross_entropy_with_logits(outputs["mask_targets"], logits)
    pixels = _mean_over_replicas(tf.reduce_sum(weights)) * float(mask_head.height * mask_head.width)
    total = tf.reduce_sum(tf.reduce_sum(losses, axis=[1, 2]) * weights)
    return {MASK: mask_head.loss_weight * total / tf.maximum(pixels, 1.0 / tf.distribute.get_strategy().num_replicas_in_sync)}


def _mean_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """A scalar's mean over the replicas that train together; without gradient."""
    replica = tf.distribute.get_replica_context()
    # None beside them all, where a network is tried out.
    return value if replica is None else tf.stop_gradient(replica.all_reduce(tf.distribute.ReduceOp.MEAN, value))
