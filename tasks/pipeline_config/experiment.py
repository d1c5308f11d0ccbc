"""A config as the experiment that training runs.

A pure translation in which every field that is set is honoured, ignored for a reason that is reported, or refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.pipeline_config.experiment_augmentation import translate_augmentations
from tasks.pipeline_config.experiment_model import is_keras, translate_model
from tasks.pipeline_config.experiment_optimizer import translate_averages, translate_optimizer
from tasks.pipeline_config.fine_tuning import translate_start
from tasks.pipeline_config.ledger import Ledger, Reading
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig

_STEPS_PER_LOOP = 100
_STEPS_PER_CHECKPOINT = 5000


@dataclass(frozen=True)
class Experiment:
    """The mapping that `tasks.training.experiment.load_experiment` accepts, and what became of every field."""

    values: dict[str, Any]
    fields: dict[str, Any]
    """`honoured`: paths; `ignored`: path, value, reason."""


def translate(
    config: TrainEvalPipelineConfig, *, name: str, checkpoint_label_map: str = "", original_padded_masks: bool = False
) -> Experiment:
    """The experiment called `name`. Raises FieldError for a field that would change the result and is not supported.

    Of several such fields it raises `ConfigError`, all of them, the model's family before the fields.

    `checkpoint_label_map` is the path of the label map of the checkpoint, where its heads are matched by class name;
    `original_padded_masks` that of `tasks.mask_rcnn.config.MaskRCNN`.
    """
    ledger = Ledger()
    root = Reading(config, ledger)
    train = root.inside("train_config")
    evaluation = root.inside("eval_config")
    _account_for_evaluation(evaluation)
    evaluation_reader = _only_evaluation_reader(root)
    root.refuse("graph rewriting (quantization) is not supported", "graph_rewriter")
    regularize = train.value("add_regularization_loss")
    model = translate_model(
        root.inside("model").inside("faster_rcnn"), with_regularization=regularize, original_padded_masks=original_padded_masks
    )
    steps = train.value("num_steps")
    if steps == 0:
        train.reject("num_steps", "training without end is not supported", "--set train_config.num_steps=200000")
    task = {
        "name": name,
        **translate_start(train, checkpoint_label_map),
        "model": model,
        "train_data": {**(root.inside("train_input_reader").attempt(_training_data) or {}), **_training_settings(train)},
        "validation_data": {
            **((evaluation_reader and evaluation_reader.attempt(_evaluation_data)) or {}),
            "global_batch_size": evaluation.value("batch_size"),
        },
    }
    keras = is_keras(root.inside("model").inside("faster_rcnn"))
    clipping = train.value("gradient_clipping_by_norm")
    averages = translate_averages(train.inside("optimizer"), evaluation)
    trainer = {
        **_intervals(steps or 1),
        "optimizer_config": {
            **(train.inside("optimizer").attempt(lambda optimizer: translate_optimizer(optimizer, clipping, keras=keras)) or {}),
            **averages,
        },
    }
    runtime = {}
    if keras:
        train.ignore("the original's TensorFlow 2 reads it on TPUs only", "use_bfloat16")
        train.ignore("the original's TensorFlow 2 trains all variables at the common rate", *_ONLY_TF1)
    else:
        runtime = {"mixed_precision_dtype": "bfloat16"} if train.value("use_bfloat16") else {}
        train.refuse("all variables are trained", "update_trainable_variables", "freeze_variables")
        if train.value("bias_grad_multiplier") not in (0.0, 1.0):
            train.reject("bias_grad_multiplier", "biases learn at the common rate", "remove the field")
    _account_for_the_rest(train)
    ledger.settle(config)
    values = {"task": task, "trainer": trainer, **({"runtime": runtime} if runtime else {})}
    return Experiment(values, ledger.to_json(config))


def _only_evaluation_reader(root: Reading) -> Reading | None:
    readers = root.each("eval_input_reader")
    if len(readers) == 1:
        return readers[0]
    root.reject("eval_input_reader", f"{len(readers)} of them; evaluation reads exactly one", "keep one eval_input_reader")
    root.ledger.abandoned.update(reader.path for reader in readers)
    return None


def _intervals(steps: int) -> dict[str, Any]:
    """Loops of at most a hundred steps; a checkpoint every few thousand, and at the end."""
    loop = min(_STEPS_PER_LOOP, steps)
    checkpoint = min(_STEPS_PER_CHECKPOINT, steps)
    return {
        "train_steps": steps,
        "steps_per_loop": loop,
        "summary_interval": loop,
        "checkpoint_interval": checkpoint,
        "validation_interval": checkpoint,
        "validation_steps": -1,
    }


def _training_data(reader: Reading) -> dict[str, Any]:
    data = _data(reader)
    data["is_training"] = True
    reader.ignore("training reads without end, so no batch is short", "drop_remainder")
    # A buffer of one record is the original's other way to say no.
    data["shuffle"] = reader.value("shuffle") and reader.value("shuffle_buffer_size") != 1
    if reader.value("shuffle_buffer_size") != 1:
        reader.ignore("every epoch is shuffled whole, which needs no buffer", "shuffle_buffer_size")
    reader.require("sample_1_of_n_examples", 1, "all examples are read")
    reader.require("num_epochs", 0, "the length of training is given in steps")
    return data


def _training_settings(train: Reading) -> dict[str, Any]:
    """What `train_config` says of the data."""
    return {
        "global_batch_size": train.value("batch_size"),
        "merge_multiple_label_boxes": train.value("merge_multiple_label_boxes"),
        "augmentations": translate_augmentations(train),
    }


def _evaluation_data(reader: Reading) -> dict[str, Any]:
    data = _data(reader)
    data["is_training"] = False
    reader.ignore("the order of images does not change the metrics", "shuffle", "shuffle_buffer_size")
    reader.ignore("every image is evaluated, once", "num_epochs", "drop_remainder", "sample_1_of_n_examples")
    return data


def _data(reader: Reading) -> dict[str, Any]:
    source = reader.inside(reader.choose("input_reader", ("tf_record_input_reader",), "input reader"))
    paths = source.value("input_path")
    if not paths:
        source.reject("input_path", "no path", "add the records' path or pattern")
    if not reader.value("label_map_path"):
        reader.reject("label_map_path", "is not set", "add the path of the label map")
    reader.require("num_additional_channels", 0, "the backbones take three channels")
    reader.require("load_multiclass_scores", False, "soft labels are not supported")
    reader.require("load_context_features", False, "context features are not supported")
    reader.require("input_type", _or_default(reader, "input_type", "INPUT_DEFAULT", "TF_EXAMPLE"), "records hold tf.Example")
    reader.require("use_display_name", False, "classes are matched by `name` of the label map")
    reader.require("expand_labels_hierarchy", False, "labels are taken as they are")
    reader.refuse("datasets are read in proportion to their size", "sample_from_datasets_weights")
    reader.ignore("read by models of other kinds only", *_OTHER_MODELS)
    reader.ignore("tf.data tunes reading by itself; the examples are the same", *_READING)
    reader.ignore("a name for people", "name")
    reader.ignore("image ids are always read", "include_source_id")
    mask_type = reader.value("mask_type")
    return {
        "input_path": paths[0] if len(paths) == 1 else paths,
        "label_map_path": reader.value("label_map_path"),
        "load_instance_masks": reader.value("load_instance_masks"),
        "mask_type": "NUMERICAL_MASKS" if mask_type == "DEFAULT" else mask_type,
        "max_number_of_boxes": reader.value("max_number_of_boxes"),
    }


_ONLY_TF1 = ("update_trainable_variables", "freeze_variables", "bias_grad_multiplier")

_OTHER_MODELS = (
    "num_keypoints",
    "keypoint_type_weight",
    "use_keypoint_label_map",
    "load_context_image_ids",
    "load_dense_pose",
    "load_track_id",
    "load_keypoint_depth_features",
    "frame_index",
)

_READING = (
    "filenames_shuffle_buffer_size",
    "num_readers",
    "num_parallel_batches",
    "num_prefetch_batches",
    "queue_capacity",
    "min_after_dequeue",
    "read_block_length",
    "prefetch_size",
    "num_parallel_map_calls",
)


def _or_default(reader: Reading, name: str, default: str, meaning: str) -> str:
    """`default` where the field says so itself, else `meaning`: two spellings of one value."""
    return default if reader.value(name) == default else meaning


def _account_for_the_rest(train: Reading) -> None:
    train.require("use_multiclass_scores", False, "soft labels are not supported")
    train.ignore(
        "the distribution strategy of `runtime` decides",
        "sync_replicas",
        "replicas_to_aggregate",
        "startup_delay_steps",
    )
    train.ignore("the last checkpoints are kept, whatever their age", "keep_checkpoint_every_n_hours")
    train.ignore("max_number_of_boxes of the input reader counts", "max_number_of_boxes")
    train.ignore("padding never counts as an object", "unpad_groundtruth_tensors")
    train.ignore("what is logged, not what is trained", "retain_original_images", "summarize_gradients")
    train.ignore("variables exist before they are restored", "run_fine_tune_checkpoint_dummy_computation")
    train.ignore("tf.data tunes reading by itself", "batch_queue_capacity", "num_batch_queue_threads", "prefetch_queue_capacity")


def _account_for_evaluation(evaluation: Reading) -> None:
    metrics = evaluation.value("metrics_set")
    unknown = sorted(set(metrics) - {"coco_detection_metrics", "coco_mask_metrics"})
    if unknown:
        evaluation.ignore(f"COCO metrics of boxes and masks are computed, not {', '.join(unknown)}", "metrics_set")
    evaluation.require("force_no_resize", False, "images are resized as in training")
    evaluation.require("ignore_groundtruth", False, "evaluation compares with the ground truth")
    evaluation.require("skip_predictions_for_unlabeled_class", False, "every predicted class counts")
    evaluation.ignore(
        "every image is evaluated, when `maskline evaluate` is called",
        "num_examples",
        "max_evals",
        "eval_interval_secs",
    )
    evaluation.ignore("masks are evaluated whenever the model predicts them", "eval_instance_masks")
    evaluation.ignore("AP per category is always computed", "include_metrics_per_category", "all_metrics_per_category")
    evaluation.ignore("COCO metrics do not read it", *_OTHER_METRICS)
    evaluation.ignore("the pictures that evaluation draws have their own settings", *_PICTURES)
    evaluation.ignore("how the original ran evaluation, not what it found", *_RUNNING)


_OTHER_METRICS = (
    "parameterized_metric",
    "recall_lower_bound",
    "recall_upper_bound",
    "super_categories",
    "image_classes_field_map_empty_to_ones",
)
_PICTURES = (
    "num_visualizations",
    "visualization_export_dir",
    "min_score_threshold",
    "max_num_boxes_to_visualize",
    "skip_scores",
    "skip_labels",
    "visualize_groundtruth_boxes",
    "groundtruth_box_visualization_color",
    "keep_image_id_for_visualization_export",
    "keypoint_edge",
)
_RUNNING = (
    "save_graph",
    "eval_master",
    "export_path",
    "retain_original_images",
    "retain_original_image_additional_channels",
    "use_dummy_loss_in_eval",
)
