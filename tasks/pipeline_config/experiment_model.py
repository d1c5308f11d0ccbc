"""The model part of an experiment: `model.faster_rcnn` to the mapping of `tasks.mask_rcnn.config.MaskRCNN`."""

from __future__ import annotations

from typing import Any

from tasks.mask_rcnn.mask_depth import FEATURE_CHANNELS, KERAS
from tasks.pipeline_config.box_predictor_pb2 import MaskRCNNBoxPredictor
from tasks.pipeline_config.fields import OtherFamilyError, nearest
from tasks.pipeline_config.ledger import Ledger, Reading

_STRIDES = {name: (16,) if name == "faster_rcnn_inception_v2" or name.endswith(KERAS) else (8, 16) for name in FEATURE_CHANNELS}
"""Where the features of an extractor can lie, in pixels."""
_GLOROT = {"kind": "variance_scaling", "factor": 1.0, "uniform": True, "mode": "FAN_AVG"}
"""What both slim and Keras use where nothing is said: Glorot's uniform distribution"""
_FAMILIES = {
    "_fpn": "FPN (feature pyramid)",
    "_nas": "NAS",
    "_pnas": "PNAS",
    "mobilenet": "MobileNet",
}
"""Other kinds of Faster R-CNN, by what the extractor's name holds"""
_LEAST_CROPS = {"faster_rcnn_inception_resnet_v2": 3}
"""Cells along a pooled crop's side that the second stage needs, where it is more than one."""


def translate_model(model: Reading, *, with_regularization: bool, original_padded_masks: bool) -> dict[str, Any]:
    """The `task.model` mapping; `with_regularization` False drops every L2 weight.

    `original_padded_masks` is no field of the language: the original knew of no other masks.

    What the model cannot do is refused.
    """
    _refuse_variants(model)
    static = model.value("use_static_shapes")
    head = model.inside("second_stage_box_predictor").attempt(_mask_rcnn_predictor)
    if head is None:
        head = Reading(MaskRCNNBoxPredictor(), Ledger(), "second_stage_box_predictor")
    _check_head(head)
    if model.value("number_of_stages") == 3 and not head.value("predict_instance_masks"):
        head.reject("predict_instance_masks", "three stages need a mask branch", "set it to true")
    head.value("predict_instance_masks")

    def layers(reading: Reading, op: str, *, activation_is_used: bool) -> dict[str, Any]:
        hyperparams = reading.attempt(lambda one: _hyperparams(one, op, activation_is_used=activation_is_used)) or {}
        return hyperparams if with_regularization else {**hyperparams, "l2_weight": 0.0}

    if is_keras(model):
        head.ignore("the original's TensorFlow 2 does not read it: these layers have Keras's defaults", "fc_hyperparams")
        fully_connected = {"initializer": dict(_GLOROT), "l2_weight": 0.0}
    else:
        fully_connected = layers(head.inside("fc_hyperparams"), "FC", activation_is_used=False)
    if model.value("number_of_stages") > 1:
        _check_crops(model)
    suppression = _post_processing(model.inside("second_stage_post_processing"))
    loss = model.inside("second_stage_classification_loss") if model.has("second_stage_classification_loss") else None
    return {
        "num_classes": _positive(model, "num_classes"),
        "number_of_stages": model.value("number_of_stages"),
        "image_resizer": model.inside("image_resizer").attempt(_image_resizer),
        "feature_extractor": _feature_extractor(model.inside("feature_extractor")),
        "anchors": model.inside("first_stage_anchor_generator").attempt(_anchors),
        "first_stage": {
            "atrous_rate": model.value("first_stage_atrous_rate"),
            "box_predictor_depth": model.value("first_stage_box_predictor_depth"),
            "box_predictor_kernel_size": model.value("first_stage_box_predictor_kernel_size"),
            "box_predictor_hyperparams": layers(
                model.inside("first_stage_box_predictor_conv_hyperparams"), "CONV", activation_is_used=False
            ),
            "minibatch_size": model.value("first_stage_minibatch_size"),
            "positive_balance_fraction": model.value("first_stage_positive_balance_fraction"),
            "nms_score_threshold": model.value("first_stage_nms_score_threshold"),
            "nms_iou_threshold": model.value("first_stage_nms_iou_threshold"),
            "max_proposals": model.value("first_stage_max_proposals"),
            "clip_anchors_to_image": model.value("clip_anchors_to_image"),
            "partitioned_nms": static and model.value("use_partitioned_nms_in_first_stage"),
            "localization_loss_weight": model.value("first_stage_localization_loss_weight"),
            "objectness_loss_weight": model.value("first_stage_objectness_loss_weight"),
        },
        "second_stage": {
            "initial_crop_size": _positive(model, "initial_crop_size"),
            "use_matmul_crop_and_resize": model.value("use_matmul_crop_and_resize"),
            "maxpool_kernel_size": _positive(model, "maxpool_kernel_size"),
            "maxpool_stride": _positive(model, "maxpool_stride"),
            "fc_hyperparams": fully_connected,
            "use_dropout": head.value("use_dropout"),
            "dropout_keep_probability": head.value("dropout_keep_probability"),
            "share_box_across_classes": head.value("share_box_across_classes"),
            "batch_size": model.value("second_stage_batch_size"),
            "balance_fraction": model.value("second_stage_balance_fraction"),
            **suppression,
            "localization_loss_weight": model.value("second_stage_localization_loss_weight"),
            **((loss and loss.attempt(_classification_loss)) or {"classification_loss": "weighted_softmax"}),
            "classification_loss_weight": model.value("second_stage_classification_loss_weight"),
            **(_hard_examples(model.inside("hard_example_miner")) if model.has("hard_example_miner") else {}),
        },
        "mask_head": {
            "height": head.value("mask_height"),
            "width": head.value("mask_width"),
            "conv_depth": head.value("mask_prediction_conv_depth"),
            "num_conv_layers": head.value("mask_prediction_num_conv_layers"),
            "class_agnostic": head.value("masks_are_class_agnostic"),
            "conv_hyperparams": layers(head.inside("conv_hyperparams"), "CONV", activation_is_used=True),
            "loss_weight": model.value("second_stage_mask_prediction_loss_weight"),
        },
        "original_padded_masks": original_padded_masks,
        "static_sampler": static and model.value("use_static_balanced_label_sampler"),
    }


def _refuse_variants(model: Reading) -> None:
    model.require("inplace_batchnorm_update", False, "the original refuses it for this family too")
    if model.value("use_static_shapes"):
        model.require("use_static_shapes_for_eval", False, "outside of training, shapes are not fixed")
    else:
        reason = "has no effect without fixed shapes"
        model.ignore(reason, "use_static_shapes_for_eval", "use_partitioned_nms_in_first_stage", "use_static_balanced_label_sampler")
    model.ignore("masks are resized once, with their image, as the original does it where this is false", "resize_masks")
    model.require("use_combined_nms_in_first_stage", False, "proposals are suppressed in the plain way")
    model.ignore("another computation of the same values", "use_matmul_gather_in_matcher")
    model.ignore(
        "adds outputs that no step here reads",
        "return_raw_detections_during_predict",
        "output_final_box_features",
        "output_final_box_rpn_features",
    )


def is_keras(model: Reading) -> bool:
    """Whether the feature extractor is in the form of the original's TensorFlow 2, which reads some fields otherwise."""
    return bool(model.inside("feature_extractor").value("type").endswith(KERAS))


def _mask_rcnn_predictor(predictor: Reading) -> Reading:
    return predictor.inside(predictor.choose("box_predictor_oneof", ("mask_rcnn_box_predictor",), "second-stage box predictor"))


def _classification_loss(loss: Reading) -> dict[str, Any]:
    """The second stage's; softmax where nothing is said."""
    kinds = ("weighted_softmax", "weighted_sigmoid", "weighted_sigmoid_focal")
    kind = loss.choose("classification_loss", kinds, "classification loss")
    chosen = loss.inside(kind)
    chosen.ignore("the loss is summed over anchors either way", "anchorwise_output")
    settings: dict[str, Any] = {"classification_loss": kind}
    if kind == "weighted_softmax":
        settings["loss_logit_scale"] = chosen.value("logit_scale")
    if kind == "weighted_sigmoid_focal":
        settings["focal_gamma"] = chosen.value("gamma")
        settings["focal_alpha"] = chosen.value("alpha") if chosen.has("alpha") else None
    return settings


def _hard_examples(miner: Reading) -> dict[str, Any]:
    """The experiment's `hard_example_miner`."""
    miner.ignore("the original does not hand the matches on that it would need", "max_negatives_per_positive", "min_negatives_per_image")
    return {"hard_example_miner": {name: miner.value(name) for name in ("loss_type", "num_hard_examples", "iou_threshold")}}


def _check_head(head: Reading) -> None:
    head.require("box_code_size", 4, "boxes are encoded by four numbers")
    head.require("predict_keypoints", False, "keypoints are not supported")
    head.require("convolve_then_upsample_masks", False, "the mask branch upsamples before its convolutions")


def _check_crops(model: Reading) -> None:
    """Refuses pools that leave less of a crop than the second stage can work on."""
    crop, kernel, stride = (_positive(model, name) for name in ("initial_crop_size", "maxpool_kernel_size", "maxpool_stride"))
    left, least = (crop - kernel) // stride + 1, _LEAST_CROPS.get(model.inside("feature_extractor").value("type"), 1)
    if left < least:
        message = f"{crop}: pools of {kernel}, {stride} apart, leave {max(left, 0)} cells of a side, and the second stage needs {least}"
        model.reject("initial_crop_size", message, f"write at least {(least - 1) * stride + kernel}")


def _image_resizer(resizer: Reading) -> dict[str, Any]:
    kinds = ("keep_aspect_ratio_resizer", "fixed_shape_resizer", "identity_resizer")
    chosen = resizer.choose("image_resizer_oneof", kinds, "image resizer")
    one = resizer.inside(chosen)
    if chosen == "identity_resizer":
        return {"kind": "identity"}
    one.require("convert_to_grayscale", False, "the backbones take colour images")
    if chosen == "fixed_shape_resizer":
        return {"kind": "fixed_shape", **{name: one.value(name) for name in ("height", "width", "resize_method")}}
    names = ("min_dimension", "max_dimension", "pad_to_max_dimension", "per_channel_pad_value", "resize_method")
    settings = {name: one.value(name) for name in names}
    if len(settings["per_channel_pad_value"]) not in (0, 3):
        one.reject("per_channel_pad_value", "images have three channels", "give three values, or none")
    return {"kind": "keep_aspect_ratio", **settings}


def _feature_extractor(extractor: Reading) -> dict[str, Any]:
    kind = extractor.value("type")
    stride = extractor.value("first_stage_features_stride")
    if kind in FEATURE_CHANNELS:
        _check_stride(extractor, kind, stride)
    else:
        _refuse_extractor(extractor, kind)
    extractor.ignore(
        "this extractor brings its own layers, as in the original",
        "conv_hyperparams",
        "override_base_feature_extractor_hyperparams",
    )
    extractor.ignore("only extractors with a feature pyramid read it", "pad_to_multiple", "fpn")
    return {
        "type": kind,
        "first_stage_features_stride": stride,
        "batch_norm_trainable": extractor.value("batch_norm_trainable"),
    }


def _refuse_extractor(extractor: Reading, kind: str) -> None:
    """By family, where the name tells one."""
    path = f"{extractor.path}.type"
    family = next((family for sign, family in _FAMILIES.items() if sign in kind), None)
    if family is not None:
        message = f"{kind}: models of the {family} family are not supported"
        extractor.ledger.refused.append(OtherFamilyError(path, message, f"supported: {', '.join(FEATURE_CHANNELS)}"))
    else:
        extractor.reject("type", f"there is no feature extractor {kind!r}" if kind else "is not set", nearest(kind, FEATURE_CHANNELS))


def _check_stride(extractor: Reading, kind: str, stride: int) -> None:
    strides = _STRIDES[kind]
    if stride not in strides:
        known = " or ".join(map(str, strides))
        fix = f"write {known}" + ("; the original took 8 as well and built the same network" if kind == "faster_rcnn_inception_v2" else "")
        extractor.reject("first_stage_features_stride", f"{stride}, but the features of {kind} lie {known} pixels apart", fix)


def _anchors(generator: Reading) -> dict[str, Any]:
    grid = generator.inside(generator.choose("anchor_generator_oneof", ("grid_anchor_generator",), "first-stage anchor generator"))
    sizes = ("height", "width", "height_stride", "width_stride", "height_offset", "width_offset")
    anchors = {name: grid.value(name) for name in (*sizes, "scales", "aspect_ratios")}
    for name in ("scales", "aspect_ratios"):
        if not anchors[name]:
            grid.reject(name, "no value, so there would be no anchors", f"for example {name}: [0.5, 1.0, 2.0]")
    return anchors


def _post_processing(processing: Reading) -> dict[str, Any]:
    if processing.value("score_converter") == "IDENTITY":
        fix = f"--set {processing.path}.score_converter=SOFTMAX, or SIGMOID after a weighted_sigmoid loss"
        processing.reject("score_converter", "logits as they are, the default, are no scores", fix)
    processing.refuse("calibrated scores are not supported", "calibration_config")
    nms = processing.inside("batch_non_max_suppression")
    nms.require("soft_nms_sigma", 0.0, "soft suppression is not supported")
    nms.require("use_class_agnostic_nms", False, "boxes are suppressed per class")
    nms.require("use_combined_nms", False, "boxes are suppressed in the plain way")
    nms.require("change_coordinate_frame", True, "detections are relative to the image")
    nms.ignore("read by class-agnostic suppression only", "max_classes_per_detection")
    nms.ignore("the plain suppression is already hard", "use_hard_nms")
    nms.ignore("where and how it is computed, not what", "use_cpu_nms", "use_partitioned_nms", "use_static_shapes")
    return {
        "nms_score_threshold": nms.value("score_threshold"),
        "nms_iou_threshold": nms.value("iou_threshold"),
        "max_detections_per_class": nms.value("max_detections_per_class"),
        "max_total_detections": nms.value("max_total_detections"),
        "score_converter": processing.value("score_converter"),
        "score_logit_scale": processing.value("logit_scale"),
    }


def _hyperparams(hyperparams: Reading, op: str, *, activation_is_used: bool) -> dict[str, Any]:
    """`Hyperparams` of a head; RPN and box head fix their activation in code, the mask branch reads it."""
    if hyperparams.has("op"):
        hyperparams.require("op", op, f"these layers are {op}")
    if activation_is_used:
        hyperparams.require("activation", "RELU", "the mask branch's activation is a plain ReLU")
    else:
        hyperparams.ignore("these layers have an activation of their own, as in the original", "activation")
    hyperparams.refuse("heads with normalization layers are not supported", "batch_norm", "sync_batch_norm", "group_norm")
    hyperparams.ignore("there are no depthwise layers here", "regularize_depthwise")
    hyperparams.ignore("these layers always have a bias", "force_use_bias")
    return {
        "initializer": _initializer(hyperparams.inside("initializer")),
        "l2_weight": _l2_weight(hyperparams.inside("regularizer")),
    }


def _l2_weight(regularizer: Reading) -> float:
    kind = regularizer.choice("regularizer_oneof")
    if kind is None:
        return 0.0
    weight = regularizer.inside(kind).value("weight")
    if kind == "l1_regularizer" and weight != 0:
        regularizer.reject(kind, "an L1 penalty is not supported", "use l2_regularizer, or weight: 0")
    return float(weight)


def _initializer(initializer: Reading) -> dict[str, Any]:
    if initializer.choice("initializer_oneof") is None:
        return dict(_GLOROT)
    kinds = ("truncated_normal_initializer", "random_normal_initializer", "variance_scaling_initializer")
    chosen = initializer.choose("initializer_oneof", kinds, "initializer")
    one = initializer.inside(chosen)
    names = ("factor", "uniform", "mode") if chosen == "variance_scaling_initializer" else ("mean", "stddev")
    return {"kind": chosen.removesuffix("_initializer"), **{name: one.value(name) for name in names}}


def _positive(reading: Reading, name: str) -> int:
    """A count that the language gives no default."""
    if reading.has(name):
        return int(reading.value(name))
    reading.reject(name, "is not set", f"add {name} to {reading.path}")
    return 1
