"""Proposals: decoded anchors, suppressed, clipped, sorted and padded."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tasks.mask_rcnn import boxes, config

# So many of the best anchors for every proposal wanted are looked at before all are.
_BEST_PER_PROPOSAL = 20


def propose(
    box_encodings: tf.Tensor,
    objectness: tf.Tensor,
    anchors: tf.Tensor,
    true_shapes: tf.Tensor,
    first_stage: config.FirstStage,
    training: bool = False,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Proposals float32 [B, P, 4], their objectness [B, P] and their number int32 [B]; P = max_proposals, zero padded.

    Args:
      box_encodings: float32 [B, N, 4].
      objectness: logits float32 [B, N, 2], background first.
      anchors: float32 [N, 4], yxyx in pixels.
      true_shapes: int32 [B, 2], (height, width) before padding.

    Proposals are yxyx in pixels, best first. As in the original, suppression sees all anchors and unclipped boxes; clipping to the true
    image comes after it, and boxes left without area are dropped, so that fewer than P may remain.
    """
    decoded = boxes.decode(box_encodings, anchors)
    scores = tf.nn.softmax(objectness)[..., 1]

    def propose_one(image: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        image_boxes, image_scores, true_shape = image
        kept = suppress(image_boxes, image_scores, first_stage, partitioned=training and first_stage.partitioned_nms)
        true_shape = tf.cast(true_shape, tf.float32)
        clipped = boxes.clip(tf.gather(image_boxes, kept), true_shape[0], true_shape[1])
        has_area = boxes.area(clipped) > 0
        # Moved up, not picked out: how many they are, the host would have to wait for.
        order = tf.argsort(tf.cast(~has_area, tf.float32), stable=True)
        has_area = tf.gather(has_area, order)
        selected = tf.where(has_area[:, tf.newaxis], tf.gather(clipped, order), 0.0)
        selected_scores = tf.where(has_area, tf.gather(tf.gather(image_scores, kept), order), 0.0)
        missing = first_stage.max_proposals - tf.size(kept)
        return (
            tf.ensure_shape(tf.pad(selected, [[0, missing], [0, 0]]), [first_stage.max_proposals, 4]),
            tf.ensure_shape(tf.pad(selected_scores, [[0, missing]]), [first_stage.max_proposals]),
            tf.cast(tf.math.count_nonzero(has_area), tf.int32),
        )

    selected, selected_scores, counts = tf.map_fn(
        propose_one, (decoded, scores, true_shapes), fn_output_signature=(tf.float32, tf.float32, tf.int32)
    )
    return tf.stop_gradient(selected), tf.stop_gradient(selected_scores), counts


def suppress(boxes_yxyx: tf.Tensor, scores: tf.Tensor, first_stage: config.FirstStage, *, partitioned: bool = False) -> tf.Tensor:
    """Indices int64 [K], best first, that non-maximum suppression of boxes float32 [N, 4] by their scores [N] keeps; K <= max_proposals.

    Suppression walks down the scores (of equals the first comes first, as in `top_k`), so if the best boxes alone fill every place, the
    others change nothing. On a GPU TensorFlow keeps a bit for every pair of boxes: 5 GB for the 200,000 anchors of 800 x 1333 pixels.

    `partitioned` is the original's suppression for fixed shapes, tile by tile. It finds the same boxes, except that an IoU of exactly the
    threshold suppresses, too, and that a box wholly above and to the left of the image takes no place.
    """
    iou_threshold = first_stage.nms_iou_threshold
    if partitioned:
        scores = tf.where(tf.reduce_any(boxes_yxyx > 0, axis=-1), scores, -1.0)
        iou_threshold = float(np.nextafter(np.float32(iou_threshold), np.float32(0)))

    def kept_of(some_boxes: tf.Tensor, their_scores: tf.Tensor) -> tf.Tensor:
        kept = tf.image.non_max_suppression(
            some_boxes, their_scores, first_stage.max_proposals, iou_threshold, first_stage.nms_score_threshold
        )
        return tf.cast(kept, tf.int64)

    best_scores, best = tf.math.top_k(scores, tf.minimum(first_stage.max_proposals * _BEST_PER_PROPOSAL, tf.size(scores)))
    kept = tf.gather(tf.cast(best, tf.int64), kept_of(tf.gather(boxes_yxyx, best), best_scores))
    return tf.cond(tf.size(kept) == first_stage.max_proposals, lambda: kept, lambda: kept_of(boxes_yxyx, scores))
