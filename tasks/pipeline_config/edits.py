"""The six edits that make a Faster R-CNN config a Mask R-CNN config, and those that fit it to a dataset and to an end.

Each edit takes a config and answers with an edited copy and what it changed; applied again it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format

from tasks.pipeline_config.box_predictor_pb2 import BoxPredictor
from tasks.pipeline_config.fields import Change, follow, is_message, text_of
from tasks.pipeline_config.layers_pb2 import Hyperparams
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.running.errors import UserError

BOX_PREDICTOR = "model.faster_rcnn.second_stage_box_predictor"
MASK_PREDICTOR = f"{BOX_PREDICTOR}.mask_rcnn_box_predictor"

DEFAULT_METRICS = ("coco_detection_metrics",)
"""What the original reports where a config names no metrics set."""

FC_HYPERPARAMS = """
    op: FC
    regularizer { l2_regularizer { weight: 0 } }
    initializer { variance_scaling_initializer { factor: 1 uniform: true mode: FAN_AVG } }
"""
CONV_HYPERPARAMS = """
    op: CONV
    regularizer { l2_regularizer { weight: 0 } }
    initializer { truncated_normal_initializer { stddev: 0.01 } }
"""

ZOO_STEPS = 200_000

LARGEST = 4096
"""Cells or channels beyond which a mask branch is a slip of the keyboard."""

Edited = tuple[TrainEvalPipelineConfig, tuple[Change, ...]]


@dataclass(frozen=True)
class MaskBranch:
    """Wishes for the mask branch; None keeps what the config says, or the language's default where it says nothing."""

    height: int | None = None
    width: int | None = None
    conv_depth: int | None = None
    conv_layers: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            low = 0 if name == "conv_depth" else 1
            if value is not None and not low <= value <= LARGEST:
                raise UserError(f"mask {name} {value} is out of range", f"give a value from {low} to {LARGEST}")


@dataclass(frozen=True)
class Records:
    """Where a dataset's records and label map lie, how they store masks, and how many classes there are."""

    train_pattern: str
    validation_pattern: str
    label_map: str
    mask_type: str
    """`PNG_MASKS` or `NUMERICAL_MASKS`."""
    num_classes: int
    most_objects: int = 0
    """In one image to train on"""


@dataclass(frozen=True)
class Edit:
    """One edit as it went: its title and the fields it changed; none where the config had it already."""

    title: str
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        return {"edit": self.title, "changes": [change.to_json() for change in self.changes]}


class Draft:
    """A copy of a config that notes every field it changes."""

    def __init__(self, config: TrainEvalPipelineConfig) -> None:
        self.config = config
        self.changes: list[Change] = []

    def put(self, path: str, value: Any, why: str) -> None:
        """Sets the field unless it has that value already, by itself or by default."""
        edited = TrainEvalPipelineConfig()
        edited.CopyFrom(self.config)
        owner, field, _ = follow(edited, path)
        before, current = text_of(owner, field.name), getattr(owner, field.name)
        if field.is_repeated:
            if list(current) == value:
                return
            owner.ClearField(field.name)
            getattr(owner, field.name).extend(value)
        elif is_message(field):
            current.CopyFrom(value)
        elif current == value:
            return
        else:
            setattr(owner, field.name, value)
        self.config = edited
        self.changes.append(Change(path, before, text_of(owner, field.name), why))

    def put_enum(self, path: str, name: str, why: str) -> None:
        probe = TrainEvalPipelineConfig()
        probe.CopyFrom(self.config)
        _, field, _ = follow(probe, path)
        assert field.enum_type is not None
        self.put(path, field.enum_type.values_by_name[name].number, why)

    def remove(self, path: str, why: str) -> None:
        """Takes the field away, which leaves its default, unless it is absent already."""
        edited = TrainEvalPipelineConfig()
        edited.CopyFrom(self.config)
        owner, field, _ = follow(edited, path)
        before = text_of(owner, field.name)
        if before is not None:
            owner.ClearField(field.name)
            self.config = edited
            self.changes.append(Change(path, before, None, why))

    def readers(self) -> list[str]:
        """Paths of the training reader and of every evaluation reader; the latter is added where there is none."""
        if not self.config.eval_input_reader:
            edited = TrainEvalPipelineConfig()
            edited.CopyFrom(self.config)
            edited.eval_input_reader.add(shuffle=False)
            self.config = edited
            self.changes.append(Change("eval_input_reader[0]", None, "shuffle: false", "evaluation needs data"))
        return ["train_input_reader", *(f"eval_input_reader[{i}]" for i in range(len(self.config.eval_input_reader)))]

    def done(self) -> Edited:
        return self.config, tuple(self.changes)


def load_masks(config: TrainEvalPipelineConfig, mask_type: str) -> Edited:
    """Edit 1: every reader loads instance masks, in the form in which the records hold them."""
    draft = Draft(config)
    for reader in draft.readers():
        draft.put(f"{reader}.load_instance_masks", True, "without it the masks in the records are not read")
        draft.put_enum(f"{reader}.mask_type", mask_type, "the form in which the records hold masks")
    return draft.done()


def use_mask_predictor(config: TrainEvalPipelineConfig) -> Edited:
    """Edit 2: the second stage's predictor is one that can have a mask branch."""
    draft = Draft(config)
    if not config.model.faster_rcnn.second_stage_box_predictor.HasField("mask_rcnn_box_predictor"):
        predictor = BoxPredictor()
        predictor.mask_rcnn_box_predictor.fc_hyperparams.CopyFrom(_hyperparams(FC_HYPERPARAMS))
        draft.put(BOX_PREDICTOR, predictor, "the only predictor that can have a mask branch")
    return draft.done()


def predict_masks(config: TrainEvalPipelineConfig, branch: MaskBranch) -> Edited:
    """Edit 3: the predictor has a mask branch, whose convolutions are defined."""
    draft = Draft(config)
    predictor = config.model.faster_rcnn.second_stage_box_predictor.mask_rcnn_box_predictor
    conv_depth = branch.conv_depth
    if conv_depth is None and not predictor.HasField("mask_prediction_conv_depth") and not predictor.predict_instance_masks:
        conv_depth = 0
    draft.put(f"{MASK_PREDICTOR}.predict_instance_masks", True, "adds the mask branch")
    if not predictor.HasField("conv_hyperparams"):
        path = f"{MASK_PREDICTOR}.conv_hyperparams"
        draft.put(path, _hyperparams(CONV_HYPERPARAMS), "the mask branch is built of convolutions")
    wishes = {
        "mask_height": (branch.height, "asked for"),
        "mask_width": (branch.width, "asked for"),
        "mask_prediction_conv_depth": (
            conv_depth,
            "0 derives the depth from the number of classes" if conv_depth == 0 else "asked for",
        ),
        "mask_prediction_num_conv_layers": (branch.conv_layers, "asked for"),
    }
    for name, (value, why) in wishes.items():
        if value is not None:
            draft.put(f"{MASK_PREDICTOR}.{name}", value, why)
    return draft.done()


def three_stages(config: TrainEvalPipelineConfig) -> Edited:
    """Edit 4: proposals, boxes, and masks."""
    draft = Draft(config)
    draft.put("model.faster_rcnn.number_of_stages", 3, "the third stage predicts the masks")
    return draft.done()


def report_mask_metrics(config: TrainEvalPipelineConfig) -> Edited:
    """Edit 5: `coco_mask_metrics` joins the metrics set."""
    draft = Draft(config)
    metrics = list(config.eval_config.metrics_set) or list(DEFAULT_METRICS)
    if "coco_mask_metrics" not in metrics:
        draft.put("eval_config.metrics_set", [*metrics, "coco_mask_metrics"], "box metrics alone do not see the masks")
    return draft.done()


def read_records(config: TrainEvalPipelineConfig, records: Records) -> Edited:
    """Edit 6: the readers point at the records and their label map."""
    draft = Draft(config)
    for reader in draft.readers():
        pattern = records.train_pattern if reader == "train_input_reader" else records.validation_pattern
        draft.put(f"{reader}.tf_record_input_reader.input_path", [pattern], "the dataset's records")
        draft.put(f"{reader}.label_map_path", records.label_map, "the dataset's label map")
    return draft.done()


def count_classes(config: TrainEvalPipelineConfig, num_classes: int) -> Edited:
    """Not of the six: as many classes as the label map has, without which the heads do not fit the records."""
    draft = Draft(config)
    draft.put("model.faster_rcnn.num_classes", num_classes, "the greatest id in the dataset's label map")
    return draft.done()


def end_training(config: TrainEvalPipelineConfig) -> Edited:
    """Not of the six: training has a last step, which some of the original's samples leave to whoever watches it."""
    draft = Draft(config)
    if config.train_config.num_steps == 0:
        optimizer = config.train_config.optimizer
        kind = optimizer.WhichOneof("optimizer")
        if kind and getattr(optimizer, kind).learning_rate.HasField("cosine_decay_learning_rate"):
            steps = getattr(optimizer, kind).learning_rate.cosine_decay_learning_rate.total_steps
            draft.put("train_config.num_steps", steps, "0 trains without end; the learning rate reaches zero here")
        else:
            draft.put("train_config.num_steps", ZOO_STEPS, "0 trains without end; the zoo configs' number")
    return draft.done()


def add_masks(config: TrainEvalPipelineConfig, mask_type: str, branch: MaskBranch) -> tuple[TrainEvalPipelineConfig, tuple[Edit, ...]]:
    """The config with the five edits that are about masks, and each one's report; `mask_type` as in `Records`."""
    return apply_edits(
        config,
        {
            "1. readers load instance masks": lambda c: load_masks(c, mask_type),
            "2. the second stage has a Mask R-CNN predictor": use_mask_predictor,
            "3. the predictor has a mask branch": lambda c: predict_masks(c, branch),
            "4. three stages": three_stages,
            "5. mask metrics are reported": report_mask_metrics,
        },
    )


def fit_to_dataset(config: TrainEvalPipelineConfig, records: Records) -> tuple[TrainEvalPipelineConfig, tuple[Edit, ...]]:
    """The config on a dataset: the sixth edit, and the number of classes."""
    return apply_edits(
        config,
        {
            "6. readers point at the data": lambda c: read_records(c, records),
            "the number of classes is the dataset's": lambda c: count_classes(c, records.num_classes),
        },
    )


def to_mask_rcnn(config: TrainEvalPipelineConfig, records: Records, branch: MaskBranch) -> tuple[TrainEvalPipelineConfig, tuple[Edit, ...]]:
    """The config with the six edits applied and fitted to the dataset, and each edit's report."""
    config, masks = add_masks(config, records.mask_type, branch)
    config, data = fit_to_dataset(config, records)
    return config, (*masks, *data)


def apply_edits(
    config: TrainEvalPipelineConfig, edits: Mapping[str, Callable[[TrainEvalPipelineConfig], Edited]]
) -> tuple[TrainEvalPipelineConfig, tuple[Edit, ...]]:
    """The config after edits, in their order, and the report of each under its title."""
    reports = []
    for title, edit in edits.items():
        config, changes = edit(config)
        reports.append(Edit(title, changes))
    return config, tuple(reports)


def _hyperparams(text: str) -> Hyperparams:
    return text_format.Parse(text, Hyperparams())
