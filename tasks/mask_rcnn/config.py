"""What the network is built from.

Fields carry the names and defaults of the original `pipeline.config` language where it has them.
"""

from __future__ import annotations

import dataclasses

from official.modeling.hyperparams import base_config

from tasks.mask_rcnn.mask_depth import KERAS


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
    """`type` names a network, and with `_keras` behind it the form that the original's TensorFlow 2 gave it."""

    type: str = "faster_rcnn_resnet50"
    first_stage_features_stride: int = 16
    batch_norm_trainable: bool = False

    @property
    def network(self) -> str:
        """The type without the form."""
        return self.type.removesuffix(KERAS)

    @property
    def is_keras(self) -> bool:
        return self.type.endswith(KERAS)


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
    """The region proposal network and the choice of proposals.

    `clip_anchors_to_image`: in training, anchors that cross the image's border are clipped to it instead of left out.
    `partitioned_nms`: in training, proposals are suppressed as the original did it for fixed shapes, see `proposals.suppress`.
    """

    atrous_rate: int = 1
    box_predictor_depth: int = 512
    box_predictor_kernel_size: int = 3
    box_predictor_hyperparams: Hyperparams = dataclasses.field(default_factory=Hyperparams)
    minibatch_size: int = 256
    positive_balance_fraction: float = 0.5
    nms_score_threshold: float = 0.0
    nms_iou_threshold: float = 0.7
    max_proposals: int = 300
    clip_anchors_to_image: bool = False
    partitioned_nms: bool = False
    localization_loss_weight: float = 1.0
    objectness_loss_weight: float = 1.0


@dataclasses.dataclass
class HardExampleMiner(base_config.Config):
    """Proposals to learn boxes and classes from: those of the greatest losses, none of which overlaps a greater one beyond the threshold.

    `loss_type` BOTH, CLASSIFICATION or LOCALIZATION says which losses, weighted as in the sum, count; without one there is no mining.
    `num_hard_examples` 0 keeps all that the threshold leaves.
    """

    loss_type: str = ""
    num_hard_examples: int = 64
    iou_threshold: float = 0.7


@dataclasses.dataclass
class SecondStage(base_config.Config):
    """Crops, box head, and what becomes of its predictions. `initial_crop_size` and the pool are in feature cells.

    `classification_loss`: `weighted_softmax`, `weighted_sigmoid` or `weighted_sigmoid_focal`, of which the last has `focal_gamma` and
    `focal_alpha` (None: objects and background weigh the same); `score_converter`: `SOFTMAX` or `SIGMOID`. Logits are divided by
    `loss_logit_scale` in a softmax loss and by `score_logit_scale` where they become scores.
    `hard_example_miner` takes the place of sampling: the second stage then trains on all proposals.
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
    score_logit_scale: float = 1.0
    localization_loss_weight: float = 1.0
    classification_loss: str = "weighted_softmax"
    loss_logit_scale: float = 1.0
    focal_gamma: float = 2.0
    focal_alpha: float | None = None
    classification_loss_weight: float = 1.0
    hard_example_miner: HardExampleMiner = dataclasses.field(default_factory=HardExampleMiner)


@dataclasses.dataclass
class MaskHead(base_config.Config):
    """The third stage; `conv_depth` 0 computes the depth from the number of classes; `num_conv_layers` counts the last one.

    `class_agnostic`: one mask for whatever the class is.
    """

    height: int = 15
    width: int = 15
    conv_depth: int = 256
    num_conv_layers: int = 2
    class_agnostic: bool = False
    conv_hyperparams: Hyperparams = dataclasses.field(default_factory=Hyperparams)
    loss_weight: float = 1.0


@dataclasses.dataclass
class MaskRCNN(base_config.Config):
    """One of the zoo models. `number_of_stages`: 1 proposals only, 2 boxes, 3 boxes and masks.

    `original_padded_masks`: at inference on padded images, masks are predicted where the original looked: on the padded feature map, at
    boxes that are relative to the image without its padding. False looks where the boxes are.

    `static_sampler`: anchors and proposals are sampled as the original did it for fixed shapes: to the full number, with
    anchors that match nothing clearly and with padding where there are too few (`targets.filled`).

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
    static_sampler: bool = False
    jit_compile: bool = False

    @property
    def trained_proposals(self) -> int:
        """How many proposals of an image the second stage trains on, padding included."""
        return self.first_stage.max_proposals if self.second_stage.hard_example_miner.loss_type else self.second_stage.batch_size

    @property
    def most_positives(self) -> int:
        """How many of them can be objects."""
        if self.second_stage.hard_example_miner.loss_type:
            return self.first_stage.max_proposals
        return int(self.second_stage.batch_size * self.second_stage.balance_fraction)
