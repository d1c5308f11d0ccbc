"""A network as its users meet it: the original's input kinds, and its outputs by name, shape and type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from tasks.input.image_resizer import resize_image
from tasks.mask_rcnn import boxes, config
from tasks.mask_rcnn.detections import scores_of
from tasks.mask_rcnn.model import MaskRCNN, Tensors

_DETECTIONS = (
    "num_detections",
    "detection_boxes",
    "detection_scores",
    "detection_classes",
    "detection_multiclass_scores",
    "detection_masks",
)


SIGNATURES = {"tf1": "inputs", "tf2": "input_tensor"}
"""What the original's exporters of TF1 and of TF2 call the input of `serving_default`."""


def save_for_serving(network: MaskRCNN, input_type: str, folder: Path, signature: str = "tf1") -> None:
    """Writes a SavedModel that TensorFlow alone can run, for batches of any size of one of `INPUTS`.

    It is called in both ways in which clients call the original's: through `serving_default`, with the key that `SIGNATURES` has for
    `signature`, and itself, as `loaded(input_tensor)`.
    """
    spec, _ = INPUTS[input_type]

    @tf.function(input_signature=[tf.TensorSpec(spec.shape, spec.dtype, "input_tensor")])
    def detect(input_tensor: tf.Tensor) -> Tensors:
        return served_outputs(network, *resized_images(input_tensor, input_type, network.config.image_resizer))

    @tf.function(input_signature=[tf.TensorSpec(spec.shape, spec.dtype, SIGNATURES[signature])])
    def serve(inputs: tf.Tensor) -> Tensors:
        return detect(inputs)

    module = tf.Module()
    # The variables and not the network: Keras would save a function for every layer beside ours.
    module.variables_to_save = network.variables
    module.__call__ = detect
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})


def resized_images(inputs: tf.Tensor, input_type: str, resizer: config.ImageResizer) -> tuple[tf.Tensor, tf.Tensor]:
    """Images float32 [N, h, w, 3], RGB 0..255, and their sizes before padding, int32 [N, 2], as `MaskRCNN.call` takes them.

    All images of a batch have to have one size then: those of several sizes need a resizer that pads or fixes it.
    """
    _, decode = INPUTS[input_type]
    return tf.map_fn(
        lambda value: resize_image(decode(value), resizer),
        inputs,
        fn_output_signature=(tf.TensorSpec([None, None, 3], tf.float32), tf.TensorSpec([2], tf.int32)),
    )


def served_outputs(network: MaskRCNN, images: tf.Tensor, true_shapes: tf.Tensor) -> Tensors:
    """The original's outputs, all float32: D = max_total_detections, P = max_proposals, C classes, numbered from 1.

    `num_detections` [N]; what lies beyond it is padding, of score 0. `detection_boxes` [N, D, 4], yxyx normalized to the image,
    `detection_scores` [N, D], best first, `detection_classes` [N, D], `detection_multiclass_scores` [N, D, 1 + C], background first, and
    `detection_masks` [N, D, mask_h, mask_w], probabilities over each box.

    Before suppression, where there are two stages or three: `raw_detection_boxes` [N, P, 4], each of its best class, clipped to the image,
    and `raw_detection_scores` [N, P, 1 + C]. With one stage the detections are proposals, all of class 1; the
    original exported no such model.
    """
    return served_of(network, network(images, true_shapes), true_shapes)


def served_of(network: MaskRCNN, outputs: Tensors, true_shapes: tf.Tensor) -> Tensors:
    """As `served_outputs`, of what the network has answered."""
    served = {name: tf.cast(outputs[name], tf.float32) for name in _DETECTIONS if name in outputs}
    served["detection_classes"] += 1.0
    if network.config.number_of_stages == 1:
        return served
    return served | raw_detections(outputs, true_shapes, network.config.second_stage)


def raw_detections(outputs: Tensors, true_shapes: tf.Tensor, second_stage: config.SecondStage) -> Tensors:
    """The two outputs before suppression, see `served_outputs`."""
    proposals = outputs["proposal_boxes"]
    encodings, logits = (
        tf.reshape(outputs[name], [-1, proposals.shape[1], *outputs[name].shape[1:]])
        for name in ("refined_box_encodings", "class_predictions_with_background")
    )
    if encodings.shape[2] == 1:
        best = encodings[:, :, 0]
    else:
        best = tf.gather(encodings, tf.argmax(logits[..., 1:], axis=-1), axis=2, batch_dims=2)
    shapes = tf.cast(true_shapes, tf.float32)
    normalized = boxes.scale(boxes.decode(best, proposals), 1.0 / shapes[:, :1], 1.0 / shapes[:, 1:])
    return {"raw_detection_boxes": boxes.clip(normalized, 1.0, 1.0), "raw_detection_scores": scores_of(logits, second_stage)}


def _decoded_image(encoded: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def _example_image(serialized: tf.Tensor) -> tf.Tensor:
    return _decoded_image(tf.io.parse_single_example(serialized, {"image/encoded": tf.io.FixedLenFeature([], tf.string)})["image/encoded"])


INPUTS: dict[str, tuple[tf.TensorSpec, Callable[[tf.Tensor], tf.Tensor]]] = {
    "image_tensor": (tf.TensorSpec([None, None, None, 3], tf.uint8), tf.identity),
    "encoded_image_string_tensor": (tf.TensorSpec([None], tf.string), _decoded_image),
    "tf_example": (tf.TensorSpec([None], tf.string), _example_image),
}
"""Name of an input kind to its batch, and to what makes one element of it an image, uint8 [H, W, 3]."""
