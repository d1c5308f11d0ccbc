"""The zoo's Mask R-CNN: backbone -> proposals -> boxes -> masks, over one feature map."""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from tasks.mask_rcnn import boxes, config, draws, losses, xla
from tasks.mask_rcnn.anchors import anchors_per_cell, grid_anchors
from tasks.mask_rcnn.backbones import build_backbone
from tasks.mask_rcnn.box_head import BoxHead
from tasks.mask_rcnn.cropped_network import CroppedNetwork
from tasks.mask_rcnn.detections import detect
from tasks.mask_rcnn.mask_head import MaskHead
from tasks.mask_rcnn.mask_targets import mask_targets, whole_frames
from tasks.mask_rcnn.proposals import propose
from tasks.mask_rcnn.rpn import RegionProposalNetwork
from tasks.mask_rcnn.targets import GroundTruth, filled, occupied, proposal_targets, rpn_targets, sample

Tensors = dict[str, tf.Tensor]


class MaskRCNN(tf_keras.Model):
    """One zoo model (He et al. 2017 on a single C4-style feature map), equal to the original's by number; see `tests/parity`.

    Tensors carry the original's names. Its variables are there from construction on, under the original's scopes.
    """

    def __init__(self, model: config.MaskRCNN) -> None:
        # Under mixed precision Keras would round the images before their means are subtracted.
        super().__init__(name="mask_rcnn", autocast=False)
        self.config = model
        backbone = build_backbone(model.feature_extractor)
        self._preprocess = backbone.preprocess
        self.first_stage = backbone.first_stage
        channels = self.first_stage.output_shape[-1]
        self.rpn = RegionProposalNetwork(model.first_stage, anchors_per_cell(model.anchors), channels)
        if model.number_of_stages >= 2:
            self.second_stage = backbone.second_stage
            self._cropped = CroppedNetwork(self.second_stage, model.second_stage)
            crop = _pooled_size(model.second_stage)
            feature_shape = self.second_stage.compute_output_shape((None, crop, crop, channels))[1:]
            self.box_head = BoxHead(model.second_stage, model.num_classes, feature_shape[-1])
        if model.number_of_stages == 3:
            self.mask_head = MaskHead(model.mask_head, model.num_classes, tuple(feature_shape))
        self._apply = xla.compiled() if model.jit_compile else xla.plain
        self.built = True

    def call(
        self,
        images: tf.Tensor,
        true_shapes: tf.Tensor,
        groundtruth: Tensors | None = None,
        training: bool = False,
    ) -> Tensors:
        """Detections, or in training what `compute_losses` needs.

        Args:
          images: float32 [B, H, W, 3], RGB 0..255, resized, zero padded at the bottom and the right to a common size.
          true_shapes: int32 [B, 2], (height, width) before padding.
          groundtruth: in training, `boxes` float32 [B, M, 4] yxyx normalized to the true image, `classes` int32 [B, M] zero-based,
            `num_boxes` int32 [B], `weights` float32 [B, M] and, for three stages, what `mask_targets` needs, or `masks` uint8 [B, M, H, W]
            on the padded image;
            `class_sets` float32 [B, M, C], 0 or 1, where an object can have several of the first C classes, `classes` the lowest;
            `seeds` int32 [B, 2], from which all that is drawn for an image follows, see `draws`.

        Detections are those of `tasks.mask_rcnn.detections.detect`, with `detection_masks` float32 [B, D, mask_h, mask_w],
        probabilities over each box, when there are three stages. With one stage they are the proposals, all of class 0.
        """
        outputs = self.propose(images, true_shapes, training)
        if training:
            if groundtruth is None:
                raise ValueError("training needs ground truth")
            return self.training_outputs(outputs, true_shapes, groundtruth)
        if self.config.number_of_stages == 1:
            return outputs | _proposals_as_detections(outputs, true_shapes)
        outputs |= self.refine(outputs["rpn_features_to_crop"], outputs["proposal_boxes_normalized"])
        outputs |= self.detections(outputs, true_shapes)
        if self.config.number_of_stages == 3:
            outputs["detection_masks"] = self.masks(outputs, true_shapes)
        return outputs

    def compute_losses(self, outputs: Tensors) -> Tensors:
        """The original's weighted losses by its own names; their plain sum is the total. `outputs` come from a training call."""
        values = losses.rpn_losses(outputs, self.config.first_stage)
        if self.config.number_of_stages >= 2:
            values |= losses.box_losses(outputs, self.config.second_stage)
        if self.config.number_of_stages == 3:
            values |= losses.mask_loss(outputs, self.config.mask_head)
        return values

    def propose(self, images: tf.Tensor, true_shapes: tf.Tensor, training: bool = False) -> Tensors:
        """Stage 1: features, its raw predictions, `anchors` [N, 4] and `proposal_boxes` [B, P, 4] in pixels, and the latter normalized.

        Proposals are normalized to the padded image, and once only: the last bit decides what a crop holds at the image's border.

        In training, anchors that cross the padded image's border are gone together with their predictions, unless they are to be clipped;
        otherwise all anchors are clipped to it.
        """
        preprocessed = self._preprocess(images)
        features = self._apply(self.first_stage, preprocessed, training=training)
        outputs = self._apply(self.rpn, features)
        height, width = tf.cast(tf.shape(images)[1], tf.float32), tf.cast(tf.shape(images)[2], tf.float32)
        anchors = grid_anchors(tf.shape(features)[1], tf.shape(features)[2], self.config.anchors)
        if training and not self.config.first_stage.clip_anchors_to_image:
            inside = (tf.reduce_min(anchors, axis=1) >= 0) & (anchors[:, 2] <= height) & (anchors[:, 3] <= width)
            kept = tf.where(inside)[:, 0]
            anchors = tf.gather(anchors, kept)
            for name in ("rpn_box_encodings", "rpn_objectness_predictions_with_background"):
                outputs[name] = tf.gather(outputs[name], kept, axis=1)
        else:
            anchors = boxes.clip(anchors, height, width)
        proposals, scores, num_proposals = propose(
            outputs["rpn_box_encodings"],
            outputs["rpn_objectness_predictions_with_background"],
            anchors,
            true_shapes,
            self.config.first_stage,
            training,
        )
        return outputs | {
            "preprocessed": preprocessed,
            "rpn_features_to_crop": features,
            "anchors": anchors,
            "image_size": tf.stack([height, width]),
            "proposal_boxes": proposals,
            "proposal_boxes_normalized": boxes.scale(proposals, 1.0 / height, 1.0 / width),
            "proposal_scores": scores,
            "num_proposals": num_proposals,
        }

    def refine(
        self, features: tf.Tensor, boxes_yxyx_normalized: tf.Tensor, training: bool = False, seeds: tf.Tensor | None = None
    ) -> Tensors:
        """Stage 2 at boxes [B, P, 4] normalized to the padded image: its features and predictions, one row per box ([B * P, ...])."""
        box_features = self._cropped(features, boxes_yxyx_normalized, training=training, apply=self._apply)
        return {"box_classifier_features": box_features} | self._apply(self.box_head, box_features, training=training, seeds=seeds)

    def detections(self, outputs: Tensors, true_shapes: tf.Tensor) -> Tensors:
        """Post-processing of stage 2, see `tasks.mask_rcnn.detections.detect`."""
        proposals = outputs["proposal_boxes"]
        leading = tf.shape(proposals)[:2]
        encodings, logits = outputs["refined_box_encodings"], outputs["class_predictions_with_background"]
        return detect(
            tf.reshape(encodings, tf.concat([leading, encodings.shape[1:]], 0)),
            tf.reshape(logits, tf.concat([leading, logits.shape[1:]], 0)),
            proposals,
            outputs["num_proposals"],
            true_shapes,
            self.config.second_stage,
        )

    def masks(self, outputs: Tensors, true_shapes: tf.Tensor) -> tf.Tensor:
        """Stage 3: probabilities float32 [B, D, mask_h, mask_w] of each detection's own class.

        Crops are taken anew, at the detections.
        """
        # Only places that hold a detection in some image are computed: at least one, as fused convolutions refuse an empty batch.
        batch, most = tf.shape(true_shapes)[0], tf.maximum(tf.reduce_max(outputs["num_detections"]), 1)
        crop_boxes = self.mask_boxes(outputs, true_shapes)[:, :most]
        # Never compiled: their number changes from image to image, and every number would be another program.
        features = self._cropped(outputs["rpn_features_to_crop"], crop_boxes)
        logits = self.mask_head(features, tf.reshape(outputs["detection_classes"][:, :most], [-1]))
        places = self.config.second_stage.max_total_detections
        masks = tf.reshape(tf.sigmoid(logits), [batch, most, *logits.shape[1:]])
        masks *= tf.sequence_mask(outputs["num_detections"], most, tf.float32)[..., tf.newaxis, tf.newaxis]
        masks = tf.pad(masks, [[0, 0], [0, places - most], [0, 0], [0, 0]])
        return tf.ensure_shape(masks, [None, places, *logits.shape[1:]])

    def mask_boxes(self, outputs: Tensors, true_shapes: tf.Tensor) -> tf.Tensor:
        """Where on the padded feature map masks are predicted, [B, D, 4]: at the detections, which are relative to the true image.

        The original forgot the padding, and with `original_padded_masks` so does this.
        """
        if self.config.original_padded_masks:
            return outputs["detection_boxes"]
        padding = tf.cast(true_shapes, tf.float32) / outputs["image_size"]
        return boxes.scale(outputs["detection_boxes"], padding[:, :1], padding[:, 1:])

    def training_outputs(self, outputs: Tensors, true_shapes: tf.Tensor, groundtruth: Tensors) -> Tensors:
        """What `compute_losses` needs: `outputs` of `propose` in training, with targets, sampled proposals and their predictions."""
        shapes = tf.cast(true_shapes, tf.float32)
        truth_boxes = boxes.scale(groundtruth["boxes"], shapes[:, :1], shapes[:, 1:])
        outputs |= self._rpn_targets(outputs["anchors"], truth_boxes, groundtruth)
        if self.config.number_of_stages == 1:
            return outputs
        outputs |= self._sampled_proposals(outputs, truth_boxes, groundtruth)
        outputs |= self.refine(
            outputs["rpn_features_to_crop"], outputs["proposal_boxes_normalized"], training=True, seeds=groundtruth["seeds"]
        )
        if self.config.number_of_stages == 3:
            outputs |= self._mask_outputs(outputs, groundtruth)
        return outputs

    def _rpn_targets(self, anchors: tf.Tensor, truth_boxes: tf.Tensor, groundtruth: Tensors) -> Tensors:
        first_stage = self.config.first_stage

        def one(image: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            *image_truth, seed = image
            targets = rpn_targets(anchors, GroundTruth(*image_truth))
            objects = targets.matches >= 0
            size, fraction = first_stage.minibatch_size, first_stage.positive_balance_fraction
            eligible = targets.class_weights > 0
            if self.config.static_sampler:
                eligible = filled(eligible, size)
            sampled = sample(objects, eligible, size, fraction, seed, draws.ANCHORS)
            return (
                targets.box_encodings,
                targets.box_weights,
                tf.cast(objects, tf.int64),
                tf.cast(sampled, tf.float32),
            )

        encodings, box_weights, objectness, sampled = tf.map_fn(
            one,
            _per_image(truth_boxes, groundtruth),
            fn_output_signature=(tf.float32, tf.float32, tf.int64, tf.float32),
        )
        targets = {
            "rpn_target_encodings": encodings,
            "rpn_target_box_weights": box_weights,
            "rpn_target_objectness": objectness,
            "rpn_sampled": sampled,
        }
        return _without_gradient(targets)

    def _sampled_proposals(self, outputs: Tensors, truth_boxes: tf.Tensor, groundtruth: Tensors) -> Tensors:
        """The proposals that stage 2 trains on, [B, trained_proposals, ...], best first and zero padded, with their targets."""
        second_stage = self.config.second_stage
        size = self.config.trained_proposals

        def one(image: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            image_proposals, exists, *image_truth, seed = image
            truth = GroundTruth(*image_truth)
            targets = proposal_targets(image_proposals, truth)
            objects, eligible = targets.matches >= 0, (targets.class_weights > 0) & exists
            if self.config.static_sampler:
                eligible = filled(eligible, size)
            if second_stage.hard_example_miner.loss_type:
                sampled = exists
            else:
                sampled = sample(objects, eligible, size, second_stage.balance_fraction, seed, draws.PROPOSALS)
            # The sampled are moved up, and what is behind them is zero: picked out, the host would have to wait for their number.
            places = tf.size(sampled)
            _, order = tf.math.top_k(tf.pad(tf.cast(sampled, tf.float32), [[0, tf.maximum(size - places, 0)]]), size)
            order = tf.minimum(tf.cast(order, tf.int64), tf.cast(places - 1, tf.int64))
            count = tf.math.count_nonzero(sampled)
            is_sampled = tf.range(size, dtype=tf.int64) < count
            matches = tf.gather(targets.matches, order)
            one_more = tf.concat([truth.classes, tf.zeros([1], tf.int64)], axis=0)
            classes = tf.gather(one_more, tf.maximum(matches, 0)) + 1
            rows = (
                tf.gather(image_proposals, order),
                matches,
                tf.where(matches >= 0, classes, 0),
                tf.gather(targets.box_encodings, order),
                tf.gather(targets.box_weights, order),
                tf.gather(targets.class_weights, order),
            )
            return (*(tf.where(tf.reshape(is_sampled, [size] + [1] * (len(row.shape) - 1)), row, 0) for row in rows), count)

        exists = occupied(outputs["num_proposals"], tf.shape(outputs["proposal_boxes"])[1])
        chosen, matches, classes, encodings, box_weights, class_weights, counts = tf.map_fn(
            one,
            (outputs["proposal_boxes"], exists, *_per_image(truth_boxes, groundtruth)),
            fn_output_signature=(tf.float32, tf.int64, tf.int64, tf.float32, tf.float32, tf.float32, tf.int64),
        )
        height, width = tf.unstack(outputs["image_size"])
        sampled = {
            "proposal_boxes": chosen,
            "proposal_boxes_normalized": boxes.scale(chosen, 1.0 / height, 1.0 / width),
            "num_proposals": counts,
            "target_matches": matches,
            "target_classes": classes,
            "target_encodings": encodings,
            "target_box_weights": box_weights,
            "target_class_weights": class_weights,
        }
        if "class_sets" in groundtruth:
            sampled["target_class_sets"] = self._class_sets(groundtruth["class_sets"], matches)
        return _without_gradient(sampled)

    def _class_sets(self, object_sets: tf.Tensor, matches: tf.Tensor) -> tf.Tensor:
        """The classes of matched objects, background without a match: float32 [B, P, 1 + classes] of 0 and 1.

        `object_sets` [B, M, C], of C classes at most those of the model; `matches` int64 [B, P], below 0 without a match.
        """
        missing = self.config.num_classes - object_sets.shape[-1]
        # One more object, so that a batch without any can be gathered from.
        padded = tf.pad(object_sets, [[0, 0], [0, 1], [1, missing]])
        matched = tf.gather(padded, tf.maximum(matches, 0), batch_dims=1)
        return tf.where(matches[..., tf.newaxis] >= 0, matched, tf.one_hot(0, 1 + self.config.num_classes))

    def _mask_outputs(self, outputs: Tensors, groundtruth: Tensors) -> Tensors:
        """The mask branch where the loss looks: `mask_logits` and `mask_targets` [R, mask_h, mask_w], `mask_weights` [R].

        Targets are soft: the object's mask, cropped by the proposal and bilinearly resized.
        """
        rows = self.mask_rows(outputs["target_classes"])
        classes, matches = (tf.gather(tf.reshape(outputs[f"target_{name}"], [-1]), rows) for name in ("classes", "matches"))
        targets = mask_targets(
            groundtruth | whole_frames(groundtruth["masks"]) if "masks" in groundtruth else groundtruth,
            rows // self.config.trained_proposals,
            tf.maximum(matches, 0),
            tf.gather(tf.reshape(outputs["proposal_boxes_normalized"], [-1, 4]), rows),
            (self.config.mask_head.height, self.config.mask_head.width),
            use_matmul=self.config.second_stage.use_matmul_crop_and_resize,
        )
        features = tf.gather(outputs["box_classifier_features"], rows)
        return {
            "mask_logits": self._apply(self.mask_head, features, tf.maximum(classes - 1, 0)),
            "mask_targets": tf.stop_gradient(targets),
            "mask_weights": tf.gather(tf.reshape(outputs["target_box_weights"], [-1]), rows),
        }

    def mask_rows(self, target_classes: tf.Tensor) -> tf.Tensor:
        """Which of the batch's proposals, counted through [B, P], the mask branch runs on: int64 [R], positives first, at least one.

        Only positives enter the loss. R is their number rounded up to quarters of what the sampler allows: for every new size a GPU tunes
        its convolutions, and XLA compiles them, anew.
        """
        background = tf.reshape(target_classes == 0, [-1])
        allowed = tf.shape(target_classes)[0] * self.config.most_positives
        quarter = tf.maximum((allowed + 3) // 4, 1)
        positives = tf.cast(tf.math.count_nonzero(~background), tf.int32)
        count = tf.maximum((positives + quarter - 1) // quarter, 1) * quarter
        return tf.cast(tf.argsort(tf.cast(background, tf.float32), stable=True), tf.int64)[:count]


def _pooled_size(second_stage: config.SecondStage) -> int:
    return (second_stage.initial_crop_size - second_stage.maxpool_kernel_size) // second_stage.maxpool_stride + 1


def _proposals_as_detections(outputs: Tensors, true_shapes: tf.Tensor) -> Tensors:
    shapes = tf.cast(true_shapes, tf.float32)
    return {
        "detection_boxes": boxes.scale(outputs["proposal_boxes"], 1.0 / shapes[:, :1], 1.0 / shapes[:, 1:]),
        "detection_scores": outputs["proposal_scores"],
        "detection_classes": tf.zeros_like(outputs["proposal_scores"], tf.int32),
        "num_detections": outputs["num_proposals"],
    }


def _per_image(truth_boxes: tf.Tensor, groundtruth: Tensors) -> tuple[tf.Tensor, ...]:
    """The elements of `GroundTruth` and the seeds, [B, ...]."""
    exists = occupied(groundtruth["num_boxes"], tf.shape(truth_boxes)[1])
    return truth_boxes, tf.cast(groundtruth["classes"], tf.int64), groundtruth["weights"], exists, groundtruth["seeds"]


def _without_gradient(targets: Tensors) -> Tensors:
    """Whole numbers have none, and as int32 would go to the host to be told so."""
    return {name: value if value.dtype.is_integer else tf.stop_gradient(value) for name, value in targets.items()}
