"""What the model of a config looks for in the checkpoint that it starts from, and what of that is there."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.mask_rcnn.mask_depth import KERAS
from tasks.pipeline_config.fine_tuning import checkpoint_kind, restores_heads
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig

Shapes = Mapping[str, tuple[int, ...]]
"""Of a checkpoint's variables, by name"""

_NETWORKS = {
    "faster_rcnn_inception_resnet_v2": "InceptionResnetV2",
    "faster_rcnn_inception_v2": "InceptionV2",
    "faster_rcnn_resnet50": "resnet_v1_50",
    "faster_rcnn_resnet101": "resnet_v1_101",
    "faster_rcnn_resnet152": "resnet_v1_152",
}
"""Scopes of the backbones, by feature extractor"""

_CLASSES = "SecondStageBoxPredictor/ClassPredictor/biases"


def missing_scopes(config: TrainEvalPipelineConfig, shapes: Shapes) -> list[str]:
    """The scopes of which nothing is in the checkpoint, though the config asks for it; training refuses such a checkpoint."""
    network = _NETWORKS.get(config.model.faster_rcnn.feature_extractor.type.removesuffix(KERAS))
    if network is None:
        return []
    if _kind(config) == "classification":
        wanted = [network]
    else:
        wanted = [f"FirstStageFeatureExtractor/{network}", f"SecondStageFeatureExtractor/{network}"]
    if restores_heads(config):
        wanted += ["Conv", "FirstStageBoxPredictor", "SecondStageBoxPredictor"]
    return [scope for scope in wanted if not any(name.startswith(f"{scope}/") for name in shapes)]


def network_of(shapes: Shapes) -> str | None:
    """The feature extractor, by the zoo's name, whose detector the checkpoint is of; None where it does not say so."""
    for extractor, network in _NETWORKS.items():
        if any(name.startswith(f"FirstStageFeatureExtractor/{network}/") for name in shapes):
            return extractor
    return None


def head_classes(shapes: Shapes) -> int | None:
    """How many classes the checkpoint's heads know, the background not counted; None where it has none."""
    return shapes[_CLASSES][0] - 1 if _CLASSES in shapes else None


def _kind(config: TrainEvalPipelineConfig) -> str:
    return checkpoint_kind(config.train_config.fine_tune_checkpoint_type, config.train_config.from_detection_checkpoint)
