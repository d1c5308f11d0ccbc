"""The settings of an experiment that a person compares between trainings, under plain names; the rest stands in the experiment's file."""

from __future__ import annotations

import json
from typing import Any

from official.core import config_definitions as cfg

from tasks.records.record_set import RecordSet


def compared_settings(experiment: cfg.ExperimentConfig, records: RecordSet) -> dict[str, Any]:
    """About thirty values, numbers and short texts; what does not exist is left out.

    Lengths are pixels of the resized image, a mask's size is in its own cells.
    """
    task, runtime, optimization = experiment.task, experiment.runtime, experiment.trainer.optimizer_config
    model, data = task.model, task.train_data
    optimizer, rate, warmup = optimization.optimizer.get(), optimization.learning_rate.get(), optimization.warmup.get()
    settings = {
        "backbone": model.feature_extractor.type.removeprefix("faster_rcnn_"),
        "feature_stride": model.feature_extractor.first_stage_features_stride,
        "batch_norm_trainable": model.feature_extractor.batch_norm_trainable,
        "checkpoint": task.init_checkpoint or "from scratch",
        "dataset": records.name,
        "dataset_digest": records.digest[:12],
        "train_images": records.counts.get("train", {}).get("images"),
        "val_images": records.counts.get("val", {}).get("images"),
        "classes": model.num_classes,
        "batch_size": data.global_batch_size,
        "image_size": _image_size(model.image_resizer),
        "precision": runtime.mixed_precision_dtype or "float32",
        "xla": runtime.enable_xla,
        "gpus": runtime.num_gpus,
        "workers": len(runtime.worker_hosts.split(",")) if runtime.worker_hosts else None,
        "seed": data.seed,
        "optimizer": optimization.optimizer.type,
        "gradient_clipping": getattr(optimizer, "global_clipnorm", None),
        "learning_rate": _first_rate(rate),
        "learning_rate_schedule": optimization.learning_rate.type,
        "learning_rate_details": _told(rate),
        "warmup_steps": getattr(warmup, "warmup_steps", None),
        "augmentations": ", ".join(augmentation.kind for augmentation in data.augmentations) or "none",
        "anchor_size": f"{model.anchors.height}x{model.anchors.width}",
        "anchor_scales": _listed(model.anchors.scales),
        "anchor_aspect_ratios": _listed(model.anchors.aspect_ratios),
        "anchor_stride": f"{model.anchors.height_stride}x{model.anchors.width_stride}",
        "proposals": model.first_stage.max_proposals,
        "sampled_proposals": model.second_stage.batch_size,
        "max_detections": model.second_stage.max_total_detections,
        "mask": f"{model.mask_head.height}x{model.mask_head.width}" if model.number_of_stages == 3 else "none",
        "mask_conv_layers": model.mask_head.num_conv_layers if model.number_of_stages == 3 else None,
        "mask_conv_depth": model.mask_head.conv_depth if model.number_of_stages == 3 else None,
        "max_boxes": data.max_number_of_boxes,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _image_size(resizer: Any) -> str:
    if resizer.kind == "keep_aspect_ratio":
        return f"{resizer.min_dimension} to {resizer.max_dimension}"
    return f"{resizer.height}x{resizer.width}" if resizer.kind == "fixed_shape" else "as it is"


def _first_rate(schedule: Any) -> float:
    """What the schedule begins with, after any warm-up."""
    values = getattr(schedule, "values", None)
    if values:
        return float(values[0])
    return float(getattr(schedule, "initial_learning_rate", None) or schedule.learning_rate)


def _told(schedule: Any) -> str:
    values = {name: value for name, value in schedule.as_dict().items() if value is not None and name not in ("name", "offset")}
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in values.items())


def _listed(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values)
