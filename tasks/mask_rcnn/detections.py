"""Final detections: class scores, per-class suppression, clipping, the best of all classes."""

from __future__ import annotations

import tensorflow as tf

from tasks.mask_rcnn import boxes, config


def detect(
    refined_box_encodings: tf.Tensor,
    class_logits: tf.Tensor,
    proposals: tf.Tensor,
    num_proposals: tf.Tensor,
    true_shapes: tf.Tensor,
    second_stage: config.SecondStage,
) -> dict[str, tf.Tensor]:
    """`detection_boxes` float32 [B, D, 4], `detection_scores` [B, D], `detection_classes` int32 [B, D], `num_detections` int32 [B].

    Beside them `detection_multiclass_scores` float32 [B, D, 1 + classes], all scores of each detection with the background's first, and
    `detection_anchor_indices` int32 [B, D], the proposal that each came from.

    Args:
      refined_box_encodings: float32 [B, P, classes or 1, 4].
      class_logits: float32 [B, P, 1 + classes], background first.
      proposals: float32 [B, P, 4], yxyx in pixels.
      num_proposals: int32 [B]; what lies beyond is padding.
      true_shapes: int32 [B, 2].

    Boxes come back yxyx, normalized to the true image, best first, classes zero-based, D = max_total_detections, zero padded. As in the
    original, suppression works on unclipped boxes; clipping, and dropping what has no area left, come after it and before the cut.
    """
    decoded = boxes.decode(refined_box_encodings, proposals[:, :, tf.newaxis])
    all_scores = tf.sigmoid(class_logits) if second_stage.score_converter == "SIGMOID" else tf.nn.softmax(class_logits)
    scores = all_scores[..., 1:]
    # Padding has no score, so that no threshold lets it in.
    valid = tf.sequence_mask(num_proposals, tf.shape(proposals)[1])
    scores = tf.where(valid[..., tf.newaxis], scores, -1.0)
    num_classes = scores.shape[-1]
    per_class = second_stage.max_detections_per_class
    candidates = tf.image.combined_non_max_suppression(
        decoded,
        scores,
        max_output_size_per_class=per_class,
        max_total_size=per_class * num_classes,
        iou_threshold=second_stage.nms_iou_threshold,
        score_threshold=second_stage.nms_score_threshold,
        clip_boxes=False,
    )
    shapes = tf.cast(true_shapes, tf.float32)
    height, width = shapes[:, :1], shapes[:, 1:]
    clipped = boxes.scale(boxes.clip(candidates.nmsed_boxes, height, width), 1.0 / height, 1.0 / width)
    # Candidates are sorted by score; those that go get a key below all others, and top_k keeps the order of equals.
    index = tf.range(tf.shape(clipped)[1])
    keep = (boxes.area(clipped) > 0) & (index < candidates.valid_detections[:, tf.newaxis])
    order = tf.argsort(tf.cast(~keep, tf.int32), axis=1, stable=True)[:, : second_stage.max_total_detections]
    kept = tf.gather(keep, order, batch_dims=1)
    detection_scores = tf.gather(candidates.nmsed_scores, order, batch_dims=1)
    classes = tf.where(kept, tf.cast(tf.gather(candidates.nmsed_classes, order, batch_dims=1), tf.int32), 0)
    unclipped = tf.gather(candidates.nmsed_boxes, order, batch_dims=1)
    origins = tf.where(kept, _origins(unclipped, detection_scores, classes, decoded, scores), 0)
    padded = {
        "detection_boxes": tf.where(kept[..., tf.newaxis], tf.gather(clipped, order, batch_dims=1), 0.0),
        "detection_scores": tf.where(kept, detection_scores, 0.0),
        "detection_classes": classes,
        "detection_multiclass_scores": tf.where(kept[..., tf.newaxis], tf.gather(all_scores, origins, batch_dims=1), 0.0),
        "detection_anchor_indices": origins,
    }
    missing = second_stage.max_total_detections - per_class * num_classes
    if missing > 0:
        padded = {name: tf.pad(rows, [[0, 0], [0, missing]] + [[0, 0]] * (len(rows.shape) - 2)) for name, rows in padded.items()}
    return padded | {"num_detections": tf.reduce_sum(tf.cast(kept, tf.int32), axis=1)}


def _origins(found_boxes: tf.Tensor, found_scores: tf.Tensor, classes: tf.Tensor, decoded: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Index int32 [B, D] of the proposal that each detection came from: suppression copies boxes and scores, so they compare equal."""
    if decoded.shape[2] == 1:
        boxes_of_class = decoded[:, tf.newaxis, :, 0]
    else:
        boxes_of_class = tf.gather(tf.transpose(decoded, [0, 2, 1, 3]), classes, batch_dims=1)
    scores_of_class = tf.gather(tf.transpose(scores, [0, 2, 1]), classes, batch_dims=1)
    same_box = tf.reduce_all(boxes_of_class == found_boxes[:, :, tf.newaxis], axis=-1)
    same = same_box & (scores_of_class == found_scores[..., tf.newaxis])
    return tf.argmax(tf.cast(same, tf.int32), axis=-1, output_type=tf.int32)
