"""The way back: the edits that take a Mask R-CNN config to boxes, as a Faster R-CNN config has them."""

from __future__ import annotations

from tasks.pipeline_config.edits import DEFAULT_METRICS, MASK_PREDICTOR, Draft, Edit, Edited, apply_edits
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig

_MASK_BRANCH = (
    "predict_instance_masks",
    "conv_hyperparams",
    "mask_height",
    "mask_width",
    "mask_prediction_conv_depth",
    "mask_prediction_num_conv_layers",
    "masks_are_class_agnostic",
    "convolve_then_upsample_masks",
)


def load_no_masks(config: TrainEvalPipelineConfig) -> Edited:
    """No reader loads instance masks."""
    draft = Draft(config)
    for reader in draft.readers():
        for name in ("load_instance_masks", "mask_type"):
            draft.remove(f"{reader}.{name}", "boxes need no masks")
    return draft.done()


def predict_no_masks(config: TrainEvalPipelineConfig) -> Edited:
    """The predictor, where it is one that can have it, has no mask branch, and the loss no weight for it."""
    draft = Draft(config)
    if config.model.faster_rcnn.second_stage_box_predictor.HasField("mask_rcnn_box_predictor"):
        for name in _MASK_BRANCH:
            draft.remove(f"{MASK_PREDICTOR}.{name}", "the mask branch goes")
    draft.remove("model.faster_rcnn.second_stage_mask_prediction_loss_weight", "there is no mask loss")
    return draft.done()


def two_stages(config: TrainEvalPipelineConfig) -> Edited:
    """Proposals and boxes, which is the language's default."""
    draft = Draft(config)
    if config.model.faster_rcnn.number_of_stages == 3:
        draft.remove("model.faster_rcnn.number_of_stages", "the third stage predicts the masks; 2 is the default")
    return draft.done()


def report_no_mask_metrics(config: TrainEvalPipelineConfig) -> Edited:
    """`coco_mask_metrics` leaves the metrics set; what is then the default set is not written."""
    draft = Draft(config)
    metrics = [name for name in config.eval_config.metrics_set if name != "coco_mask_metrics"]
    if tuple(metrics) in ((), DEFAULT_METRICS):
        draft.remove("eval_config.metrics_set", "without masks: the default set")
    else:
        draft.put("eval_config.metrics_set", metrics, "there are no masks to measure")
    return draft.done()


def remove_masks(config: TrainEvalPipelineConfig) -> tuple[TrainEvalPipelineConfig, tuple[Edit, ...]]:
    """The config without masks, and each edit's report. The predictor stays: it predicts boxes as well."""
    return apply_edits(
        config,
        {
            "readers load boxes only": load_no_masks,
            "the predictor has no mask branch": predict_no_masks,
            "two stages": two_stages,
            "box metrics only are reported": report_no_mask_metrics,
        },
    )
