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
    original, suppression works on unclipped boxes; clipping, and dropping what has no area left, come after it and before the cut. Equal
    scores have the original's order, `_ranked`.
    """
    decoded = boxes.decode(refined_box_encodings, proposals[:, :, tf.newaxis])
    all_scores = scores_of(class_logits, second_stage)
    valid = tf.sequence_mask(num_proposals, tf.shape(proposals)[1])[..., tf.newaxis] & (
        all_scores[..., 1:] > second_stage.nms_score_threshold
    )
    keys, places = _ranked(tf.where(valid, all_scores[..., 1:], -1.0))
    num_classes = keys.shape[-1]
    per_class = second_stage.max_detections_per_class
    candidates = tf.image.combined_non_max_suppression(
        decoded,
        tf.where(valid, keys, 0.0),
        max_output_size_per_class=per_class,
        max_total_size=per_class * num_classes,
        iou_threshold=second_stage.nms_iou_threshold,
        score_threshold=0.0,
        clip_boxes=False,
    )
    shapes = tf.cast(true_shapes, tf.float32)
    height, width = shapes[:, :1], shapes[:, 1:]
    clipped = boxes.scale(boxes.clip(candidates.nmsed_boxes, height, width), 1.0 / height, 1.0 / width)
    # Candidates are sorted; those that go get a key below all others, and top_k keeps the order of equals.
    index = tf.range(tf.shape(clipped)[1])
    keep = (boxes.area(clipped) > 0) & (index < candidates.valid_detections[:, tf.newaxis])
    order = tf.argsort(tf.cast(~keep, tf.int32), axis=1, stable=True)[:, : second_stage.max_total_detections]
    kept = tf.gather(keep, order, batch_dims=1)
    # What suppression copied of a detection is its key; that tells where it came from.
    ranks = tf.shape(places)[1] - tf.cast(tf.gather(candidates.nmsed_scores, order, batch_dims=1), tf.int32)
    came_from = tf.gather(places, tf.where(kept, ranks, 0), batch_dims=1)
    origins = tf.where(kept, came_from % tf.shape(proposals)[1], 0)
    classes = tf.where(kept, came_from // tf.shape(proposals)[1], 0)
    multiclass_scores = tf.gather(all_scores, origins, batch_dims=1)
    padded = {
        "detection_boxes": tf.where(kept[..., tf.newaxis], tf.gather(clipped, order, batch_dims=1), 0.0),
        "detection_scores": tf.where(kept, tf.gather(multiclass_scores, classes + 1, batch_dims=2), 0.0),
        "detection_classes": classes,
        "detection_multiclass_scores": tf.where(kept[..., tf.newaxis], multiclass_scores, 0.0),
        "detection_anchor_indices": origins,
    }
    missing = second_stage.max_total_detections - per_class * num_classes
    if missing > 0:
        padded = {name: tf.pad(rows, [[0, 0], [0, missing]] + [[0, 0]] * (len(rows.shape) - 2)) for name, rows in padded.items()}
    return padded | {"num_detections": tf.reduce_sum(tf.cast(kept, tf.int32), axis=1)}


def scores_of(class_logits: tf.Tensor, second_stage: config.SecondStage) -> tf.Tensor:
    """Scores of logits [..., 1 + classes], background first."""
    logits = class_logits / second_stage.score_logit_scale
    return tf.sigmoid(logits) if second_stage.score_converter == "SIGMOID" else tf.nn.softmax(logits)


def _ranked(scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A key for every score of [B, P, C], float32 of that shape, and the places of the keys from the highest on, int32 [B, C * P].

    Keys are whole numbers from C * P down to 1, no two alike: of equal scores the lower class comes first, and of one class the first
    proposal, which is how the original's single suppressions and its stable sort leave them. `combined_non_max_suppression` has no order
    for equals. A place is class * P + proposal.
    """
    flat = tf.reshape(tf.transpose(scores, [0, 2, 1]), [tf.shape(scores)[0], -1])
    places = tf.argsort(flat, direction="DESCENDING", stable=True)
    keys = tf.cast(tf.shape(flat)[1] - tf.argsort(places), tf.float32)
    by_class = tf.reshape(keys, tf.stack([tf.shape(scores)[0], scores.shape[2], tf.shape(scores)[1]]))
    return tf.ensure_shape(tf.transpose(by_class, [0, 2, 1]), scores.shape), places
