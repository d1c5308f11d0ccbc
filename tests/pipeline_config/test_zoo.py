"""The four zoo configs hold the original's values, field by field; the shipped label map holds COCO's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.pipeline_config.fields import set_values, text_of
from tasks.pipeline_config.parser import read_pipeline_config
from tasks.pipeline_config.zoo import find_config, find_label_map, zoo_configs
from tasks.records.label_map import read_label_map
from tasks.running.errors import UserError

ATROUS = {
    "stride": "8",
    "atrous": "2",
    "crop": "14",
    "pool": "2",
    "mask": "33",
    "layers": "4",
    "total": "300",
    "rate": "3",
}
DIFFERENT = {
    "mask_rcnn_resnet50_atrous_coco": {**ATROUS, "type": '"faster_rcnn_resnet50"'},
    "mask_rcnn_resnet101_atrous_coco": {**ATROUS, "type": '"faster_rcnn_resnet101"'},
    "mask_rcnn_inception_resnet_v2_atrous_coco": {
        **ATROUS,
        "type": '"faster_rcnn_inception_resnet_v2"',
        "crop": "17",
        "pool": "1",
        "total": "100",
    },
    "mask_rcnn_inception_v2_coco": {
        **ATROUS,
        "type": '"faster_rcnn_inception_v2"',
        "stride": "16",
        "atrous": None,
        "mask": "15",
        "layers": "2",
        "rate": "2",
    },
}
RCNN = "model.faster_rcnn"
HEAD = f"{RCNN}.second_stage_box_predictor.mask_rcnn_box_predictor"
NMS = f"{RCNN}.second_stage_post_processing.batch_non_max_suppression"
SCHEDULE = "train_config.optimizer.momentum_optimizer.learning_rate.manual_step_learning_rate"


def hyperparams(path: str, op: str) -> dict[str, str | None]:
    values: dict[str, str | None] = {f"{path}.op": op, f"{path}.regularizer.l2_regularizer.weight": "0.0"}
    if op == "CONV":
        return {**values, f"{path}.initializer.truncated_normal_initializer.stddev": "0.01"}
    scaling = f"{path}.initializer.variance_scaling_initializer"
    return {**values, f"{scaling}.factor": "1.0", f"{scaling}.uniform": "true", f"{scaling}.mode": "FAN_AVG"}


def reader(path: str, records: str) -> dict[str, str | None]:
    return {
        f"{path}.label_map_path": '"PATH_TO_BE_CONFIGURED/label_map.pbtxt"',
        f"{path}.tf_record_input_reader.input_path": f'["PATH_TO_BE_CONFIGURED/{records}"]',
        f"{path}.load_instance_masks": "true",
        f"{path}.mask_type": "PNG_MASKS",
    }


def expected(name: str) -> dict[str, str | None]:
    """Every field that the config sets; None for one that it must leave out."""
    own = DIFFERENT[name]
    grid = f"{RCNN}.first_stage_anchor_generator.grid_anchor_generator"
    return {
        f"{RCNN}.num_classes": "90",
        f"{RCNN}.image_resizer.keep_aspect_ratio_resizer.min_dimension": "800",
        f"{RCNN}.image_resizer.keep_aspect_ratio_resizer.max_dimension": "1365",
        f"{RCNN}.number_of_stages": "3",
        f"{RCNN}.feature_extractor.type": own["type"],
        f"{RCNN}.feature_extractor.first_stage_features_stride": own["stride"],
        f"{grid}.height_stride": own["stride"],
        f"{grid}.width_stride": own["stride"],
        f"{grid}.scales": "[0.25, 0.5, 1.0, 2.0]",
        f"{grid}.aspect_ratios": "[0.5, 1.0, 2.0]",
        f"{RCNN}.first_stage_atrous_rate": own["atrous"],
        **hyperparams(f"{RCNN}.first_stage_box_predictor_conv_hyperparams", "CONV"),
        f"{RCNN}.first_stage_nms_score_threshold": "0.0",
        f"{RCNN}.first_stage_nms_iou_threshold": "0.7",
        f"{RCNN}.first_stage_max_proposals": "300",
        f"{RCNN}.first_stage_localization_loss_weight": "2.0",
        f"{RCNN}.first_stage_objectness_loss_weight": "1.0",
        f"{RCNN}.initial_crop_size": own["crop"],
        f"{RCNN}.maxpool_kernel_size": own["pool"],
        f"{RCNN}.maxpool_stride": own["pool"],
        f"{HEAD}.use_dropout": "false",
        f"{HEAD}.dropout_keep_probability": "1.0",
        f"{HEAD}.predict_instance_masks": "true",
        f"{HEAD}.mask_prediction_conv_depth": "0",
        f"{HEAD}.mask_height": own["mask"],
        f"{HEAD}.mask_width": own["mask"],
        f"{HEAD}.mask_prediction_num_conv_layers": own["layers"],
        **hyperparams(f"{HEAD}.fc_hyperparams", "FC"),
        **hyperparams(f"{HEAD}.conv_hyperparams", "CONV"),
        f"{NMS}.score_threshold": "0.0",
        f"{NMS}.iou_threshold": "0.6",
        f"{NMS}.max_detections_per_class": "100",
        f"{NMS}.max_total_detections": own["total"],
        f"{RCNN}.second_stage_post_processing.score_converter": "SOFTMAX",
        f"{RCNN}.second_stage_localization_loss_weight": "2.0",
        f"{RCNN}.second_stage_classification_loss_weight": "1.0",
        f"{RCNN}.second_stage_mask_prediction_loss_weight": "4.0",
        "train_config.batch_size": "1",
        "train_config.optimizer.momentum_optimizer.momentum_optimizer_value": "0.9",
        f"{SCHEDULE}.initial_learning_rate": f"0.000{own['rate']}",
        f"{SCHEDULE}.schedule[0].step": "900000",
        f"{SCHEDULE}.schedule[0].learning_rate": f"{own['rate']}e-05",
        f"{SCHEDULE}.schedule[1].step": "1200000",
        f"{SCHEDULE}.schedule[1].learning_rate": f"{own['rate']}e-06",
        "train_config.optimizer.use_moving_average": "false",
        "train_config.gradient_clipping_by_norm": "10.0",
        "train_config.fine_tune_checkpoint": '"PATH_TO_BE_CONFIGURED/model.ckpt"',
        "train_config.from_detection_checkpoint": "true",
        "train_config.num_steps": "200000",
        "train_config.data_augmentation_options[0].random_horizontal_flip": "",
        **reader("train_input_reader", "train.record-?????-of-00100"),
        "eval_config.num_examples": "8000",
        "eval_config.max_evals": "10",
        **reader("eval_input_reader[0]", "val.record-?????-of-00010"),
        "eval_input_reader[0].shuffle": "false",
        "eval_input_reader[0].num_readers": "1",
    }


@pytest.mark.parametrize("name", DIFFERENT)
def test_every_value_is_the_original_s(name: str) -> None:
    config = read_pipeline_config(zoo_configs()[name])
    found = {}
    for path, owner, field, value in set_values(config):
        if field.message_type is None:
            found[path] = text_of(owner, field.name)
        elif not value.ListFields():
            found[path] = ""
    assert found == {path: text for path, text in expected(name).items() if text is not None}


def test_the_zoo_has_four_configs() -> None:
    assert sorted(zoo_configs()) == sorted(DIFFERENT)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean mask_rcnn_inception_v2_coco"):
        find_config("mask_rcnn_inception_v2_coc")


def test_a_path_that_is_not_there_is_answered_with_the_zoo() -> None:
    with pytest.raises(UserError, match=r"there is no config runs/pipeline.config") as caught:
        find_config("runs/pipeline.config")
    assert all(name in caught.value.fix for name in DIFFERENT)


def test_coco_is_80_classes_of_which_ten_ids_are_missing() -> None:
    coco = read_label_map(find_label_map("coco"))
    assert (len(coco.categories), coco.num_classes) == (80, 90)
    assert set(range(1, 91)) - coco.names.keys() == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def test_coco_has_the_names_of_its_annotation_files(shared_data: Path) -> None:
    truth = json.loads((shared_data / "coco_eval_reference" / "instances_val2014_100.json").read_text())
    assert read_label_map(find_label_map("coco")).names == {category["id"]: category["name"] for category in truth["categories"]}


def test_a_label_map_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"there is no label map maps/mine.pbtxt\n.*: coco"):
        find_label_map("maps/mine.pbtxt")
