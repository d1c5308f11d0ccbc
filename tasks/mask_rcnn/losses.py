"""The five losses, normalized and weighted as the original's; their plain sum is the total."""

from __future__ import annotations

import tensorflow as tf

from tasks.mask_rcnn import config
from tasks.mask_rcnn.targets import occupied

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
    `rpn_target_encodings` [B, N, 4], `rpn_target_box_weights`, `rpn_target_objectness` (1 for objects, whole numbers),
    `rpn_sampled` (0 or 1).
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

    Of `outputs`: `num_proposals` [B], `proposal_boxes` [B, P, 4] in pixels (for hard examples), `refined_box_encodings`
    [B * P, classes or 1, 4], `class_predictions_with_background` [B * P, 1 + classes], and the targets `target_encodings` [B, P, 4],
    `target_classes` (int64 [B, P], 0 for background), `target_box_weights` and `target_class_weights` [B, P]. Where objects can have
    several classes, there is also `target_class_sets` float32 [B, P, 1 + classes], with a 1 for each.
    """
    classes = outputs["target_classes"]
    batch, count = tf.shape(classes)[0], tf.shape(classes)[1]
    valid = tf.cast(occupied(outputs["num_proposals"], count), tf.float32)
    normalizer = tf.maximum(tf.cast(outputs["num_proposals"], tf.float32), 1.0)
    encodings = outputs["refined_box_encodings"]
    last_class = tf.cast(tf.shape(encodings)[1] - 1, classes.dtype)
    encoded_class = tf.minimum(tf.maximum(tf.reshape(classes, [-1]) - 1, 0), last_class)
    encodings = tf.reshape(tf.gather(encodings, encoded_class, axis=1, batch_dims=1), [batch, count, 4])
    logits = outputs["class_predictions_with_background"]
    logits = tf.reshape(logits, [batch, count, logits.shape[-1]])
    localization = huber(encodings, outputs["target_encodings"]) * outputs["target_box_weights"] * valid
    classification = _classification(logits, classes, outputs.get("target_class_sets"), second_stage)
    classification = classification * outputs["target_class_weights"] * valid
    if second_stage.hard_example_miner.loss_type:
        hard = hard_examples(outputs["proposal_boxes"], outputs["num_proposals"], localization, classification, second_stage)
        localization, classification = localization * hard, classification * hard
    return {
        BOX_LOCALIZATION: second_stage.localization_loss_weight * tf.reduce_mean(tf.reduce_sum(localization, axis=1) / normalizer),
        BOX_CLASSIFICATION: second_stage.classification_loss_weight * tf.reduce_mean(tf.reduce_sum(classification, axis=1) / normalizer),
    }


def _classification(logits: tf.Tensor, classes: tf.Tensor, class_sets: tf.Tensor | None, second_stage: config.SecondStage) -> tf.Tensor:
    """Loss of each proposal, [B, P], of logits [B, P, 1 + classes] and `classes` [B, P] or sets of them [B, P, 1 + classes]."""
    kind = second_stage.classification_loss
    if kind == "weighted_softmax":
        logits = logits / second_stage.loss_logit_scale
        if class_sets is None:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
        return tf.nn.softmax_cross_entropy_with_logits(class_sets, logits)
    sets = tf.one_hot(classes, logits.shape[-1]) if class_sets is None else class_sets
    losses = tf.nn.sigmoid_cross_entropy_with_logits(sets, logits)
    if kind == "weighted_sigmoid_focal":
        # Lin et al. 2017.
        probabilities = tf.sigmoid(logits)
        of_truth = sets * probabilities + (1 - sets) * (1 - probabilities)
        losses *= (1 - of_truth) ** second_stage.focal_gamma
        if second_stage.focal_alpha is not None:
            losses *= sets * second_stage.focal_alpha + (1 - sets) * (1 - second_stage.focal_alpha)
    return tf.reduce_sum(losses, axis=-1)


def hard_examples(
    proposals: tf.Tensor, num_proposals: tf.Tensor, localization: tf.Tensor, classification: tf.Tensor, second_stage: config.SecondStage
) -> tf.Tensor:
    """A 1 for each proposal that is learnt from, 0 for the others, float32 [B, P] (Shrivastava et al. 2016).

    `proposals` [B, P, 4] in pixels, `num_proposals` [B], and both losses [B, P], without their weights. Of a batch the original takes the
    first image's alone, where its function returns too early; here every image has its own.
    """
    miner = second_stage.hard_example_miner
    weights = {
        "BOTH": (second_stage.localization_loss_weight, second_stage.classification_loss_weight),
        "LOCALIZATION": (1.0, 0.0),
        "CLASSIFICATION": (0.0, 1.0),
    }[miner.loss_type]
    places = tf.shape(proposals)[1]

    def of_image(image: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        boxes_yxyx, losses, count = image
        most = miner.num_hard_examples or places
        kept = tf.image.non_max_suppression(boxes_yxyx[:count], losses[:count], most, miner.iou_threshold)
        return tf.scatter_nd(kept[:, tf.newaxis], tf.ones_like(kept, tf.float32), [places])

    # In the original's order, as rounding decides between equals.
    losses = classification * weights[1] + localization * weights[0]
    hard = tf.map_fn(of_image, (proposals, losses, num_proposals), fn_output_signature=tf.float32)
    return tf.stop_gradient(hard)


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
