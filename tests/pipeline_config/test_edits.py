"""The six edits, against the zoo configs that somebody else wrote by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tasks.pipeline_config.edits import MaskBranch, Records, end_training, to_mask_rcnn
from tasks.pipeline_config.fields import is_message, set_values, text_of
from tasks.pipeline_config.parser import parse_pipeline_config, print_pipeline_config, read_pipeline_config
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig

HEAD = "model.faster_rcnn.second_stage_box_predictor.mask_rcnn_box_predictor"
RESIZER = "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer"
GRID = "model.faster_rcnn.first_stage_anchor_generator.grid_anchor_generator"

LEFT_OPEN = {
    f"{RESIZER}.min_dimension": ("600", "800"),
    f"{RESIZER}.max_dimension": ("1024", "1365"),
    "model.faster_rcnn.second_stage_mask_prediction_loss_weight": (None, "4.0"),
}
"""What the guide says nothing of: the value that the edits leave, and the zoo's."""

ATROUS = {
    "model.faster_rcnn.feature_extractor.first_stage_features_stride": ("16", "8"),
    f"{GRID}.height_stride": ("16", "8"),
    f"{GRID}.width_stride": ("16", "8"),
    "model.faster_rcnn.first_stage_atrous_rate": (None, "2"),
}
"""The zoo's ResNets run at stride 8; their Faster R-CNN examples at 16."""

TWINS = {
    "faster_rcnn_resnet50_coco": ("mask_rcnn_resnet50_atrous_coco", (33, 33, 4), ATROUS),
    "faster_rcnn_resnet101_coco": ("mask_rcnn_resnet101_atrous_coco", (33, 33, 4), ATROUS),
    "faster_rcnn_inception_resnet_v2_atrous_coco": ("mask_rcnn_inception_resnet_v2_atrous_coco", (33, 33, 4), {}),
    "faster_rcnn_inception_v2_coco": ("mask_rcnn_inception_v2_coco", (15, 15, 2), {}),
}


def leaves(config: TrainEvalPipelineConfig) -> dict[str, str | None]:
    return {
        path: text_of(owner, field.name)
        for path, owner, field, value in set_values(config)
        if not is_message(field) or not value.ListFields()
    }


def differences(ours: TrainEvalPipelineConfig, theirs: TrainEvalPipelineConfig) -> dict[str, Any]:
    left, right = leaves(ours), leaves(theirs)
    return {path: (left.get(path), right.get(path)) for path in {*left, *right} if left.get(path) != right.get(path)}


@pytest.mark.parametrize("name", TWINS)
def test_an_edited_faster_rcnn_is_its_zoo_twin_but_for_what_the_guide_leaves_open(name: str, configs: Path, records: Records) -> None:
    twin, (height, width, layers), more = TWINS[name]
    edited, _ = to_mask_rcnn(
        read_pipeline_config(configs / "faster_rcnn" / f"{name}.config"),
        records,
        MaskBranch(height=height, width=width, conv_layers=layers),
    )
    zoo, _ = to_mask_rcnn(read_pipeline_config(configs / "zoo" / f"{twin}.config"), records, MaskBranch())
    found = differences(edited, zoo)
    if name == "faster_rcnn_inception_v2_coco":
        # 15 x 15 and two layers are the language's defaults, so the edits write nothing and the zoo file says them.
        for field, value in (("mask_height", "15"), ("mask_width", "15"), ("mask_prediction_num_conv_layers", "2")):
            assert found.pop(f"{HEAD}.{field}") == (None, value)
    assert found == {**LEFT_OPEN, **more}


def test_each_edit_tells_what_was_there_and_what_is_now(configs: Path, records: Records) -> None:
    config = read_pipeline_config(configs / "faster_rcnn" / "faster_rcnn_resnet101_coco.config")
    _, edits = to_mask_rcnn(config, records, MaskBranch())
    told = {change.path: (change.before, change.after) for edit in edits for change in edit.changes}
    hyperparams = told.pop(f"{HEAD}.conv_hyperparams")
    assert hyperparams[0] is None
    assert "truncated_normal_initializer { stddev: 0.01 }" in str(hyperparams[1])
    assert told == {
        "train_input_reader.load_instance_masks": (None, "true"),
        "train_input_reader.mask_type": (None, "PNG_MASKS"),
        "eval_input_reader[0].load_instance_masks": (None, "true"),
        "eval_input_reader[0].mask_type": (None, "PNG_MASKS"),
        f"{HEAD}.predict_instance_masks": (None, "true"),
        f"{HEAD}.mask_prediction_conv_depth": (None, "0"),
        "model.faster_rcnn.number_of_stages": (None, "3"),
        "eval_config.metrics_set": (None, '["coco_detection_metrics", "coco_mask_metrics"]'),
        "train_input_reader.tf_record_input_reader.input_path": (
            '["PATH_TO_BE_CONFIGURED/train.record-?????-of-00100"]',
            '["dataset/train.record-?????-of-00002"]',
        ),
        "train_input_reader.label_map_path": (
            '"PATH_TO_BE_CONFIGURED/label_map.pbtxt"',
            '"dataset/label_map.pbtxt"',
        ),
        "eval_input_reader[0].tf_record_input_reader.input_path": (
            '["PATH_TO_BE_CONFIGURED/val.record-?????-of-00010"]',
            '["dataset/val.record-?????-of-00001"]',
        ),
        "eval_input_reader[0].label_map_path": (
            '"PATH_TO_BE_CONFIGURED/label_map.pbtxt"',
            '"dataset/label_map.pbtxt"',
        ),
        "model.faster_rcnn.num_classes": ("90", "3"),
    }
    assert all(change.why for edit in edits for change in edit.changes)


def test_edits_applied_again_change_nothing(config_file: Path, records: Records) -> None:
    config = read_pipeline_config(config_file)
    kept = print_pipeline_config(config)
    once, _ = to_mask_rcnn(config, records, MaskBranch(height=28, conv_depth=64))
    twice, edits = to_mask_rcnn(once, records, MaskBranch(height=28, conv_depth=64))
    assert once == twice
    assert all(edit.changes == () for edit in edits)
    assert print_pipeline_config(config) == kept


@pytest.mark.parametrize(
    ("branch", "expected"),
    [
        (MaskBranch(), (15, 15, 0, 2)),
        (MaskBranch(height=28), (28, 15, 0, 2)),
        (MaskBranch(width=28, conv_depth=128), (15, 28, 128, 2)),
        (MaskBranch(33, 33, 256, 4), (33, 33, 256, 4)),
    ],
)
def test_mask_branch_of_a_fresh_conversion(branch: MaskBranch, expected: tuple[int, ...], configs: Path, records: Records) -> None:
    config = read_pipeline_config(configs / "faster_rcnn" / "faster_rcnn_resnet50_coco.config")
    edited, _ = to_mask_rcnn(config, records, branch)
    head = edited.model.faster_rcnn.second_stage_box_predictor.mask_rcnn_box_predictor
    found = (head.mask_height, head.mask_width, head.mask_prediction_conv_depth, head.mask_prediction_num_conv_layers)
    assert found == expected


def test_a_mask_branch_that_is_there_keeps_its_depth(records: Records) -> None:
    head = "mask_rcnn_box_predictor { predict_instance_masks: true }"
    config = parse_pipeline_config(f"model {{ faster_rcnn {{ second_stage_box_predictor {{ {head} }} }} }}", "x")
    edited, _ = to_mask_rcnn(config, records, MaskBranch())
    predictor = edited.model.faster_rcnn.second_stage_box_predictor.mask_rcnn_box_predictor
    assert predictor.mask_prediction_conv_depth == 256


def test_another_predictor_is_replaced_and_the_loss_of_it_told(records: Records) -> None:
    text = "model { faster_rcnn { second_stage_box_predictor { convolutional_box_predictor { kernel_size: 3 } } } }"
    edited, edits = to_mask_rcnn(parse_pipeline_config(text, "x"), records, MaskBranch())
    predictor = edited.model.faster_rcnn.second_stage_box_predictor
    assert predictor.WhichOneof("box_predictor_oneof") == "mask_rcnn_box_predictor"
    assert predictor.mask_rcnn_box_predictor.fc_hyperparams.initializer.variance_scaling_initializer.factor == 1.0
    assert "convolutional_box_predictor" in str(edits[1].changes[0].before)


def test_dense_masks_are_the_language_s_default(configs: Path, records: Records) -> None:
    config = read_pipeline_config(configs / "faster_rcnn" / "faster_rcnn_resnet50_coco.config")
    edited, edits = to_mask_rcnn(config, dataclasses.replace(records, mask_type="NUMERICAL_MASKS"), MaskBranch())
    assert [change.path for change in edits[0].changes] == [
        "train_input_reader.load_instance_masks",
        "eval_input_reader[0].load_instance_masks",
    ]
    assert edited.train_input_reader.mask_type == edited.eval_input_reader[0].mask_type == 1


def test_metrics_that_are_named_stay(configs: Path, records: Records) -> None:
    config = read_pipeline_config(configs / "faster_rcnn" / "faster_rcnn_resnet50_coco.config")
    config.eval_config.metrics_set.append("pascal_voc_detection_metrics")
    edited, _ = to_mask_rcnn(config, records, MaskBranch())
    assert list(edited.eval_config.metrics_set) == ["pascal_voc_detection_metrics", "coco_mask_metrics"]


def test_a_config_without_evaluation_gets_a_reader(records: Records) -> None:
    edited, edits = to_mask_rcnn(parse_pipeline_config("model { faster_rcnn {} }", "x"), records, MaskBranch())
    assert len(edited.eval_input_reader) == 1
    assert edited.eval_input_reader[0].label_map_path == "dataset/label_map.pbtxt"
    assert edits[0].changes[0].path == "eval_input_reader[0]"


@pytest.mark.parametrize(
    ("train", "steps"),
    [
        ("num_steps: 7", 7),
        ("", 200_000),
        ("optimizer { adam_optimizer { } }", 200_000),
        ("optimizer { adam_optimizer { learning_rate { cosine_decay_learning_rate { total_steps: 900 } } } }", 900),
    ],
)
def test_training_ends(train: str, steps: int) -> None:
    config = parse_pipeline_config(f"model {{ faster_rcnn {{ }} }} train_config {{ {train} }}", "x")
    edited, changes = end_training(config)
    assert edited.train_config.num_steps == steps
    assert [change.path for change in changes] == ([] if "num_steps" in train else ["train_config.num_steps"])
