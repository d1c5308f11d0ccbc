"""`python original_settings.py CONFIG`: what the original makes of settings that the zoo does not use, as `settings.npz` beside this file.

CONFIG is the zoo's `mask_rcnn_inception_v2_coco.config`. It takes an environment of its own, with Python 3.11, in which the original's code
runs: `tensorflow-cpu==2.15.1`, `tf-slim`, `numpy<2`, `lvis`, `matplotlib`, `pycocotools`, `scipy`, and without its dependencies
`tf-models-research-object-detection==2.8.0.post1`. Usual runtime: 8 minutes.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"

import numpy as np
import tensorflow.compat.v1 as tf
from google.protobuf import text_format
from weights import make_image, make_weight

HERE = Path(__file__).parent
SEED = 11

Arrays = Iterator[tuple[str, Any]]


def import_original() -> None:
    """Makes the original's modules, written for an older TensorFlow and NumPy, importable."""
    sys.path.append(importlib.util.find_spec("object_detection").submodule_search_locations[0])
    for name in ("int", "float", "bool", "object"):
        setattr(np, name, getattr(builtins, name))
    for name in ("contrib", "contrib.image", "contrib.image.python", "contrib.image.python.ops", "contrib.image.python.ops.image_ops"):
        module = sys.modules[f"tensorflow.{name}"] = types.ModuleType(name)
        module.image_ops = module
    for name in ("", ".base", ".normalization", ".convolutional", ".core", ".pooling"):
        sys.modules[f"tf_keras.legacy_tf_layers{name}"] = importlib.import_module(f"keras.src.legacy_tf_layers{name}")


def ties() -> Arrays:
    """Post-processing of logits of few values, sigmoid scores: two images, the second with proposals that are padding."""
    from object_detection.box_coders.faster_rcnn_box_coder import FasterRcnnBoxCoder
    from object_detection.core import box_list, post_processing

    random = np.random.default_rng(3)
    for case, (count, classes, values, per_class, total, threshold) in enumerate(
        [(40, 5, 6, 20, 50, 0.0), (60, 3, 3, 10, 25, 0.4), (50, 7, 20, 50, 60, 0.0)]
    ):
        corners = random.integers(0, 8, (2, count, 2)) * [12, 18]
        proposals = np.concatenate([corners, corners + random.integers(2, 5, (2, count, 2)) * 16], axis=-1).astype(np.float32)
        encodings = (random.integers(-4, 5, (2, count, classes, 4)) * 0.25).astype(np.float32)
        logits = (random.integers(0, values, (2, count, classes + 1)) * 0.5 - 1).astype(np.float32)
        valid = np.array([count, count - 9], np.int32)
        with tf.Graph().as_default(), tf.Session() as session:
            anchors = box_list.BoxList(tf.constant(np.repeat(proposals.reshape(-1, 4), classes, axis=0)))
            decoded = FasterRcnnBoxCoder([10.0, 10.0, 5.0, 5.0]).decode(tf.constant(encodings.reshape(-1, 4)), anchors).get()
            boxes, scores, found, _, extra, number = post_processing.batch_multiclass_non_max_suppression(
                tf.reshape(decoded, encodings.shape),
                tf.sigmoid(tf.constant(logits))[..., 1:],
                threshold,
                0.6,
                per_class,
                max_total_size=total,
                clip_window=tf.constant([[0.0, 0, 96, 150], [0, 0, 80, 120]]),
                change_coordinate_frame=True,
                num_valid_boxes=tf.constant(valid),
                additional_fields={"origins": tf.tile(tf.range(float(count))[tf.newaxis], [2, 1])},
            )
            results = session.run([boxes, scores, found, extra["origins"], number])
        names = ("detection_boxes", "detection_scores", "detection_classes", "detection_anchor_indices", "num_detections")
        inputs = {
            "settings": [per_class, total, threshold],
            "proposals": proposals,
            "encodings": encodings,
            "logits": logits,
            "valid": valid,
        }
        for name, value in (*inputs.items(), *zip(names, results, strict=True)):
            yield f"ties/{case}/{name}", value


def crops() -> Arrays:
    """`use_matmul_crop_and_resize` on maps of 17 x 20 and 38 x 25 cells: boxes that end at the border, cross it, or lie beyond it."""
    from object_detection.utils.spatial_transform_ops import multilevel_matmul_crop_and_resize

    random = np.random.default_rng(4)
    for case, (height, width, size) in enumerate([(17, 20, 14), (38, 25, 17)]):
        features = random.normal(size=(2, height, width, 2)).astype(np.float32)
        corners = random.uniform(-0.2, 0.9, (2, 12, 2))
        boxes = np.concatenate([corners, corners + random.uniform(0.02, 0.6, (2, 12, 2))], axis=-1)
        boxes[:, :8] = np.clip(boxes[:, :8], 0, 1)
        boxes[:, :4, 2:] = 1
        boxes = boxes.astype(np.float32)
        with tf.Graph().as_default(), tf.Session() as session:
            cropped = multilevel_matmul_crop_and_resize([tf.constant(features)], tf.constant(boxes), None, [size, size])
            yield from ((f"crops/{case}/{name}", value) for name, value in (("features", features), ("boxes", boxes)))
            yield f"crops/{case}/crops", session.run(cropped)


def padded(config: str) -> Arrays:
    """Detections of Inception v2 in an image of 96 x 160 that is padded to a square, with crops of both kinds."""
    from object_detection.builders import model_builder
    from object_detection.protos import pipeline_pb2

    image = make_image(96, 160, SEED)
    yield "padded/image", image
    for kind in ("native", "matmul"):
        model = text_format.Parse(config, pipeline_pb2.TrainEvalPipelineConfig()).model
        resizer = model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer
        resizer.min_dimension, resizer.max_dimension, resizer.pad_to_max_dimension = 96, 160, True
        model.faster_rcnn.first_stage_max_proposals = 40
        suppression = model.faster_rcnn.second_stage_post_processing.batch_non_max_suppression
        suppression.max_detections_per_class = suppression.max_total_detections = 16
        model.faster_rcnn.use_matmul_crop_and_resize = kind == "matmul"
        with tf.Graph().as_default(), tf.Session() as session:
            network = model_builder.build(model, is_training=False)
            images, shapes = network.preprocess(tf.constant(image[np.newaxis].astype(np.float32)))
            found = network.postprocess(network.predict(images, shapes), shapes)
            for variable in tf.global_variables():
                variable.load(make_weight(variable.op.name, variable.shape.as_list(), SEED), session)
            names = ("detection_boxes", "detection_scores", "detection_classes", "detection_masks", "num_detections")
            for name, value in session.run({name: found[name] for name in names}).items():
                yield f"padded/{kind}/{name}", value


# What of `faster_rcnn` is other than in the zoo's config, in text format.
VARIANTS = {
    "clipped": "clip_anchors_to_image: true",
    "agnostic": "second_stage_box_predictor { mask_rcnn_box_predictor { masks_are_class_agnostic: true } }",
    "scaled": "second_stage_classification_loss { weighted_softmax { logit_scale: 2.5 } } "
    "second_stage_post_processing { logit_scale: 0.5 }",
    "focal": "second_stage_classification_loss { weighted_sigmoid_focal { gamma: 1.5 alpha: 0.3 } }",
    "focal_plain": "second_stage_classification_loss { weighted_sigmoid_focal { } }",
    "hard": "hard_example_miner { num_hard_examples: 6 iou_threshold: 0.5 }",
    "hard_boxes": "hard_example_miner { num_hard_examples: 4 loss_type: LOCALIZATION }",
    "hard_classes": "hard_example_miner { num_hard_examples: 0 iou_threshold: 0.6 loss_type: CLASSIFICATION }",
}


def variants(config: str) -> Arrays:
    """Losses, and of two variants the detections, of Inception v2 on the image and objects of `inception_v2_small.npz`, all sampled."""
    from object_detection.builders import model_builder
    from object_detection.protos import pipeline_pb2

    stored = np.load(HERE / "inception_v2_small.npz")
    height, width = stored["image"].shape[:2]
    for name, text in VARIANTS.items():
        yield f"variants/{name}/text", text
        model = text_format.Parse(config, pipeline_pb2.TrainEvalPipelineConfig()).model
        model.faster_rcnn.image_resizer.fixed_shape_resizer.height = height
        model.faster_rcnn.image_resizer.fixed_shape_resizer.width = width
        text_format.Merge(text, model.faster_rcnn)
        model.faster_rcnn.first_stage_max_proposals = model.faster_rcnn.second_stage_batch_size = 24
        model.faster_rcnn.first_stage_minibatch_size, model.faster_rcnn.second_stage_balance_fraction = 1_000_000, 1.0
        suppression = model.faster_rcnn.second_stage_post_processing.batch_non_max_suppression
        suppression.max_detections_per_class = suppression.max_total_detections = 16
        for is_training in (True, False) if name in ("agnostic", "scaled") else (True,):
            with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(intra_op_parallelism_threads=1)) as session:
                network = model_builder.build(model, is_training=is_training)
                images, shapes = network.preprocess(tf.constant(stored["image"][np.newaxis].astype(np.float32)))
                if is_training:
                    network.provide_groundtruth(*_objects(stored))
                    results = network.loss(network.predict(images, shapes), shapes)
                else:
                    found = network.postprocess(network.predict(images, shapes), shapes)
                    results = {key: found[key] for key in ("detection_boxes", "detection_scores", "detection_classes", "detection_masks")}
                for variable in tf.global_variables():
                    variable.load(make_weight(variable.op.name, variable.shape.as_list(), 0), session)
                for key, value in session.run(results).items():
                    yield f"variants/{name}/{key}", value


def _objects(stored: Any) -> tuple[list[Any], ...]:
    """Boxes, classes of 0 and 1, and masks of one image."""
    shape = stored["train/gt_masks_shape"]
    masks = np.unpackbits(stored["train/gt_masks_packed"])[: np.prod(shape)].reshape(shape)
    classes = np.eye(90)[stored["train/gt_classes_zero_based"]]
    return tuple([tf.constant(array, tf.float32)] for array in (stored["train/gt_boxes_normalized"], classes, masks))


if __name__ == "__main__":
    tf.disable_v2_behavior()
    import_original()
    zoo = Path(sys.argv[1]).read_text()
    np.savez_compressed(HERE / "settings.npz", **dict([*ties(), *crops(), *padded(zoo), *variants(zoo)]))
