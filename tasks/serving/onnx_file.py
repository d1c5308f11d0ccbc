"""A network as an ONNX file: the SavedModel's input and outputs, for runtimes that are not TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import tensorflow as tf

from tasks.mask_rcnn.model import MaskRCNN, Tensors
from tasks.running.errors import UserError
from tasks.running.workspace import write_bytes
from tasks.serving.onnx_conversion.functions import UnsupportedOperationError
from tasks.serving.onnx_conversion.model import ConvertedFunction
from tasks.serving.signatures import INPUTS, SIGNATURES, resized_images, served_of

_INPUT_TYPE = "image_tensor"

STAGES = (
    "images",
    "true_shapes",
    "anchors",
    "image_size",
    "rpn_features_to_crop",
    "rpn_box_encodings",
    "rpn_objectness_predictions_with_background",
    "proposal_boxes",
    "proposal_boxes_normalized",
    "proposal_scores",
    "num_proposals",
    "refined_box_encodings",
    "class_predictions_with_background",
    "detection_boxes",
    "detection_scores",
    "detection_classes",
    "num_detections",
    "detection_masks",
)
"""What the network answers on the way, and what a later part of it needs to be asked alone."""


@dataclass(frozen=True)
class OnnxFile:
    """The file, and the same graph with other outputs: the network's own, by name, as far as it has them."""

    path: Path
    stages: bytes


def save_as_onnx(
    network: MaskRCNN, path: Path, signature: str, image_size: tuple[int, int] | None, metadata: Mapping[str, str]
) -> OnnxFile:
    """Writes the file, of one input uint8 [N, H, W, 3], named as in `SIGNATURES`, and the outputs of `served_outputs`.

    N, H and W are free, or with `image_size` (H, W) fixed, N to 1. `metadata` goes into the file's properties. UserError where the network
    does something that has no translation.
    """
    shape = INPUTS[_INPUT_TYPE][0].shape if image_size is None else tf.TensorShape([1, *image_size, 3])

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8, SIGNATURES[signature])])
    def answer(inputs: tf.Tensor) -> Tensors:
        images, true_shapes = resized_images(inputs, _INPUT_TYPE, network.config.image_resizer)
        outputs = network(images, true_shapes)
        stages = outputs | {"images": images, "true_shapes": true_shapes}
        return served_of(network, outputs, true_shapes) | {f"stage/{name}": stages[name] for name in STAGES if name in stages}

    try:
        converted = ConvertedFunction(answer.get_concrete_function())
    except UnsupportedOperationError as error:
        raise UserError(
            f"this model cannot be written as ONNX: {error}",
            "export a SavedModel (--format saved_model), and report this with the model's pipeline.config",
        ) from error
    served, stages = ([name for name in converted.outputs if name.startswith("stage/") == is_stage] for is_stage in (False, True))
    model = converted.model(served)
    model.producer_name = "maskline"
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    write_bytes(path, model.SerializeToString())
    return OnnxFile(path, converted.model(stages).SerializeToString())
