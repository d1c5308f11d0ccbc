"""The experiment that training runs: Model Garden's `ExperimentConfig` with the zoo models' own fields.

Fields carry the names and defaults of the original `pipeline.config` language where it has them. A value enters once, through
`load_experiment`, which refuses unknown fields; `__post_init__` refuses values that contradict each other.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling.hyperparams import base_config

from tasks.mask_rcnn.augmentation_options import Option, option
from tasks.mask_rcnn.optimization import OptimizationConfig
from tasks.running.errors import UserError

EXPERIMENT = "mask_rcnn_zoo"


@dataclasses.dataclass
class Initializer(base_config.Config):
    """Kernel initializer of a head: `truncated_normal`, `random_normal` (mean, stddev) or `variance_scaling` (the rest)."""

    kind: str = "truncated_normal"
    mean: float = 0.0
    stddev: float = 0.01
    factor: float = 1.0
    uniform: bool = False
    mode: str = "FAN_IN"


@dataclasses.dataclass
class Hyperparams(base_config.Config):
    """What a config says of a head's layers: initial kernel and L2 weight."""

    initializer: Initializer = dataclasses.field(default_factory=Initializer)
    l2_weight: float = 0.0


@dataclasses.dataclass
class ImageResizer(base_config.Config):
    """`keep_aspect_ratio` (min_dimension, max_dimension), `fixed_shape` (height, width) or `identity`; pixels.

    `resize_method` is one of `image_resizer.METHODS`, for images; masks take the nearest pixel. `per_channel_pad_value` is zeros if empty.
    """

    kind: str = "keep_aspect_ratio"
    min_dimension: int = 800
    max_dimension: int = 1365
    pad_to_max_dimension: bool = False
    per_channel_pad_value: tuple[float, ...] = ()
    height: int = 0
    width: int = 0
    resize_method: str = "BILINEAR"


@dataclasses.dataclass
class FeatureExtractor(base_config.Config):
    type: str = "faster_rcnn_resnet50"
    first_stage_features_stride: int = 16
    batch_norm_trainable: bool = False


@dataclasses.dataclass
class GridAnchorGenerator(base_config.Config):
    """Sizes and strides in pixels of the resized image; `scales` multiply the base size."""

    scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    height: int = 256
    width: int = 256
    height_stride: int = 16
    width_stride: int = 16
    height_offset: int = 0
    width_offset: int = 0


@dataclasses.dataclass
class FirstStage(base_config.Config):
    """The region proposal network and the choice of proposals."""

    atrous_rate: int = 1
    box_predictor_depth: int = 512
    box_predictor_kernel_size: int = 3
    box_predictor_hyperparams: Hyperparams = dataclasses.field(default_factory=Hyperparams)
    minibatch_size: int = 256
    positive_balance_fraction: float = 0.5
    nms_score_threshold: float = 0.0
    nms_iou_threshold: float = 0.7
    max_proposals: int = 300
    localization_loss_weight: float = 1.0
    objectness_loss_weight: float = 1.0


@dataclasses.dataclass
class SecondStage(base_config.Config):
    """Crops, box head, and what becomes of its predictions. `initial_crop_size` and the pool are in feature cells.

    `classification_loss`: `weighted_softmax` or `weighted_sigmoid`; `score_converter`: `SOFTMAX` or `SIGMOID`.
    `use_matmul_crop_and_resize` holds for the targets of masks too.
    """

    initial_crop_size: int = 14
    use_matmul_crop_and_resize: bool = False
    maxpool_kernel_size: int = 2
    maxpool_stride: int = 2
    fc_hyperparams: Hyperparams = dataclasses.field(default_factory=Hyperparams)
    use_dropout: bool = False
    dropout_keep_probability: float = 0.5
    share_box_across_classes: bool = False
    batch_size: int = 64
    balance_fraction: float = 0.25
    nms_score_threshold: float = 0.0
    nms_iou_threshold: float = 0.6
    max_detections_per_class: int = 100
    max_total_detections: int = 300
    score_converter: str = "SOFTMAX"
    localization_loss_weight: float = 1.0
    classification_loss: str = "weighted_softmax"
    classification_loss_weight: float = 1.0


@dataclasses.dataclass
class MaskHead(base_config.Config):
    """The third stage; `conv_depth` 0 computes the depth from the number of classes; `num_conv_layers` counts the last one."""

    height: int = 15
    width: int = 15
    conv_depth: int = 256
    num_conv_layers: int = 2
    conv_hyperparams: Hyperparams = dataclasses.field(default_factory=Hyperparams)
    loss_weight: float = 1.0


@dataclasses.dataclass
class MaskRCNN(base_config.Config):
    """One of the zoo models. `number_of_stages`: 1 proposals only, 2 boxes, 3 boxes and masks.

    `original_padded_masks`: at inference on padded images, masks are predicted where the original looked: on the padded feature map, at
    boxes that are relative to the image without its padding. False looks where the boxes are.

    `jit_compile`: its networks run as XLA programs, which pays where many images have one size.
    """

    num_classes: int = 90
    number_of_stages: int = 3
    image_resizer: ImageResizer = dataclasses.field(default_factory=ImageResizer)
    feature_extractor: FeatureExtractor = dataclasses.field(default_factory=FeatureExtractor)
    anchors: GridAnchorGenerator = dataclasses.field(default_factory=GridAnchorGenerator)
    first_stage: FirstStage = dataclasses.field(default_factory=FirstStage)
    second_stage: SecondStage = dataclasses.field(default_factory=SecondStage)
    mask_head: MaskHead = dataclasses.field(default_factory=MaskHead)
    original_padded_masks: bool = False
    jit_compile: bool = False


@dataclasses.dataclass
class Augmentation(base_config.Config):
    """One of `augmentation_options.OPTIONS` by name, and its parameters; those that are left out have the original's defaults."""

    kind: str = ""
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)

    def option(self) -> Option:
        return option(**self.as_dict())


@dataclasses.dataclass
class DataConfig(cfg.DataConfig):
    """Records as the original reads them. `mask_type`: `PNG_MASKS` or `NUMERICAL_MASKS`; `augmentations` in the order of their use.

    `merge_multiple_label_boxes`: objects with the same box are one object of several classes.
    """

    label_map_path: str = ""
    mask_type: str = "PNG_MASKS"
    load_instance_masks: bool = True
    max_number_of_boxes: int = 100
    merge_multiple_label_boxes: bool = False
    shuffle_buffer_size: int = 2048
    drop_remainder: bool = False
    augmentations: tuple[Augmentation, ...] = ()


@dataclasses.dataclass
class MaskRCNNTask(cfg.TaskConfig):
    """The zoo config's name, its model, its data, and how `init_checkpoint`, where there is one, is restored.

    `fine_tune_checkpoint_type`: `classification`, `detection` or `full`. Of a detection checkpoint the two backbones are
    restored, and with `load_all_detection_checkpoint_vars` the heads too. `checkpoint_label_map_path` names the
    checkpoint's classes; the heads are then restored for those that the training data has too.
    """

    name: str = ""
    fine_tune_checkpoint_type: str = "classification"
    load_all_detection_checkpoint_vars: bool = False
    checkpoint_label_map_path: str = ""
    model: MaskRCNN = dataclasses.field(default_factory=MaskRCNN)
    train_data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(is_training=True))
    validation_data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(is_training=False))


@exp_factory.register_config_factory(EXPERIMENT)
def mask_rcnn_zoo() -> cfg.ExperimentConfig:
    """The experiment with the `pipeline.config` language's defaults; a converted config states the rest."""
    return cfg.ExperimentConfig(
        task=MaskRCNNTask(),
        trainer=cfg.TrainerConfig(
            # With its momentum a checkpoint is half a gigabyte; the one before is there for the case that the last is damaged.
            max_to_keep=2,
            optimizer_config=OptimizationConfig(
                {
                    "optimizer": {"type": "momentum", "momentum": {"momentum": 0.9, "global_clipnorm": 10.0}},
                    "learning_rate": {"type": "constant", "constant": {"learning_rate": 0.0003}},
                }
            ),
        ),
        runtime=cfg.RuntimeConfig(distribution_strategy="one_device"),
    )


def load_experiment(path: Path) -> cfg.ExperimentConfig:
    """The experiment written in a YAML file; refuses fields that no part of it has."""
    try:
        values: dict[str, Any] = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", "write it with `maskline convert`") from error
    return experiment_from(values, path)


def experiment_from(values: dict[str, Any], path: Path) -> cfg.ExperimentConfig:
    """The experiment of a nested mapping that was read from `path`; refuses fields that no part of it has."""
    experiment = exp_factory.get_exp_config(EXPERIMENT)
    try:
        experiment.override(values, is_strict=True)
        for augmentation in experiment.task.train_data.augmentations:
            augmentation.option()
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}", "convert the pipeline.config again, or correct the field") from error
    return experiment
