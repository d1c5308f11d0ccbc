"""What values make sense where the type alone does not say so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from tasks.pipeline_config import pipeline_pb2
from tasks.pipeline_config.fields import RangeError, is_message, set_values, shortest

_COUNT = (1, math.inf)
_FRACTION = (0, 1)
_NOT_NEGATIVE = (0, math.inf)

# Bytes; a relative path is joined to a folder's.
_LONGEST_NAME, _LONGEST_PATH = 255, 2048
_POSITIVE = (1e-6, math.inf)
_CROP = {
    **dict.fromkeys(("min_object_covered", "min_area", "max_area", "overlap_thresh", "random_coef"), _FRACTION),
    **dict.fromkeys(("min_aspect_ratio", "max_aspect_ratio"), _POSITIVE),
}

RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "FasterRcnn": {
        "number_of_stages": (1, 3),
        "num_classes": _COUNT,
        "first_stage_atrous_rate": _COUNT,
        "first_stage_box_predictor_kernel_size": _COUNT,
        "first_stage_box_predictor_depth": _COUNT,
        "first_stage_minibatch_size": _COUNT,
        "first_stage_positive_balance_fraction": _FRACTION,
        "first_stage_nms_score_threshold": _FRACTION,
        "first_stage_nms_iou_threshold": _FRACTION,
        "first_stage_max_proposals": _COUNT,
        "first_stage_localization_loss_weight": _NOT_NEGATIVE,
        "first_stage_objectness_loss_weight": _NOT_NEGATIVE,
        "initial_crop_size": _COUNT,
        "maxpool_kernel_size": _COUNT,
        "maxpool_stride": _COUNT,
        "second_stage_batch_size": _COUNT,
        "second_stage_balance_fraction": _FRACTION,
        "second_stage_localization_loss_weight": _NOT_NEGATIVE,
        "second_stage_classification_loss_weight": _NOT_NEGATIVE,
        "second_stage_mask_prediction_loss_weight": _NOT_NEGATIVE,
    },
    "FasterRcnnFeatureExtractor": {"first_stage_features_stride": _COUNT},
    "KeepAspectRatioResizer": {"min_dimension": _COUNT, "max_dimension": _COUNT},
    "FixedShapeResizer": {"height": _COUNT, "width": _COUNT},
    "GridAnchorGenerator": {
        "height": _COUNT,
        "width": _COUNT,
        "height_stride": _COUNT,
        "width_stride": _COUNT,
        "scales": _POSITIVE,
        "aspect_ratios": _POSITIVE,
    },
    "MaskRCNNBoxPredictor": {
        "dropout_keep_probability": (1e-6, 1),
        "mask_prediction_conv_depth": _NOT_NEGATIVE,
        "mask_prediction_num_conv_layers": _COUNT,
        "mask_height": _COUNT,
        "mask_width": _COUNT,
    },
    "BatchNonMaxSuppression": {
        "score_threshold": _FRACTION,
        "iou_threshold": _FRACTION,
        "max_detections_per_class": _COUNT,
        "max_total_detections": _COUNT,
        "soft_nms_sigma": _NOT_NEGATIVE,
    },
    "PostProcessing": {"logit_scale": _POSITIVE},
    "WeightedSoftmaxClassificationLoss": {"logit_scale": _POSITIVE},
    "SigmoidFocalClassificationLoss": {"gamma": _NOT_NEGATIVE, "alpha": _FRACTION},
    "HardExampleMiner": {"num_hard_examples": _NOT_NEGATIVE, "iou_threshold": _FRACTION},
    "L1Regularizer": {"weight": _NOT_NEGATIVE},
    "L2Regularizer": {"weight": _NOT_NEGATIVE},
    "TruncatedNormalInitializer": {"stddev": _NOT_NEGATIVE},
    "RandomNormalInitializer": {"stddev": _NOT_NEGATIVE},
    "VarianceScalingInitializer": {"factor": (1e-12, math.inf)},
    "TrainConfig": {"batch_size": _COUNT, "gradient_clipping_by_norm": _NOT_NEGATIVE},
    "MomentumOptimizer": {"momentum_optimizer_value": _FRACTION},
    "RMSPropOptimizer": {"momentum_optimizer_value": _FRACTION, "decay": _FRACTION, "epsilon": _NOT_NEGATIVE},
    "AdamOptimizer": {"epsilon": _NOT_NEGATIVE},
    "Optimizer": {"moving_average_decay": _FRACTION},
    "ConstantLearningRate": {"learning_rate": _NOT_NEGATIVE},
    "ManualStepLearningRate": {"initial_learning_rate": _NOT_NEGATIVE},
    "LearningRateSchedule": {"learning_rate": _NOT_NEGATIVE},
    "ExponentialDecayLearningRate": {
        "initial_learning_rate": _NOT_NEGATIVE,
        "decay_steps": _COUNT,
        "decay_factor": _NOT_NEGATIVE,
        "burnin_learning_rate": _NOT_NEGATIVE,
        "min_learning_rate": _NOT_NEGATIVE,
    },
    "CosineDecayLearningRate": {
        "learning_rate_base": _NOT_NEGATIVE,
        "total_steps": _COUNT,
        "warmup_learning_rate": _NOT_NEGATIVE,
    },
    "InputReader": {"sample_1_of_n_examples": _COUNT, "num_readers": _COUNT, "max_number_of_boxes": _COUNT},
    "EvalConfig": {"batch_size": _COUNT},
    "RandomHorizontalFlip": {"probability": _FRACTION},
    "RandomVerticalFlip": {"probability": _FRACTION},
    "RandomRotation90": {"probability": _FRACTION},
    "RandomRGBtoGray": {"probability": _FRACTION},
    "RandomImageScale": {"min_scale_ratio": _POSITIVE, "max_scale_ratio": _POSITIVE},
    "RandomPixelValueScale": {"minval": _NOT_NEGATIVE, "maxval": _NOT_NEGATIVE},
    "RandomCropImage": _CROP,
    "RandomCropPadImage": {**_CROP, "min_padded_size_ratio": _POSITIVE, "max_padded_size_ratio": _POSITIVE},
    "RandomCropToAspectRatio": {"aspect_ratio": _POSITIVE, "overlap_thresh": _FRACTION},
    "RandomPadImage": dict.fromkeys(("min_image_height", "min_image_width", "max_image_height", "max_image_width"), _NOT_NEGATIVE),
    "RandomSquareCropByScale": {"max_border": _COUNT, "scale_min": _POSITIVE, "scale_max": _POSITIVE, "num_scales": _COUNT},
    "RandomScaleCropAndPadToSquare": {"output_size": _COUNT, "scale_min": _POSITIVE, "scale_max": _POSITIVE},
    "RandomAdjustBrightness": {"max_delta": _FRACTION},
    "RandomAdjustContrast": {"min_delta": _NOT_NEGATIVE, "max_delta": _NOT_NEGATIVE},
    "RandomAdjustHue": {"max_delta": (0, 0.5)},
    "RandomAdjustSaturation": {"min_delta": _NOT_NEGATIVE, "max_delta": _NOT_NEGATIVE},
}
"""Inclusive bounds by message and field name."""


def out_of_range(config: pipeline_pb2.TrainEvalPipelineConfig) -> Iterator[RangeError]:
    """Numbers outside their range or not numbers, and text that no file can be called by; one for a field."""
    for path, owner, field, value in set_values(config):
        if is_message(field):
            continue
        bounds = bounds_of(owner.DESCRIPTOR.name, field.name)
        values = value if field.is_repeated else [value]
        faults = (_text_fault(path, one) if isinstance(one, str) else _number_fault(path, one, bounds) for one in values)
        yield from itertools.islice(filter(None, faults), 1)


def _number_fault(path: str, number: float, bounds: tuple[float, float] | None) -> RangeError | None:
    if not math.isfinite(number):
        return RangeError(path, f"{number} is not a number to work with", "write a finite number")
    if bounds is not None and not bounds[0] <= number <= bounds[1]:
        shown = shortest(number) if isinstance(number, float) else number
        return RangeError(path, f"{shown} is out of range", f"write a value {bounds_text(*bounds)}")
    return None


def _text_fault(path: str, text: str) -> RangeError | None:
    """Most text is a path; the system's own refusal would come late, and from anywhere."""
    name = max(text.split("/"), key=len)
    if "\0" in text:
        return RangeError(path, "holds a NUL character", "remove it")
    if len(name.encode()) > _LONGEST_NAME or len(text.encode()) > _LONGEST_PATH:
        return RangeError(path, f"is longer than a path can be: {name[:40]}...", "shorten it")
    return None


def bounds_of(owner: str, field: str) -> tuple[float, float] | None:
    """The inclusive bounds of a field of the message named `owner`; None where its type alone bounds it."""
    return RANGES.get(owner, {}).get(field)


def bounds_text(low: float, high: float) -> str:
    if high == math.inf:
        return f"of at least {low:g}"
    return f"from {low:g} to {high:g}"
