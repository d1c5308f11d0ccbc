"""Text to message and back, and errors that say where and what instead."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest

from tasks.pipeline_config.fields import shortest
from tasks.pipeline_config.overwritten import overwritten
from tasks.pipeline_config.parser import (
    located,
    odd_encoding,
    parse_pipeline_config,
    print_pipeline_config,
    read_pipeline_config,
    set_field,
)
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
        ("model { faster_rcnn { ", "1:9", "model.faster_rcnn: opens in line 1 and is not closed", "the missing }"),
        (f"{SMALL} }}", "1:42", "the top level: has a } too many", "remove it"),
        (f'{SMALL}\ntion.pbtxt"', "2:11", "the top level: the quote that opens here does not close", "close it"),
        (f"{SMALL}\ntion.pbtxt", "2:1", "the top level has no field tion", "valid names: eval_config"),
        (
            "model { faster_rcnn {\n num_classes:\n image_resizer { } } }",
            "2:2",
            "num_classes: has no value",
            "a whole number of at least 1",
        ),
        ("train_config {\n fine_tune_checkpoint:\n num_steps: 3 }", "2:2", "fine_tune_checkpoint: has no value", "text in quotes"),
        ("train_config {\n sync_replicas: }", "2:2", "sync_replicas: has no value", "true or false"),
        (
            "model { faster_rcnn {\n  image_resizer { fixed_shape_resizer { height: 3\n  num_classes: 3 } } }",
            "3:3",
            "image_resizer.fixed_shape_resizer: has no field num_classes, but model.faster_rcnn has: is a } missing?",
            "close model.faster_rcnn.image_resizer, which opens in line 2, before num_classes",
        ),
        (
            "model { faster_rcnn { }\ntrain_config { }",
            "2:1",
            "has no field train_config, but the top level has",
            "close model, which opens in line 1",
        ),
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
        (f"{SMALL}\ntrain_input_reader {{ label_map_path: 'a\\000' }}", "2:38", "makes a NUL character of this", "write a/000 or a\\\\000"),
        (
            f'{SMALL} train_config {{ fine_tune_checkpoint: "C:\\Users\\me\\model.ckpt" }}',
            "1:79",
            "C:\\Users\\me\\model.ckpt: a backslash begins an escape, and this one is none",
            "write C:/Users/me/model.ckpt or C:\\\\Users\\\\me\\\\model.ckpt",
        ),
        (
            f'{SMALL} train_input_reader {{ tf_record_input_reader {{ input_path: "C:\\new\\train.record" }} }}',
            "1:100",
            "a backslash begins an escape, and makes a newline of this",
            "write C:/new/train.record or C:\\\\new\\\\train.record",
        ),
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


ZOO_TEXT = (Path(__file__).resolve().parents[2] / "configs" / "zoo" / "mask_rcnn_resnet50_atrous_coco.config").read_text()


@pytest.mark.parametrize(
    ("junk", "words"),
    [
        ("a" * 10**6, "the top level has no field aaa"),
        ('"' + "a" * 10**6, "the quote that opens here does not close"),
        ('train_config { fine_tune_checkpoint: "' + "\\" * 10**5, "the quote that opens here does not close"),
        ("model { faster_rcnn {" * 5000, "is a } missing?"),
        ("model { ssd " + "{ x " * 5000, "models of the ssd family"),
        ("{" * 10**5, "Expected identifier or number, got {"),
    ],
)
def test_junk_has_a_short_answer(junk: str, words: str) -> None:
    message, fix = refusal(f"{ZOO_TEXT}{junk}")
    assert words in message
    assert len(message) + len(fix) < 1000


def test_a_file_of_megabytes_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "big.config").write_text(ZOO_TEXT + "a" * 5 * 2**20)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"big\.config has 5\.0 MB, and a pipeline\.config a few kilobytes"):
        read_pipeline_config(tmp_path / "big.config")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_all_that_is_out_of_range_is_told_at_once_the_family_first() -> None:
    message, _ = refusal("model { faster_rcnn {\n num_classes: 0\n context_config {}\n maxpool_stride: 0 } }")
    places = re.findall(r"x\.config:(\d+:\d+): (\S+):", message)
    assert places == [
        ("3:2", "model.faster_rcnn.context_config"),
        ("2:2", "model.faster_rcnn.num_classes"),
        ("4:2", "model.faster_rcnn.maxpool_stride"),
    ]
    assert message.startswith("x.config is refused for 3 reasons:\n")


def told(text: str) -> list[str]:
    parse_pipeline_config(text, "x.config")
    return [str(located(error, text, "x.config")) for error in overwritten(text)]


def test_the_last_of_two_values_counts_and_the_first_is_told() -> None:
    text = "model { faster_rcnn {\n num_classes: 90\n num_classes: 3 } }\nmodel { faster_rcnn { number_of_stages: 3 } }"
    model = parse_pipeline_config(text, "x").model.faster_rcnn
    assert (model.num_classes, model.number_of_stages) == (3, 3)
    (warning,) = told(text)
    assert warning.startswith("x.config:2:2: model.faster_rcnn.num_classes: counts for nothing: line 3 has it again, and the last counts\n")


def test_the_last_of_two_augmentations_in_a_block_counts_and_the_first_is_told() -> None:
    block = "data_augmentation_options {\n random_horizontal_flip {}\n random_vertical_flip {} }"
    text = f"{SMALL} train_config {{ {block} {block} }}"
    steps = parse_pipeline_config(text, "x").train_config.data_augmentation_options
    assert [step.WhichOneof("preprocessing_step") for step in steps] == ["random_vertical_flip"] * 2
    first, second = told(text)
    assert first.startswith("x.config:2:2: train_config.data_augmentation_options[0].random_horizontal_flip: counts for nothing: only one")
    assert "random_vertical_flip in line 3 is the last" in first
    assert "data_augmentation_options[1]" in second


def test_what_is_said_once_is_told_nothing_of() -> None:
    assert told(ZOO_TEXT) == []


def test_a_backslash_that_is_no_escape_is_told() -> None:
    text = f'{SMALL} train_config {{ fine_tune_checkpoint: "C:\\data\\model.ckpt" }}'
    assert parse_pipeline_config(text, "x").train_config.fine_tune_checkpoint == "C:\\data\\model.ckpt"
    (warning,) = told(text)
    assert "the backslash of \\d is kept as it is" in warning
    assert "fix: write C:/data/model.ckpt" in warning


def test_escapes_that_stand_for_text_are_let_be() -> None:
    text = f"{SMALL} train_config {{ fine_tune_checkpoint: 'C:\\\\new\\\\\\303\\251' 'b' }}"
    assert parse_pipeline_config(text, "x").train_config.fine_tune_checkpoint == "C:\\new\\éb"
    assert told(text) == []


def test_utf_16_is_called_so(tmp_path: Path) -> None:
    file = tmp_path / "a.config"
    file.write_bytes(SMALL.encode("utf-16-le"))
    with pytest.raises(UserError, match=r"a\.config is written in UTF-16, without a byte order mark"):
        read_pipeline_config(file)
    file.write_text(SMALL, encoding="utf-16")
    assert [str(error) for error in odd_encoding(file)] == [
        f"{file} is written in UTF-16, which the original does not read\n  fix: save it as UTF-8"
    ]
    file.write_text(SMALL, encoding="utf-8-sig")
    assert list(odd_encoding(file)) == []
