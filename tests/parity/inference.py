"""Every stored tensor of the original's inference graph against ours.

Stage 2 is fed the stored proposals and stage 3 the stored detections, so that one swapped pair of near-equal scores does not hide
everything behind it; proposals and detections are compared on their own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tf_keras

from tasks.checkpoints.original_names import original_variables
from tasks.input.image_resizer import resize_image
from tasks.mask_rcnn import config
from tasks.mask_rcnn.crop import crop_and_pool
from tasks.mask_rcnn.model import MaskRCNN
from tasks.serving.signatures import raw_detections
from tests.parity.deviation import EXACT, LATER, STAGE_1, Deviation
from tests.parity.keras_layers import keras_layer_deviations
from tests.parity.reference import Reference, is_unused, weighted
from tests.parity.references.weights import make_image


def resized(reference: Reference, resizer: config.ImageResizer) -> tuple[tf.Tensor, tf.Tensor]:
    """The reference's image as a batch of one, float32 [1, H, W, 3], and its true shape, int32 [1, 2]."""
    if not reference.is_keras:
        # The zoo's resizer was replaced by one that keeps the size.
        resizer = config.ImageResizer(kind="fixed_shape", height=reference.meta["height"], width=reference.meta["width"])
    image, size = resize_image(tf.constant(reference.image()), resizer)
    return image[tf.newaxis], size[tf.newaxis]


def inference_deviations(reference: Reference) -> Iterator[Deviation]:
    """Rows for the image, the variables, the layers of the first stage (in TensorFlow 2's form of both), and the outputs of all stages."""
    height, width = reference.meta["height"], reference.meta["width"]
    yield Deviation("image", float((make_image(height, width, reference.seed) != reference["image"]).sum()), EXACT)
    settings = reference.model()
    images, true_shapes = resized(reference, settings.image_resizer)
    yield reference.deviation("infer/true_image_shapes", np.append(true_shapes, [[3]], axis=1), EXACT)
    yield reference.deviation("infer/image_shape", images.shape, EXACT)

    model = weighted(settings, reference.seed)
    yield variables_deviation(reference, model, "infer")
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
    if not reference.is_keras:
        yield from _layer_deviations(reference, model.first_stage, outputs["preprocessed"])
    for name in ("proposal_boxes_normalized", "num_proposals"):
        yield reference.deviation(f"infer/{name}", outputs[name], LATER)

    outputs["proposal_boxes_normalized"] = tf.constant(reference["infer/proposal_boxes_normalized"])
    if reference.is_keras:
        crops = crop_and_pool(outputs["rpn_features_to_crop"], outputs["proposal_boxes_normalized"], settings.second_stage)
        yield reference.deviation("infer/pooled_crops", crops, LATER)
        yield from keras_layer_deviations(reference, model, outputs["preprocessed"], crops)
    outputs |= tf.function(model.refine)(outputs["rpn_features_to_crop"], outputs["proposal_boxes_normalized"])
    for name in ("box_classifier_features", "refined_box_encodings", "class_predictions_with_background"):
        yield reference.deviation(f"infer/{name}", outputs[name], LATER)
    outputs |= model.detections(outputs, true_shapes)
    for name in ("boxes", "scores", "classes", "multiclass_scores", "anchor_indices"):
        yield reference.deviation(f"infer/detection_{name}", outputs[f"detection_{name}"], LATER)
    yield reference.deviation("infer/num_detections", outputs["num_detections"], LATER)
    if reference.is_keras:
        for name, value in raw_detections(outputs, true_shapes, settings.second_stage).items():
            yield reference.deviation(f"infer/{name}", value, LATER)
    if settings.number_of_stages == 3:
        yield from _mask_deviations(reference, model, outputs, true_shapes)


def _mask_deviations(reference: Reference, model: MaskRCNN, outputs: dict[str, tf.Tensor], true_shapes: tf.Tensor) -> Iterator[Deviation]:
    outputs["detection_boxes"] = tf.constant(reference["infer/detection_boxes"])
    outputs["detection_classes"] = tf.constant(reference["infer/detection_classes"], tf.int32)
    yield reference.deviation("infer/detection_masks", tf.function(model.masks)(outputs, true_shapes), LATER)
    features = model.refine(outputs["rpn_features_to_crop"], outputs["detection_boxes"])["box_classifier_features"]
    logits = tf.function(model.mask_head.all_classes)(features)
    yield reference.deviation("infer/mask_predictions", logits, LATER)


def variables_deviation(reference: Reference, model: MaskRCNN, graph: str) -> Deviation:
    """Row that counts variables that only one side has, has in another shape, or alone trains; the original's unused ones aside."""
    trained, refs = reference.trained(graph), {variable.ref() for variable in model.trainable_variables}
    theirs = {(name, shape, name in trained) for name, shape in reference.variables(graph).items() if not is_unused(name)}
    ours = {(name, tuple(value.shape), value.ref() in refs) for name, value in original_variables(model).items()}
    return Deviation(f"{graph}_variables", float(len(ours ^ theirs)), EXACT)


def _layer_deviations(reference: Reference, first_stage: tf_keras.Model, preprocessed: tf.Tensor) -> Iterator[Deviation]:
    """Rows of the first stage's layers: the first that does not hold is the one that is wrong."""
    names = enumerate(str(name) for name in reference["infer/endpoint_names"])
    layers = {index: _layer(first_stage, name) for index, name in names if not is_unused(name)}
    outputs = tf.function(tf_keras.Model(first_stage.input, {str(index): layer.output for index, layer in layers.items()}))(preprocessed)
    for index in layers:
        yield reference.layer_deviation(index, outputs[str(index)], STAGE_1)


def _layer(first_stage: tf_keras.Model, endpoint: str) -> tf_keras.layers.Layer:
    """The layer whose output slim calls `endpoint`: after batch norm, and after the ReLU where there is one."""
    layers = {layer.name: layer for layer in first_stage.layers}
    network = "/".join(first_stage.layers[-1].name.split("/")[:2])
    scope = endpoint if "/" in endpoint else f"{network}/{endpoint}"
    scope = scope.replace("PreAuxLogits", "Repeat_1/block17_20")
    units = [name for name in layers if name.startswith(f"{scope}/unit_") and name.endswith("bottleneck_v1/Relu")]
    candidates = [units[-1]] if units else [f"{scope}/Relu", f"{scope}/BatchNorm", scope]
    return next(layers[name] for name in candidates if name in layers)
