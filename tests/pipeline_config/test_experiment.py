"""Translation: golden files per zoo config, and the fate of single fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.pipeline_config.edits import MaskBranch, Records, to_mask_rcnn
from tasks.pipeline_config.experiment import Experiment, translate
from tasks.pipeline_config.fields import FieldError
from tasks.pipeline_config.parser import read_pipeline_config, set_field
from tasks.pipeline_config.zoo import zoo_configs

GOLDEN = Path(__file__).parent / "golden"
OPTIMIZER = "train_config.optimizer"
AUGMENTATION = "train_config.data_augmentation_options"
RCNN = "model.faster_rcnn"
KEEP_RATIO = f"{RCNN}.image_resizer.keep_aspect_ratio_resizer"
HEAD = f"{RCNN}.second_stage_box_predictor.mask_rcnn_box_predictor"
RATE = f"{OPTIMIZER}.momentum_optimizer.learning_rate"
STEPS = f"{RATE}.manual_step_learning_rate"


@pytest.fixture
def translated(configs: Path, records: Records) -> Any:
    """A function: the ResNet-50 zoo config with assignments applied, translated."""
    config, _ = to_mask_rcnn(read_pipeline_config(configs / "zoo" / "mask_rcnn_resnet50_atrous_coco.config"), records, MaskBranch())

    def apply(*assignments: str) -> Experiment:
        changed = config
        for assignment in assignments:
            changed, _ = set_field(changed, assignment)
        return translate(changed, name="x")

    return apply


@pytest.mark.parametrize("name", sorted(zoo_configs()))
def test_zoo_configs_translate_to_their_golden_files(name: str, records: Records) -> None:
    """To accept a change: look at it, then write the printed text into the golden file."""
    config, _ = to_mask_rcnn(read_pipeline_config(zoo_configs()[name]), records, MaskBranch())
    values = translate(config, name=name).values
    print(yaml.safe_dump(values, sort_keys=False))
    assert values == yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())


def test_every_config_of_the_project_translates(config_file: Path, records: Records) -> None:
    config, _ = to_mask_rcnn(read_pipeline_config(config_file), records, MaskBranch())
    experiment = translate(config, name=config_file.stem)
    assert experiment.values["task"]["model"]["num_classes"] == 3
    told = {entry["path"] for entry in experiment.fields["ignored"]}
    assert told == {
        "train_config.fine_tune_checkpoint",
        "train_config.from_detection_checkpoint",
        "eval_config.num_examples",
        "eval_config.max_evals",
        "eval_input_reader[0].shuffle",
        "eval_input_reader[0].num_readers",
    }


@pytest.mark.parametrize(
    ("assignment", "keys", "value"),
    [
        (f"{RCNN}.clip_anchors_to_image=true", "task.model.first_stage.clip_anchors_to_image", True),
        (f"{RCNN}.use_static_shapes=true", "task.model.first_stage.partitioned_nms", True),
        (f"{RCNN}.first_stage_minibatch_size=128", "task.model.first_stage.minibatch_size", 128),
        (f"{RCNN}.use_matmul_crop_and_resize=true", "task.model.second_stage.use_matmul_crop_and_resize", True),
        (f"{RCNN}.second_stage_batch_size=32", "task.model.second_stage.batch_size", 32),
        (
            f"{RCNN}.feature_extractor.batch_norm_trainable=true",
            "task.model.feature_extractor.batch_norm_trainable",
            True,
        ),
        (
            f"{RCNN}.image_resizer.fixed_shape_resizer={{height: 320 width: 640}}",
            "task.model.image_resizer",
            {"kind": "fixed_shape", "height": 320, "width": 640, "resize_method": "BILINEAR"},
        ),
        (f"{KEEP_RATIO}.resize_method=AREA", "task.model.image_resizer.resize_method", "AREA"),
        (f"{KEEP_RATIO}.per_channel_pad_value=[124, 117, 104]", "task.model.image_resizer.per_channel_pad_value", [124, 117, 104]),
        (f"{RCNN}.image_resizer.identity_resizer={{}}", "task.model.image_resizer", {"kind": "identity"}),
        (
            f"{AUGMENTATION}=[{{random_vertical_flip {{keypoint_flip_permutation: 1}}}}, {{random_image_scale {{max_scale_ratio: 1.5}}}}]",
            "task.train_data.augmentations",
            [
                {"kind": "random_vertical_flip", "parameters": {"probability": 0.5}},
                {"kind": "random_image_scale", "parameters": {"min_scale_ratio": 0.5, "max_scale_ratio": 1.5}},
            ],
        ),
        (
            f"{RCNN}.second_stage_classification_loss={{weighted_sigmoid {{anchorwise_output: true}}}}",
            "task.model.second_stage.classification_loss",
            "weighted_sigmoid",
        ),
        (
            f"{RCNN}.second_stage_classification_loss={{weighted_softmax {{logit_scale: 2}}}}",
            "task.model.second_stage.loss_logit_scale",
            2.0,
        ),
        (
            f"{RCNN}.second_stage_classification_loss={{weighted_sigmoid_focal {{gamma: 3}}}}",
            "task.model.second_stage.focal_gamma",
            3.0,
        ),
        (f"{RCNN}.second_stage_classification_loss={{weighted_sigmoid_focal {{}}}}", "task.model.second_stage.focal_alpha", None),
        (
            f"{RCNN}.hard_example_miner={{num_hard_examples: 0}}",
            "task.model.second_stage.hard_example_miner",
            {"loss_type": "BOTH", "num_hard_examples": 0, "iou_threshold": 0.7},
        ),
        (f"{RCNN}.second_stage_post_processing.logit_scale=0.5", "task.model.second_stage.score_logit_scale", 0.5),
        (f"{HEAD}.masks_are_class_agnostic=true", "task.model.mask_head.class_agnostic", True),
        (f"{RCNN}.second_stage_post_processing.score_converter=SIGMOID", "task.model.second_stage.score_converter", "SIGMOID"),
        ("train_config.merge_multiple_label_boxes=true", "task.train_data.merge_multiple_label_boxes", True),
        ("train_config.batch_size=8", "task.train_data.global_batch_size", 8),
        ("eval_config.batch_size=4", "task.validation_data.global_batch_size", 4),
        ("train_config.num_steps=30", "trainer.checkpoint_interval", 30),
        ("train_config.num_steps=30", "trainer.steps_per_loop", 30),
        ("train_config.use_bfloat16=true", "runtime.mixed_precision_dtype", "bfloat16"),
        ("train_config.gradient_clipping_by_norm=0", "trainer.optimizer_config.optimizer.momentum.global_clipnorm", None),
        (f"{OPTIMIZER}.use_moving_average=true", "trainer.optimizer_config.moving_average_decay", 0.9999),
        ("train_config.fine_tune_checkpoint=/zoo/model.ckpt", "task.init_checkpoint", "/zoo/model.ckpt"),
        ("train_config.fine_tune_checkpoint=/zoo/model.ckpt", "task.fine_tune_checkpoint_type", "detection"),
        ("train_input_reader.shuffle=false", "task.train_data.shuffle", False),
        ("train_input_reader.shuffle_buffer_size=1", "task.train_data.shuffle", False),
        ("train_input_reader.shuffle_buffer_size=2", "task.train_data.shuffle", True),
        ("train_input_reader.mask_type=DEFAULT", "task.train_data.mask_type", "NUMERICAL_MASKS"),
        ("train_input_reader.tf_record_input_reader.input_path=['a', 'b']", "task.train_data.input_path", ["a", "b"]),
    ],
)
def test_a_field_arrives_where_it_belongs(translated: Any, assignment: str, keys: str, value: Any) -> None:
    found = translated(assignment).values
    for key in keys.split("."):
        found = found[key]
    assert found == value


def test_averages_are_kept_where_something_reads_them(translated: Any) -> None:
    kept = [f"{OPTIMIZER}.use_moving_average=true", f"{OPTIMIZER}.moving_average_decay=0.99"]
    for used in ([], ["eval_config.use_moving_averages=true"]):
        assert translated(*kept, *used).values["trainer"]["optimizer_config"]["moving_average_decay"] == 0.99
    unread = translated(*kept, "eval_config.use_moving_averages=false")
    assert unread.values == translated().values
    reasons = {entry["path"]: entry["reason"] for entry in unread.fields["ignored"]}
    assert "nothing would read the averages" in reasons[f"{OPTIMIZER}.use_moving_average"]


KERAS = (
    f"{RCNN}.feature_extractor={{type: 'faster_rcnn_resnet50_keras'}}",
    f"{HEAD}.fc_hyperparams.regularizer.l2_regularizer.weight=0.5",
    f"{HEAD}.conv_hyperparams.regularizer.l2_regularizer.weight=0.5",
    "train_config.freeze_variables='.*BatchNorm'",
    "train_config.use_bfloat16=true",
)


def test_what_tensorflow_2_reads_otherwise(translated: Any) -> None:
    experiment = translated(*KERAS)
    model = experiment.values["task"]["model"]
    assert model["feature_extractor"]["type"] == "faster_rcnn_resnet50_keras"
    # Of the box head's layers Keras's own defaults hold, of the others the config's hyperparams.
    assert model["second_stage"]["fc_hyperparams"] == {
        "initializer": {"kind": "variance_scaling", "factor": 1.0, "uniform": True, "mode": "FAN_AVG"},
        "l2_weight": 0.0,
    }
    assert model["mask_head"]["conv_hyperparams"]["l2_weight"] == 0.5
    assert experiment.values["trainer"]["optimizer_config"]["optimizer"] == {
        "type": "sgd",
        "sgd": {"momentum": 0.9, "global_clipnorm": 10.0},
    }
    assert "runtime" not in experiment.values
    ignored = {entry["path"] for entry in experiment.fields["ignored"]}
    assert {"train_config.freeze_variables", "train_config.use_bfloat16", f"{HEAD}.fc_hyperparams"} <= ignored


@pytest.mark.parametrize(("static", "sampler"), [("true", True), ("false", False)])
def test_the_static_sampler_needs_static_shapes(translated: Any, static: str, sampler: bool) -> None:
    settings = (f"{RCNN}.use_static_balanced_label_sampler=true", f"{RCNN}.use_static_shapes={static}")
    assert translated(*settings).values["task"]["model"]["static_sampler"] is sampler


@pytest.mark.parametrize("side", ["height_offset", "width_offset"])
def test_anchors_may_begin_outside_of_the_image(translated: Any, side: str) -> None:
    anchors = translated(f"{RCNN}.first_stage_anchor_generator.grid_anchor_generator.{side}=-8").values["task"]["model"]["anchors"]
    assert anchors[side] == -8


def test_regularization_can_be_switched_off_at_once(translated: Any) -> None:
    assignment = f"{HEAD}.fc_hyperparams.regularizer.l2_regularizer.weight=0.5"
    second_stage = translated(assignment).values["task"]["model"]["second_stage"]
    assert second_stage["fc_hyperparams"]["l2_weight"] == 0.5
    second_stage = translated(assignment, "train_config.add_regularization_loss=false").values["task"]["model"]["second_stage"]
    assert second_stage["fc_hyperparams"]["l2_weight"] == 0.0


def test_nothing_said_of_an_initializer_is_glorot(translated: Any) -> None:
    model = translated("model.faster_rcnn.first_stage_box_predictor_conv_hyperparams={op: CONV}").values["task"]["model"]
    initializer = model["first_stage"]["box_predictor_hyperparams"]["initializer"]
    assert initializer == {"kind": "variance_scaling", "factor": 1.0, "uniform": True, "mode": "FAN_AVG"}


@pytest.mark.parametrize(
    ("assignment", "path", "words"),
    [
        (f"{RCNN}.second_stage_classification_loss={{bootstrapped_sigmoid {{}}}}", "bootstrapped_sigmoid", "weighted_softmax"),
        (f"{RCNN}.second_stage_post_processing.score_converter=IDENTITY", "score_converter", "score_converter=SOFTMAX"),
        (f"{RCNN}.second_stage_post_processing.batch_non_max_suppression.soft_nms_sigma=0.5", "soft_nms_sigma", "soft"),
        (f"{RCNN}.feature_extractor.type=faster_rcnn_nas", "feature_extractor.type", "NAS family"),
        (f"{RCNN}.feature_extractor.type=faster_rcnn_resnet101_keras", "first_stage_features_stride", "write 16"),
        (f"{RCNN}.feature_extractor.type=faster_rcnn_resnet101_fpn_keras", "feature_extractor.type", "FPN (feature pyramid) family"),
        (f"{RCNN}.feature_extractor.type=faster_rcnn_resnet1o1", "feature_extractor.type", "did you mean faster_rcnn_resnet101?"),
        (f"{RCNN}.feature_extractor.first_stage_features_stride=4", "first_stage_features_stride", "8 or 16"),
        (f"{RCNN}.feature_extractor.type=faster_rcnn_inception_v2", "first_stage_features_stride", "8, but the features"),
        (f"{RCNN}.initial_crop_size=1", "initial_crop_size", "write at least 2"),
        (f"{KEEP_RATIO}.convert_to_grayscale=true", "convert_to_grayscale", "colour"),
        (f"{KEEP_RATIO}.per_channel_pad_value=[1, 2]", "per_channel_pad_value", "three"),
        (
            f"{RCNN}.image_resizer.conditional_shape_resizer={{}}",
            "conditional_shape_resizer",
            "keep_aspect_ratio_resizer",
        ),
        (
            f"{RCNN}.first_stage_anchor_generator.ssd_anchor_generator={{}}",
            "ssd_anchor_generator",
            "grid_anchor_generator",
        ),
        (f"{HEAD}.conv_hyperparams.batch_norm={{}}", "batch_norm", "normalization"),
        (f"{HEAD}.predict_instance_masks=false", "predict_instance_masks", "mask branch"),
        (f"{AUGMENTATION}={{random_black_patches {{}}}}", "random_black_patches", "random_crop_image, random_crop_pad_image"),
        (f"{AUGMENTATION}={{random_adjust_contrast {{min_delta: 2}}}}", "random_adjust_contrast", "min_delta 2.0 is above max_delta 1.25"),
        (f"{AUGMENTATION}={{random_pad_image {{pad_color: [1, 2]}}}}", "random_pad_image", "pad_color has 2 values"),
        (f"{AUGMENTATION}={{random_distort_color {{color_ordering: 2}}}}", "random_distort_color", "0 or 1"),
        ("eval_config.use_moving_averages=true", "use_moving_averages", "train_config.optimizer.use_moving_average=true"),
        (f"{RCNN}.use_static_shapes_for_eval=true", "use_static_shapes_for_eval", "not fixed"),
        (f"{STEPS}.schedule[1].step=5", "schedule", "do not grow"),
        (f"{RATE}.cosine_decay_learning_rate={{total_steps: 9 warmup_steps: 4 hold_base_rate_steps: 5}}", "total_steps", "plateau"),
        ("train_config.num_steps=0", "num_steps", "without end"),
        ("train_config.freeze_variables='.*BatchNorm'", "freeze_variables", "all variables are trained"),
        ("train_config.bias_grad_multiplier=2", "bias_grad_multiplier", "common rate"),
        ("train_input_reader.use_display_name=true", "use_display_name", "name"),
        ("train_input_reader.sample_1_of_n_examples=10", "sample_1_of_n_examples", "all examples are read"),
        ("train_input_reader.external_input_reader={}", "external_input_reader", "tf_record_input_reader"),
        ("eval_input_reader={name: 'second'}", "eval_input_reader", "exactly one"),
        ("graph_rewriter.quantization.delay=5", "graph_rewriter", "quantization"),
    ],
)
def test_what_would_change_the_result_is_refused(translated: Any, assignment: str, path: str, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        translated(*_both_readers(assignment), *([f"{RCNN}.use_static_shapes=true"] if "for_eval" in assignment else []))
    assert caught.value.path.endswith(path)
    assert words in str(caught.value)


def test_crops_too_small_for_unpadded_layers_are_refused(translated: Any) -> None:
    # Crops of 6, pooled to 3, are the least that Inception-ResNet's convolutions of 3 x 3 without padding can take.
    kind = f"{RCNN}.feature_extractor.type=faster_rcnn_inception_resnet_v2"
    assert translated(kind, f"{RCNN}.initial_crop_size=6").values["task"]["model"]["second_stage"]["initial_crop_size"] == 6
    with pytest.raises(FieldError, match=r"initial_crop_size: 5: .* leave 2 cells of a side.* needs 3\s+fix: write at least 6"):
        translated(kind, f"{RCNN}.initial_crop_size=5")
    assert translated(f"{RCNN}.initial_crop_size=2", f"{RCNN}.number_of_stages=1")


def _both_readers(assignment: str) -> list[str]:
    """`eval_input_reader={...}` replaces the list; two of them need two elements."""
    if assignment.startswith("eval_input_reader={"):
        return ["eval_input_reader=[{name: 'first'}, {name: 'second'}]"]
    return [assignment]


@pytest.mark.parametrize(
    ("assignment", "path"),
    [
        (f"{RCNN}.use_matmul_gather_in_matcher=true", "model.faster_rcnn.use_matmul_gather_in_matcher"),
        (f"{RCNN}.resize_masks=false", "model.faster_rcnn.resize_masks"),
        ("train_config.sync_replicas=true", "train_config.sync_replicas"),
        ("train_config.keep_checkpoint_every_n_hours=1", "train_config.keep_checkpoint_every_n_hours"),
        ("train_input_reader.queue_capacity=2", "train_input_reader.queue_capacity"),
        ("eval_input_reader.sample_1_of_n_examples=10", "eval_input_reader[0].sample_1_of_n_examples"),
        ("eval_config.keypoint_edge={start: 1 end: 2}", "eval_config.keypoint_edge[0]"),
        ("eval_config.super_categories={key: 'a' value: 'b'}", "eval_config.super_categories"),
        ("eval_config.metrics_set=['coco_mask_metrics', 'lvis_mask_metrics']", "eval_config.metrics_set"),
        (f"{RCNN}.feature_extractor.fpn={{min_level: 2}}", "model.faster_rcnn.feature_extractor.fpn"),
    ],
)
def test_what_changes_nothing_is_ignored_with_a_reason(translated: Any, assignment: str, path: str) -> None:
    plain, changed = translated(), translated(assignment)
    assert changed.values == plain.values
    reasons = {entry["path"]: entry["reason"] for entry in changed.fields["ignored"]}
    assert reasons[path]
    assert path not in changed.fields["honoured"]


def test_every_field_that_is_set_is_accounted_for(translated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that no part of the translation reads is refused, not dropped."""
    monkeypatch.setattr("tasks.pipeline_config.experiment._READING", ())
    with pytest.raises(FieldError, match=r"eval_input_reader\[0\]\.num_readers: is not supported"):
        translated()
