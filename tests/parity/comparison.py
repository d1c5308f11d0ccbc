"""Our models against the original's own tensors: deviations, one row per tensor, each with the tolerance it must keep.

A reference file holds tensors of the original's TF1 graph under weights that depend on nothing but the variable's name
(`references/weights.py`). Stage 2 is fed the stored proposals and stage 3 the stored detections, so that one swapped pair of
near-equal scores does not hide everything behind it; proposals and detections are compared on their own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tasks.mask_rcnn import boxes, config
from tasks.mask_rcnn.model import MaskRCNN
from tasks.mask_rcnn.original_names import original_variables
from tests.parity.references.weights import make_weight

REFERENCES = Path(__file__).parent / "references"
SCOPES = ("resnet50", "resnet101", "inception_v2", "inception_resnet_v2")

STAGE_1, LATER, LOSSES, GRADIENTS = 1e-4, 1e-3, 1e-4, 1e-3
# After an optimizer step there are no stored proposals to feed, and the last bit of a proposal that ends at the image's border decides
# whether the last row of its crop is features or zeros: one of 24 crops may differ altogether.
AFTER_A_STEP = 1e-2


@dataclasses.dataclass(frozen=True)
class Deviation:
    """How far a tensor is off, in units that its tolerance is stated in: its own standard deviation, or relative."""

    tensor: str
    deviation: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.deviation <= self.tolerance


class Reference:
    """One file of the original's tensors."""

    def __init__(self, path: Path) -> None:
        self._arrays = np.load(path)
        self.meta: dict[str, Any] = json.loads(str(self._arrays["meta"]))
        self.name: str = self.meta["config"]
        self.seed: int = self.meta["seed"]

    def __getitem__(self, key: str) -> Any:
        return self._arrays[key]

    def variables(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the original's variables by name."""
        return {entry["name"]: tuple(entry["shape"]) for entry in json.loads(str(self["infer_variables"]))}

    def spread(self, key: str) -> float:
        """Standard deviation of the full tensor; 1 for counts, which must be equal."""
        return float(self[f"{key}__stats"][1]) if f"{key}__stats" in self._arrays else 1.0

    def sampled(self, key: str, full: Any) -> Any:
        """`full` at the places that the file stores of it."""
        full = np.asarray(full)
        if f"{key}__stride" not in self._arrays:
            return full.reshape(self[key].shape)
        full = full.reshape(self[f"{key}__shape"])
        return full[tuple(slice(None, None, int(step)) for step in self[f"{key}__stride"])]

    def deviation(self, key: str, full: Any, tolerance: float) -> Deviation:
        """Largest absolute difference over the tensor's standard deviation."""
        difference = np.abs(self.sampled(key, full) - self[key]).max()
        return Deviation(key, float(difference / (self.spread(key) or 1.0)), tolerance)


def zoo_model(reference: Reference) -> config.MaskRCNN:
    """The zoo config's model that a reference was made with."""
    inception = reference.name == "inception_v2"
    wide = reference.name == "inception_resnet_v2"
    stride = 16 if inception else 8
    uniform = config.Initializer(kind="variance_scaling", uniform=True, mode="FAN_AVG")
    return config.MaskRCNN(
        num_classes=90,
        feature_extractor=config.FeatureExtractor(type=f"faster_rcnn_{reference.name}", first_stage_features_stride=stride),
        anchors=config.GridAnchorGenerator(height_stride=stride, width_stride=stride),
        first_stage=config.FirstStage(
            atrous_rate=1 if inception else 2,
            max_proposals=reference.meta["proposals"],
            localization_loss_weight=2.0,
        ),
        second_stage=config.SecondStage(
            initial_crop_size=17 if wide else 14,
            maxpool_kernel_size=1 if wide else 2,
            maxpool_stride=1 if wide else 2,
            fc_hyperparams=config.Hyperparams(initializer=uniform),
            max_total_detections=reference.meta["detections"],
            localization_loss_weight=2.0,
        ),
        mask_head=config.MaskHead(
            height=15 if inception else 33,
            width=15 if inception else 33,
            conv_depth=0,
            num_conv_layers=2 if inception else 4,
            loss_weight=4.0,
        ),
    )


def reference_model(model: config.MaskRCNN, seed: int) -> MaskRCNN:
    """The model with the deterministic weights."""
    network = MaskRCNN(model)
    for name, variable in original_variables(network).items():
        variable.assign(make_weight(name, variable.shape, seed))
    return network


def inference_deviations(reference: Reference) -> Iterator[Deviation]:
    """Every stored tensor of the inference graph."""
    model = reference_model(zoo_model(reference), reference.seed)
    images = tf.constant(reference["image"][np.newaxis], tf.float32)
    true_shapes = tf.shape(images)[tf.newaxis, 1:3]
    outputs = tf.function(model.propose)(images, true_shapes)
    for name in (
        "preprocessed",
        "anchors",
        "rpn_features_to_crop",
        "rpn_box_predictor_features",
        "rpn_box_encodings",
        "rpn_objectness_predictions_with_background",
    ):
        yield reference.deviation(f"infer/{name}", outputs[name], STAGE_1)
    for name in ("proposal_boxes_normalized", "num_proposals"):
        yield reference.deviation(f"infer/{name}", outputs[name], LATER)

    outputs["proposal_boxes_normalized"] = tf.constant(reference["infer/proposal_boxes_normalized"])
    outputs |= tf.function(model.refine)(outputs["rpn_features_to_crop"], outputs["proposal_boxes_normalized"])
    for name in ("box_classifier_features", "refined_box_encodings", "class_predictions_with_background"):
        yield reference.deviation(f"infer/{name}", outputs[name], LATER)
    outputs |= model.detections(outputs, true_shapes)
    for name in ("detection_boxes", "detection_scores", "detection_classes", "num_detections"):
        yield reference.deviation(f"infer/{name}", outputs[name], LATER)

    outputs["detection_boxes"] = tf.constant(reference["infer/detection_boxes"])
    outputs["detection_classes"] = tf.constant(reference["infer/detection_classes"], tf.int32)
    yield reference.deviation("infer/detection_masks", tf.function(model.masks)(outputs, true_shapes), LATER)
    features = model.refine(outputs["rpn_features_to_crop"], outputs["detection_boxes"])["box_classifier_features"]
    logits = tf.function(model.mask_head.all_classes)(features)
    yield reference.deviation("infer/mask_predictions", logits, LATER)


def training_model(reference: Reference) -> config.MaskRCNN:
    """The zoo config's model with the limits that made the reference's training deterministic."""
    settings = json.loads(str(reference["train/config"]))
    model = zoo_model(reference)
    model.first_stage.minibatch_size = settings["first_stage_minibatch_size"]
    model.first_stage.max_proposals = settings["first_stage_max_proposals"]
    model.second_stage.batch_size = settings["second_stage_batch_size"]
    model.second_stage.balance_fraction = settings["second_stage_balance_fraction"]
    return model


def groundtruth(reference: Reference) -> dict[str, tf.Tensor]:
    """The reference's objects, as a batch of one."""
    truth_boxes = reference["train/gt_boxes_normalized"]
    shape = reference["train/gt_masks_shape"]
    masks = np.unpackbits(reference["train/gt_masks_packed"])[: np.prod(shape)].reshape(shape)
    return {
        "boxes": tf.constant(truth_boxes[np.newaxis], tf.float32),
        "classes": tf.constant(reference["train/gt_classes_zero_based"][np.newaxis], tf.int32),
        "num_boxes": tf.constant([len(truth_boxes)]),
        "weights": tf.ones([1, len(truth_boxes)]),
        "masks": tf.constant(masks[np.newaxis], tf.uint8),
    }


def training_deviations(reference: Reference) -> Iterator[Deviation]:
    """Losses, gradients, and the losses after each optimizer step."""
    settings = json.loads(str(reference["train/config"]))
    model = reference_model(training_model(reference), reference.seed)
    images = tf.constant(reference["image"][np.newaxis], tf.float32)
    true_shapes = tf.shape(images)[tf.newaxis, 1:3]
    truth = groundtruth(reference)
    optimizer = tf_keras.optimizers.legacy.SGD(settings["learning_rate"], momentum=settings["momentum"])
    variables = model.trainable_variables

    @tf.function
    def gradients(stored_proposals: tf.Tensor | None) -> tuple[Any, Any, Any]:
        with tf.GradientTape() as tape:
            outputs = model.propose(images, true_shapes, training=True)
            proposals = {name: outputs[name] for name in ("proposal_boxes_normalized", "num_proposals")}
            if stored_proposals is not None:
                outputs["proposal_boxes"] = boxes.scale(stored_proposals, *tf.unstack(outputs["image_size"]))
            outputs = model.training_outputs(outputs, true_shapes, truth)
            losses = model.compute_losses(outputs)
            total = tf.add_n(list(losses.values()))
        computed = tape.gradient(total, variables)
        return losses, computed, proposals

    names = [str(name) for name in reference["train/loss_names"]]
    for step, row in enumerate(reference["train/trajectory"]):
        losses, computed, proposals = gradients(reference["train/proposal_boxes_normalized"] if step == 0 else None)
        for name, expected in zip(names, row, strict=False):
            yield Deviation(f"train/step {step}/{name}", abs(float(losses[name]) / expected - 1), AFTER_A_STEP if step else LOSSES)
        if step == 0:
            for name, value in proposals.items():
                yield reference.deviation(f"train/{name}", value, LATER)
            yield from _gradient_deviations(reference, model, dict(zip([v.ref() for v in variables], computed, strict=True)))
        norm = tf.linalg.global_norm(computed)
        if np.isfinite(row[-1]):
            yield Deviation(f"train/step {step}/gradient norm", abs(float(norm) / row[-1] - 1), AFTER_A_STEP if step else GRADIENTS)
        clipped, _ = tf.clip_by_global_norm(computed, settings["clip_by_global_norm"], norm)
        optimizer.apply_gradients(zip(clipped, variables, strict=True))


def _gradient_deviations(reference: Reference, model: MaskRCNN, computed: dict[Any, Any]) -> Iterator[Deviation]:
    """Of all gradients together: the norm of the difference over the norm, for norms per variable and for samples of values."""
    ours = original_variables(model)
    norms, samples, start = [], [], 0
    stored = reference["train/grad_sample"]
    for name, length, stride in zip(
        reference["train/grad_names"],
        reference["train/grad_sample_lengths"],
        reference["train/grad_sample_flat_strides"],
        strict=True,
    ):
        value = tf.convert_to_tensor(computed[ours[str(name)].ref()]).numpy()
        norms.append(np.linalg.norm(value))
        samples.append(value.ravel()[::stride][:length] - stored[start : start + length])
        start += length
    expected = reference["train/grad_norms"]
    yield Deviation("train/gradient norms", float(np.linalg.norm(norms - expected) / np.linalg.norm(expected)), GRADIENTS)
    difference = np.concatenate(samples)
    yield Deviation("train/gradient samples", float(np.linalg.norm(difference) / np.linalg.norm(stored)), GRADIENTS)
