"""Text to message and back, and errors that say where and what instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.pipeline_config.fields import shortest
from tasks.pipeline_config.parser import parse_pipeline_config, print_pipeline_config, read_pipeline_config, set_field
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.pipeline_config.positions import positions
from tasks.running.errors import UserError

SMALL = "model { faster_rcnn { num_classes: 3 } }"


def refusal(text: str) -> tuple[str, str]:
    with pytest.raises(UserError) as caught:
        parse_pipeline_config(text, "x.config")
    return caught.value.message, caught.value.fix


def test_parse_print_parse_loses_nothing(config_file: Path) -> None:
    config = read_pipeline_config(config_file)
    printed = print_pipeline_config(config)
    assert parse_pipeline_config(printed, "printed") == config
    assert print_pipeline_config(parse_pipeline_config(printed, "printed")) == printed


def test_absent_fields_have_the_original_s_defaults() -> None:
    config = TrainEvalPipelineConfig()
    head = config.model.faster_rcnn.second_stage_box_predictor.mask_rcnn_box_predictor
    assert (head.mask_height, head.mask_width) == (15, 15)
    assert (head.mask_prediction_conv_depth, head.mask_prediction_num_conv_layers) == (256, 2)
    assert config.model.faster_rcnn.second_stage_mask_prediction_loss_weight == 1.0
    assert not config.model.faster_rcnn.feature_extractor.batch_norm_trainable
    reader = config.train_input_reader
    assert (reader.max_number_of_boxes, reader.shuffle_buffer_size) == (100, 2048)
    assert reader.DESCRIPTOR.fields_by_name["mask_type"].enum_type.values_by_number[reader.mask_type].name == ("NUMERICAL_MASKS")
    assert config.train_config.optimizer.use_moving_average


@pytest.mark.parametrize(
    ("text", "place", "words", "fix"),
    [
        (
            "model {\n  faster_rcnn {\n    num_clases: 3\n  }\n}",
            "3:5",
            "model.faster_rcnn has no field num_clases",
            "num_classes?",
        ),
        ("modell {}", "1:1", "the top level has no field modell", "model?"),
        (
            "model { faster_rcnn {\n second_stage_post_processing { score_converter: SOFTMX } } }",
            "2:50",
            "SOFTMX is not a value of it",
            "SOFTMAX?",
        ),
        ("model { faster_rcnn { num_classes: 3.5 } }", "1:36", "num_classes: 3.5", "a whole number of at least 1"),
        ("model { faster_rcnn { num_classes: 99999999999 } }", "1:36", "num_classes: 99999999999", "of at least 1"),
        (f"{SMALL} train_config {{ num_steps: -1 }}", "1:68", "num_steps: -1", "from 0 to 4294967295"),
        ("model { faster_rcnn { resize_masks: maybe } }", "1:37", "resize_masks: this is a switch", "true or false"),
        (
            "model { faster_rcnn { num_classes: 3 num_classes: 4 } }",
            "1:51",
            "num_classes: is given twice",
            "one of the two",
        ),
        ("model { faster_rcnn { ", "1:21", "faster_rcnn", "correct the text"),
        ("model { faster_rcnn { num_classes 3 } }", "1:35", 'Expected ":"', "correct the text"),
        (
            f"{SMALL}\neval_input_reader {{ shuffle: true }}\neval_input_reader {{ shufle: true }}",
            "3:21",
            "eval_input_reader[1] has no field shufle",
            "shuffle?",
        ),
        (
            f"{SMALL}\neval_input_reader: [{{ shuffle: true }}, {{ shufle: true }}]",
            "2:42",
            "eval_input_reader[1] has no field shufle",
            "shuffle?",
        ),
        ("model { faster_rcnn {\n first_stage_nms_iou_threshold: 1.5 } }", "2:2", "1.5 is out of range", "from 0 to 1"),
        (f"{SMALL}\ntrain_config {{ batch_size: 0 }}", "2:16", "0 is out of range", "of at least 1"),
        (
            f"{SMALL} train_config {{ optimizer {{ adam_optimizer {{ epsilon: nan }} }} }}",
            "1:86",
            "nan is not a number",
            "finite number",
        ),
        (f"{SMALL}\ntrain_input_reader {{ label_map_path: 'a\\000' }}", "2:22", "holds a NUL character", "remove it"),
        (f"{SMALL}\ntrain_input_reader {{ label_map_path: 'a/{'b' * 256}' }}", "2:22", "longer than a path can be: bbb", "shorten"),
        ("", "", "the config describes no model", "Faster R-CNN or Mask R-CNN"),
    ],
)
def test_errors_point_at_the_field(text: str, place: str, words: str, fix: str) -> None:
    message, hint = refusal(text)
    assert message.startswith(f"x.config:{place}: " if place else "x.config: ")
    assert words in message
    assert fix in hint


@pytest.mark.parametrize(
    ("text", "family"),
    [
        (
            "model { ssd { num_classes: 90 box_coder { faster_rcnn_box_coder {} } } } train_config { batch_size: 24 }",
            "ssd",
        ),
        ("model { center_net { num_classes: 90 object_center_params { min_box_overlap_iou: 0.7 } } }", "center_net"),
        ("model { experimental_model { name: 'mine' } }", "experimental_model"),
        ("train_config { unheard_of: 1 } model { ssd {} }", "ssd"),
        (
            "model { faster_rcnn { second_stage_box_predictor { rfcn_box_predictor { crop_height: 18 } } } }",
            "R-FCN",
        ),
        (
            "model { faster_rcnn { num_classes: 90 context_config { max_num_context_features: 2000 } } }",
            "Context R-CNN",
        ),
    ],
)
def test_other_families_are_refused_by_name(text: str, family: str) -> None:
    message, fix = refusal(text)
    assert f"models of the {family} family are not supported" in message
    assert "Faster R-CNN or Mask R-CNN" in fix


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_fault(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.config").write_text("model { faster_rcnn { num_classes: 3 } }", encoding=encoding)
    assert read_pipeline_config(tmp_path / "a.config").model.faster_rcnn.num_classes == 3


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "model.ckpt"
    binary.write_bytes(b"\xff\xd8\x00\x01")
    with pytest.raises(UserError, match=r"model\.ckpt cannot be read as text"):
        read_pipeline_config(binary)
    with pytest.raises(UserError, match=r"gone\.config does not exist"):
        read_pipeline_config(tmp_path / "gone.config")


@pytest.mark.parametrize(
    ("assignment", "path", "before", "after"),
    [
        ("model.faster_rcnn.num_classes=5", "model.faster_rcnn.num_classes", "90", "5"),
        (
            "train_config.fine_tune_checkpoint=/zoo/model.ckpt",
            None,
            '"PATH_TO_BE_CONFIGURED/model.ckpt"',
            '"/zoo/model.ckpt"',
        ),
        (
            "train_config.optimizer.use_moving_average = true",
            "train_config.optimizer.use_moving_average",
            "false",
            "true",
        ),
        ("eval_input_reader.shuffle=true", None, "false", "true"),
        ("eval_input_reader[0].num_readers=2", None, "1", "2"),
        (
            "model.faster_rcnn.first_stage_anchor_generator.grid_anchor_generator.scales=[0.1, 4]",
            None,
            "[0.25, 0.5, 1.0, 2.0]",
            "[0.1, 4.0]",
        ),
        ("train_input_reader.mask_type=NUMERICAL_MASKS", None, "PNG_MASKS", "NUMERICAL_MASKS"),
    ],
)
def test_set_field_tells_what_was_and_what_is(configs: Path, assignment: str, path: str | None, before: str, after: str) -> None:
    config = read_pipeline_config(configs / "zoo" / "mask_rcnn_resnet50_atrous_coco.config")
    kept = TrainEvalPipelineConfig()
    kept.CopyFrom(config)
    changed, change = set_field(config, assignment)
    assert (change.before, change.after) == (before, after)
    assert change.path == (path or assignment.partition("=")[0].strip())
    assert config == kept
    assert changed != config


def test_set_field_takes_the_place_of_the_other_choice(configs: Path) -> None:
    config = read_pipeline_config(configs / "zoo" / "mask_rcnn_resnet50_atrous_coco.config")
    changed, _ = set_field(config, "model.faster_rcnn.image_resizer.fixed_shape_resizer.height=512")
    resizer = changed.model.faster_rcnn.image_resizer
    assert resizer.WhichOneof("image_resizer_oneof") == "fixed_shape_resizer"
    assert (resizer.fixed_shape_resizer.height, resizer.fixed_shape_resizer.width) == (512, 300)
    changed, _ = set_field(config, "model.faster_rcnn.image_resizer.identity_resizer={}")
    assert changed.model.faster_rcnn.image_resizer.WhichOneof("image_resizer_oneof") == "identity_resizer"


@pytest.mark.parametrize(
    ("assignment", "words", "fix"),
    [
        ("model.faster_rcnn.num_clases=5", "model.faster_rcnn has no field num_clases", "num_classes?"),
        ("model.faster_rcnn.num_classes=many", "many is out of range or of another type", "at least 1"),
        ("model.faster_rcnn.num_classes=0", "0 is out of range", "at least 1"),
        (
            "model.faster_rcnn.second_stage_box_predictor.mask_rcnn_box_predictor.dropout_keep_probability=0",
            "0.0 is out of range",
            "from 1e-06 to 1",
        ),
        ("model.faster_rcnn.resize_masks=yes", "this is a switch", "true or false"),
        ("model.faster_rcnn.second_stage_post_processing.score_converter=SOFTMX", "SOFTMX is not a value", "SOFTMAX?"),
        ("model.faster_rcnn.num_classes.x=5", "holds a value, not fields", "set model.faster_rcnn.num_classes itself"),
        ("eval_input_reader[3].shuffle=true", "there is no such element", "1 of eval_input_reader"),
        (
            "train_config.data_augmentation_options={random_vertical {}}",
            "has no field random_vertical",
            "random_vertical_flip?",
        ),
        ("model.ssd={}", "models of the ssd family", "Faster R-CNN"),
        ("num_classes", "not of the form path=value", "for example"),
        ("model..x=1", "is not a field name", "dots"),
    ],
)
def test_set_field_refuses_as_the_parser_does(configs: Path, assignment: str, words: str, fix: str) -> None:
    config = read_pipeline_config(configs / "zoo" / "mask_rcnn_resnet50_atrous_coco.config")
    with pytest.raises(UserError) as caught:
        set_field(config, assignment)
    assert caught.value.message.startswith("--set ")
    assert words in caught.value.message
    assert fix in caught.value.fix


def test_positions_see_through_strings_comments_and_lists() -> None:
    text = 'model { # model { ssd {\n faster_rcnn < num_classes: 3 > }\ntrain_config: { fine_tune_checkpoint: "a{b" }\n'
    text += "eval_input_reader: [{ shuffle: true }, { name: 'x' 'y: z' num_readers: 1 }]"
    found = [(p.path, p.line, p.column) for p in positions(text, TrainEvalPipelineConfig.DESCRIPTOR)]
    assert found == [
        ("model", 1, 1),
        ("model.faster_rcnn", 2, 2),
        ("model.faster_rcnn.num_classes", 2, 16),
        ("train_config", 3, 1),
        ("train_config.fine_tune_checkpoint", 3, 17),
        ("eval_input_reader[0]", 4, 1),
        ("eval_input_reader[0]", 4, 21),
        ("eval_input_reader[0].shuffle", 4, 23),
        ("eval_input_reader[1]", 4, 40),
        ("eval_input_reader[1].name", 4, 42),
        ("eval_input_reader[1].num_readers", 4, 59),
    ]


@pytest.mark.parametrize("value", [0.7, 0.0003, 3e-05, 1e-08, 0.01, 10.0, 1365.0, 3.1415927])
def test_shortest_is_the_decimal_that_was_written(value: float) -> None:
    config = parse_pipeline_config(f"{SMALL} train_config {{ gradient_clipping_by_norm: {value} }}", "x")
    assert shortest(config.train_config.gradient_clipping_by_norm) == value


def test_unknown_messages_nested_without_end_are_refused() -> None:
    message, _ = refusal("model { ssd " + "{ x " * 5000)
    assert "model.ssd has no field x" in message
