"""An ONNX file held against the checkpoint that it was made from, on real images.

Both compute in float32, in other orders, so that numbers differ in their last bits. Almost everywhere that stays so small. But a model
decides some things by the last bit: whether the last samples of a crop at the image's border count, which of two boxes that overlap by
just the threshold stays, which of two equal scores comes first. There a detection can change though nothing is wrong; TensorFlow itself
answers differently then on another processor. So where detections differ, every part of the network is asked alone, on the file's own
values: what still differs is a fault, unless the part is so restless (deep, untrained) that a change of its input by a millionth moves
it as far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import tensorflow as tf

from tasks.mask_rcnn.model import MaskRCNN
from tasks.mask_rcnn.proposals import propose
from tasks.running.errors import UserError
from tasks.running.progress import Progress
from tasks.serving.agreement import TOLERANCE, Agreement, Arrays, matched
from tasks.serving.onnx_file import OnnxFile
from tasks.serving.signatures import resized_images, served_of

_DISTURBANCE = 1e-6
"""Of a part's input: some ten roundings of float32, which many layers add up to as well"""
_PARTS = ("the resizer", "the first stage", "the choice of proposals", "the second stage", "the choice of detections", "the masks")


def check_onnx(network: MaskRCNN, file: OnnxFile, images: Iterable[npt.NDArray[np.uint8]], count: int) -> dict[str, Any]:
    """How far the file agrees with the network on `count` images uint8 [H, W, 3]; UserError where it does not.

    `detections` of the network, `agreeing` with the file's in class, score, box and mask, `decided_by_rounding` the others, and the
    largest differences of those that agree.
    """
    served, stages = (
        onnxruntime.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
        for model in (file.path.read_bytes(), file.stages)
    )
    (key,) = (given.name for given in served.get_inputs())
    found = Agreement()
    progress = Progress("checked", count)
    for image in images:
        batch = image[np.newaxis]
        resized, true_shapes = resized_images(tf.constant(batch), "image_tensor", network.config.image_resizer)
        outputs = network(resized, true_shapes)
        expected = {name: value.numpy()[0] for name, value in served_of(network, outputs, true_shapes).items()}
        got = {name: value[0] for name, value in _run(served, {key: batch}).items()}
        if not found.add(expected, got, image.shape[:2]):
            _compare_parts(network, _run(stages, {key: batch}), {"images": resized} | outputs)
        progress.advance()
    return asdict(found) | {"decided_by_rounding": found.detections - found.agreeing}


def _compare_parts(network: MaskRCNN, stages: Arrays, outputs: dict[str, tf.Tensor]) -> None:
    """UserError where a part of the network and the same part of the file differ on the same values."""
    given = {name.removeprefix("stage/"): tf.constant(value) for name, value in stages.items()}
    true_shapes = tf.cast(given["true_shapes"], tf.int32)
    for name in ("num_proposals", "detection_classes", "num_detections"):
        if name in given:
            given[name] = tf.cast(given[name], tf.int32)
    _expect(_PARTS[0], outputs, given, "images")
    first = ("rpn_features_to_crop", "rpn_box_encodings", "rpn_objectness_predictions_with_background")
    images = given["images"]
    _expect(_PARTS[1], outputs, given, *first, disturbed=lambda: network.propose(_disturbed(images), true_shapes))
    chosen = propose(given[first[1]], given[first[2]], given["anchors"], true_shapes, network.config.first_stage)
    names = ("proposal_boxes", "proposal_scores", "num_proposals")
    _expect(_PARTS[2], dict(zip(names, chosen, strict=True)), given, *names)
    if network.config.number_of_stages == 1:
        return
    features, proposed = given["rpn_features_to_crop"], given["proposal_boxes_normalized"]
    refined = ("refined_box_encodings", "class_predictions_with_background")
    _expect(
        _PARTS[3], network.refine(features, proposed), given, *refined, disturbed=lambda: network.refine(_disturbed(features), proposed)
    )
    detections = network.detections(given, true_shapes)
    expected, got = (
        {name: value.numpy()[0] for name, value in each.items() if name.startswith(("detection_", "num_"))} for each in (detections, given)
    )
    if not len(matched(expected, got)) == int(expected["num_detections"]) == int(got["num_detections"]):
        raise _refusal(_PARTS[4], "another choice")
    if network.config.number_of_stages == 3:

        def masks(features: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"detection_masks": network.masks(given | {"rpn_features_to_crop": features}, true_shapes)}

        # By probabilities: of a small mask one pixel that is decided by rounding is more than a thousandth.
        _expect(_PARTS[5], masks(features), given, "detection_masks", disturbed=lambda: masks(_disturbed(features)))


def _expect(
    part: str,
    outputs: dict[str, tf.Tensor],
    given: dict[str, tf.Tensor],
    *names: str,
    disturbed: Callable[[], dict[str, tf.Tensor]] | None = None,
) -> None:
    """UserError where the `given` outputs are not `outputs`. `disturbed` computes these from an input that is changed by a millionth."""
    for name in names:
        expected, got = (np.asarray(each[name], np.float32) for each in (outputs, given))
        if expected.shape != got.shape:
            raise _refusal(part, f"{name} of shape {got.shape} instead of {expected.shape}")
        difference = _difference(got, expected)
        if difference <= TOLERANCE or (disturbed and difference <= _difference(np.asarray(disturbed()[name], np.float32), expected)):
            continue
        raise _refusal(part, f"{name} that differs by {difference:.2g} of its largest value")


def _difference(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """The largest one, as a share of the largest value."""
    return float(np.abs(one - other).max(initial=0)) / max(float(np.abs(other).max(initial=0)), 1e-6)


def _disturbed(values: tf.Tensor) -> tf.Tensor:
    return values * (1 + _DISTURBANCE * tf.random.stateless_normal(tf.shape(values), (0, 0)))


def _refusal(part: str, what: str) -> UserError:
    return UserError(
        f"the ONNX file does not do what the checkpoint does: {part} of the file gives {what}",
        "export a SavedModel (--format saved_model), and report this with the model's pipeline.config",
    )


def _run(session: Any, feed: Arrays) -> Arrays:
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True))


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options
