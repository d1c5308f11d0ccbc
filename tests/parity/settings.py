"""What the original makes of settings that the zoo does not use, in `settings.npz`: `references/original_settings.py` wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format

from tasks.checkpoints.original_names import original_variables
from tasks.input.image_resizer import resize_image
from tasks.mask_rcnn import config
from tasks.mask_rcnn.crop import crop_and_pool
from tasks.mask_rcnn.detections import detect
from tasks.mask_rcnn.model import MaskRCNN
from tasks.pipeline_config.experiment import translate
from tasks.pipeline_config.parser import read_pipeline_config
from tasks.pipeline_config.zoo import zoo_configs
from tasks.training.experiment import experiment_from
from tests.parity.deviation import EXACT, LATER, LOSSES, STAGE_1, Deviation, in_spreads
from tests.parity.inference import resized
from tests.parity.reference import REFERENCES, Reference, weighted, zoo_model_of
from tests.parity.references.weights import make_weight
from tests.parity.training import groundtruth

_SEED = 11
_IMAGE_SHAPES = [[96, 150], [80, 120]]


def setting_deviations(path: Path) -> Iterator[Deviation]:
    """Rows for every result that the file holds."""
    stored = dict(np.load(path))
    yield from _ties(stored)
    yield from _crops(stored)
    yield from _padded_masks(stored)
    yield from _variants(stored)


def _cases(stored: dict[str, Any], group: str) -> list[str]:
    return sorted({"/".join(key.split("/")[:2]) for key in stored if key.startswith(f"{group}/")})


def _ties(stored: dict[str, Any]) -> Iterator[Deviation]:
    for case in _cases(stored, "ties"):
        per_class, total, threshold = stored[f"{case}/settings"].tolist()
        found = detect(
            *(tf.constant(stored[f"{case}/{name}"]) for name in ("encodings", "logits", "proposals", "valid")),
            tf.constant(_IMAGE_SHAPES),
            config.SecondStage(
                max_detections_per_class=int(per_class),
                max_total_detections=int(total),
                nms_score_threshold=threshold,
                score_converter="SIGMOID",
            ),
        )
        for name in ("detection_classes", "detection_anchor_indices", "num_detections"):
            yield Deviation(f"{case}/{name}", in_spreads(found[name], stored[f"{case}/{name}"], 1.0), EXACT)
        for name in ("detection_boxes", "detection_scores"):
            yield Deviation(f"{case}/{name}", in_spreads(found[name], stored[f"{case}/{name}"], np.std(stored[f"{case}/{name}"])), STAGE_1)


def _crops(stored: dict[str, Any]) -> Iterator[Deviation]:
    for case in _cases(stored, "crops"):
        crops = stored[f"{case}/crops"]
        native, ours = (_cropped(stored, case, by_products) for by_products in (False, True))
        off = np.abs(native - crops)
        remark = f"{np.mean(off > 1e-3):.1%} of the samples off by up to {off.max():.1f} without the setting"
        yield Deviation(f"{case}/crops", in_spreads(ours, crops, np.std(crops)), STAGE_1, remark)


def _cropped(stored: dict[str, Any], case: str, by_products: bool) -> Any:
    shape = stored[f"{case}/crops"].shape
    settings = config.SecondStage(
        initial_crop_size=shape[2], use_matmul_crop_and_resize=by_products, maxpool_kernel_size=1, maxpool_stride=1
    )
    return tf.reshape(crop_and_pool(tf.constant(stored[f"{case}/features"]), tf.constant(stored[f"{case}/boxes"]), settings), shape)


def _padded_masks(stored: dict[str, Any]) -> Iterator[Deviation]:
    model = zoo_model_of("inception_v2")
    model.image_resizer = config.ImageResizer(min_dimension=96, max_dimension=160, pad_to_max_dimension=True)
    model.first_stage.max_proposals = 40
    model.second_stage.max_detections_per_class = model.second_stage.max_total_detections = 16
    image, size = resize_image(tf.constant(stored["padded/image"]), model.image_resizer)
    for case in _cases(stored, "padded"):
        if case == "padded/image":
            continue
        model.original_padded_masks = True
        model.second_stage.use_matmul_crop_and_resize = case.endswith("matmul")
        network = MaskRCNN(model)
        for name, variable in original_variables(network).items():
            variable.assign(make_weight(name, variable.shape, _SEED))
        found = tf.function(network)(image[tf.newaxis], size[tf.newaxis])
        model.original_padded_masks = False
        right = tf.function(network.masks)(found, size[tf.newaxis])
        masks = stored[f"{case}/detection_masks"]
        remark = f"at a mean IoU of {_mean_iou(right, masks):.2f} without original_padded_masks"
        for name in ("num_detections", "detection_classes", "detection_boxes", "detection_scores", "detection_masks"):
            expected = stored[f"{case}/{name}"]
            spread = np.std(expected) if name != "num_detections" else 1.0
            yield Deviation(f"{case}/{name}", in_spreads(found[name], expected, spread), LATER, remark if name == "detection_masks" else "")


def _variants(stored: dict[str, Any]) -> Iterator[Deviation]:
    """Losses, and of some the detections, of a network with other settings, on the image and objects of the reference of Inception v2."""
    reference = Reference(REFERENCES / "inception_v2_small.npz")
    networks: dict[bool, MaskRCNN] = {}
    for case in _cases(stored, "variants"):
        settings = _variant(reference, str(stored[f"{case}/text"]))
        agnostic = settings.mask_head.class_agnostic
        if agnostic not in networks:
            networks[agnostic] = weighted(settings, reference.seed)
        network = networks[agnostic]
        # Settings of the same variables.
        network.config = settings
        images, true_shapes = resized(reference, settings.image_resizer)
        truth = groundtruth(reference, images, true_shapes)
        losses = network.compute_losses(network(images, true_shapes, truth, training=True))
        for name, value in losses.items():
            expected = float(stored[f"{case}/{name}"])
            yield Deviation(f"{case}/{name}", abs(float(value) - expected) / expected, LOSSES)
        if f"{case}/detection_scores" in stored:
            found = network(images, true_shapes)
            for name in ("detection_classes", "detection_boxes", "detection_scores", "detection_masks"):
                expected = stored[f"{case}/{name}"]
                yield Deviation(f"{case}/{name}", in_spreads(found[name], expected, np.std(expected)), LATER)


def _variant(reference: Reference, text: str) -> config.MaskRCNN:
    path = zoo_configs()["mask_rcnn_inception_v2_coco"]
    pipeline = read_pipeline_config(path)
    text_format.Merge(text, pipeline.model.faster_rcnn)
    model: config.MaskRCNN = experiment_from(translate(pipeline, name="x").values, path).task.model
    model.first_stage.max_proposals = model.second_stage.batch_size = 24
    model.first_stage.minibatch_size, model.second_stage.balance_fraction = 1_000_000, 1.0
    model.second_stage.max_detections_per_class = model.second_stage.max_total_detections = 16
    return model


def _mean_iou(first: Any, second: Any) -> float:
    """Of masks [1, D, h, w], probabilities, each cut at a half, within their boxes."""
    first, second = np.asarray(first) > 0.5, np.asarray(second) > 0.5
    union = (first | second).sum((2, 3))
    return float(np.mean((first & second).sum((2, 3))[union > 0] / union[union > 0]))
