"""Checks across the fields of a config, and of a config against its files. docs/lint.md has a paragraph for each code."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.pipeline_config.checkpoint_fit import head_classes, missing_scopes
from tasks.pipeline_config.evidence import Evidence, InputPath
from tasks.pipeline_config.fields import FieldError, OtherFamilyError, RangeError, value_text
from tasks.pipeline_config.fine_tuning import restores_heads
from tasks.pipeline_config.training_pb2 import TrainConfig
from tasks.records.label_map import LabelMap
from tasks.records.tfrecord import missing_error
from tasks.running.errors import UserError

ERROR, WARNING = "error", "warning"

RCNN = "model.faster_rcnn"
NMS = f"{RCNN}.second_stage_post_processing.batch_non_max_suppression"
CHECKPOINT = "train_config.fine_tune_checkpoint"
_WRITE_MASKS = "write masks into the records: feature image/object/mask"


@dataclass(frozen=True)
class Check:
    """A check under its stable code. `find` yields what it has to say of the config, most of it as errors about fields."""

    code: str
    severity: str
    title: str
    find: Callable[[Evidence], Iterator[UserError]]


@dataclass(frozen=True)
class Finding:
    check: Check
    error: UserError


def lint(evidence: Evidence) -> list[Finding]:
    """The findings in the order of the codes, but for another family, which makes the others idle and comes first."""
    findings = [Finding(check, error) for check in CHECKS for error in check.find(evidence)]
    return sorted(findings, key=lambda finding: finding.check.code != OTHER_FAMILY)


def too_few_classes(evidence: Evidence) -> Iterator[FieldError]:
    for path, classes, greatest in _class_counts(evidence):
        if classes < greatest:
            yield FieldError(path, f"{classes}, but the label map has the id {greatest}", f"write {greatest}")


def too_many_classes(evidence: Evidence) -> Iterator[FieldError]:
    for path, classes, greatest in _class_counts(evidence):
        if classes > greatest:
            yield FieldError(path, f"{classes}, but the label map's ids end at {greatest}", f"write {greatest}")


def unreadable_label_map(evidence: Evidence) -> Iterator[FieldError]:
    for one in evidence.readers:
        path = f"{one.path}.label_map_path"
        if not one.reader.label_map_path:
            yield FieldError(path, "is not set", "add the path of the label map")
        elif isinstance(one.label_map, UserError):
            yield FieldError(path, one.label_map.message, one.label_map.fix)


def no_input_file(evidence: Evidence) -> Iterator[FieldError]:
    for one in evidence.readers:
        path = f"{one.path}.tf_record_input_reader.input_path"
        if not one.inputs:
            yield FieldError(path, "names no file", "add the records' path or pattern")
        for source in one.inputs:
            if not source.files:
                yield FieldError(path, f"no file matches {source.pattern}", _nearest_file(source))


def other_mask_type(evidence: Evidence) -> Iterator[FieldError]:
    for one in evidence.readers:
        said = value_text(one.reader, "mask_type").replace("DEFAULT", "NUMERICAL_MASKS")
        if one.reader.load_instance_masks and isinstance(one.mask_type, str) and one.mask_type != said:
            yield FieldError(f"{one.path}.mask_type", f"{said}, but the records hold {one.mask_type}", f"write {one.mask_type}")
        if one.reader.load_instance_masks and one.other_masks:
            fix = "store all masks alike: `maskline transcode`"
            yield FieldError(f"{one.path}.mask_type", f"{one.other_masks} holds masks of another type than the first record", fix)


def no_masks_in_records(evidence: Evidence) -> Iterator[FieldError]:
    for one in evidence.readers:
        if one.reader.load_instance_masks and one.files and not isinstance(one.mask_type, str):
            path = f"{one.path}.tf_record_input_reader.input_path"
            if isinstance(one.mask_type, UserError):
                yield FieldError(path, one.mask_type.message, one.mask_type.fix)
            else:
                yield FieldError(path, "the records hold no mask", _WRITE_MASKS)
        elif one.reader.load_instance_masks and one.without_masks:
            path = f"{one.path}.tf_record_input_reader.input_path"
            yield FieldError(path, f"{one.without_masks} has objects and no mask", _WRITE_MASKS)


def masks_not_loaded(evidence: Evidence) -> Iterator[FieldError]:
    for one in evidence.readers:
        if evidence.config.model.faster_rcnn.number_of_stages == 3 and not one.reader.load_instance_masks:
            yield FieldError(f"{one.path}.load_instance_masks", "false, but the third stage learns from masks", "write true")


def no_mask_metrics(evidence: Evidence) -> Iterator[FieldError]:
    config = evidence.config
    if config.model.faster_rcnn.number_of_stages == 3 and "coco_mask_metrics" not in config.eval_config.metrics_set:
        yield FieldError("eval_config.metrics_set", "box metrics alone do not see the masks", 'add "coco_mask_metrics"')


def anchors_off_the_features(evidence: Evidence) -> Iterator[FieldError]:
    model = evidence.config.model.faster_rcnn
    stride = model.feature_extractor.first_stage_features_stride
    if model.first_stage_anchor_generator.HasField("grid_anchor_generator"):
        grid = model.first_stage_anchor_generator.grid_anchor_generator
        for name, value in (("height_stride", grid.height_stride), ("width_stride", grid.width_stride)):
            if value != stride:
                path = f"{RCNN}.first_stage_anchor_generator.grid_anchor_generator.{name}"
                yield FieldError(path, f"{value}, but a feature cell is {stride} pixels wide", f"write {stride}")


def pool_beyond_the_crop(evidence: Evidence) -> Iterator[FieldError]:
    model = evidence.config.model.faster_rcnn
    if model.maxpool_kernel_size > model.initial_crop_size:
        message = f"{model.maxpool_kernel_size} is more than initial_crop_size {model.initial_crop_size}, which leaves nothing of a crop"
        yield FieldError(f"{RCNN}.maxpool_kernel_size", message, f"write at most {model.initial_crop_size}")


def batch_of_many_sizes(evidence: Evidence) -> Iterator[FieldError]:
    resizer, batch_size = evidence.config.model.faster_rcnn.image_resizer, evidence.config.train_config.batch_size
    kind = resizer.WhichOneof("image_resizer_oneof")
    padded = kind == "fixed_shape_resizer" or (
        kind == "keep_aspect_ratio_resizer" and resizer.keep_aspect_ratio_resizer.pad_to_max_dimension
    )
    if batch_size > 1 and not padded:
        fix = "write pad_to_max_dimension: true into keep_aspect_ratio_resizer, or batch_size: 1"
        yield FieldError("train_config.batch_size", f"{batch_size} images of different sizes in a batch", fix)


def no_checkpoint(evidence: Evidence) -> Iterator[FieldError]:
    if isinstance(evidence.checkpoint, UserError):
        yield FieldError(CHECKPOINT, evidence.checkpoint.message, evidence.checkpoint.fix)


def other_network(evidence: Evidence) -> Iterator[FieldError]:
    if isinstance(evidence.checkpoint, Mapping):
        missing = missing_scopes(evidence.config, evidence.checkpoint)
        if missing:
            message = f"the checkpoint has nothing for {', '.join(missing)}"
            yield FieldError(CHECKPOINT, message, "name a checkpoint of the same network, and its fine_tune_checkpoint_type")


def heads_of_other_classes(evidence: Evidence) -> Iterator[FieldError]:
    if isinstance(evidence.checkpoint, Mapping) and restores_heads(evidence.config):
        theirs, ours = head_classes(evidence.checkpoint), evidence.config.model.faster_rcnn.num_classes
        if theirs is not None and theirs != ours:
            message = f"the checkpoint's heads know {theirs} classes, the model {ours}"
            yield FieldError(CHECKPOINT, message, "convert with --checkpoint-label-map, which finds the classes that both know")


def schedule_beyond_the_end(evidence: Evidence) -> Iterator[FieldError]:
    train = evidence.config.train_config
    for path, step, least in _schedule_steps(train):
        if 0 < train.num_steps < least:
            yield FieldError(path, f"{step} is never reached: training ends at num_steps {train.num_steps}", "lower it, or raise num_steps")


def same_files(evidence: Evidence) -> Iterator[FieldError]:
    training = {file.resolve() for file in evidence.training.files}
    for one in evidence.evaluation:
        shared = sorted(file for file in one.files if file.resolve() in training)
        if shared:
            path = f"{one.path}.tf_record_input_reader.input_path"
            yield FieldError(path, f"training reads {shared[0]} too, so its metrics say little", "evaluate on records of other images")


def more_sampled_than_proposed(evidence: Evidence) -> Iterator[FieldError]:
    model = evidence.config.model.faster_rcnn
    if model.second_stage_batch_size > model.first_stage_max_proposals:
        message = f"{model.second_stage_batch_size} of at most {model.first_stage_max_proposals} proposals (first_stage_max_proposals)"
        yield FieldError(f"{RCNN}.second_stage_batch_size", message, f"write at most {model.first_stage_max_proposals}")


def limits_without_effect(evidence: Evidence) -> Iterator[FieldError]:
    model = evidence.config.model.faster_rcnn
    nms = model.second_stage_post_processing.batch_non_max_suppression
    for name, limit in (("max_total_detections", nms.max_total_detections), ("first_stage_max_proposals", model.first_stage_max_proposals)):
        if nms.max_detections_per_class > limit:
            message = f"{nms.max_detections_per_class} is never reached: {name} is {limit}"
            yield FieldError(f"{NMS}.max_detections_per_class", message, f"write at most {limit}, or raise {name}")


def missing_files(evidence: Evidence) -> Iterator[FieldError]:
    for one in evidence.readers:
        for source in one.inputs:
            if source.missing:
                error = missing_error(source.missing)
                yield FieldError(f"{one.path}.tf_record_input_reader.input_path", error.message, error.fix)


def more_objects_than_read(evidence: Evidence) -> Iterator[FieldError]:
    one, limit = evidence.training, evidence.training.reader.max_number_of_boxes
    if one.most_objects > limit:
        message = f"{limit}, but {one.fullest} has {one.most_objects} objects: training leaves out all after the first {limit}"
        yield FieldError(f"{one.path}.max_number_of_boxes", message, f"write {one.most_objects}")


def unusable_record(evidence: Evidence) -> Iterator[FieldError]:
    for one in evidence.readers:
        if one.fault is not None:
            yield FieldError(f"{one.path}.tf_record_input_reader.input_path", one.fault.message, one.fault.fix)


def unreadable_text(_: Evidence) -> Iterator[UserError]:
    """Of such a text there is no evidence: `maskline lint` says it at once."""
    yield from ()


def other_family(evidence: Evidence) -> Iterator[UserError]:
    yield from (error for error in evidence.refused if isinstance(error, OtherFamilyError))


def value_out_of_range(evidence: Evidence) -> Iterator[UserError]:
    yield from (error for error in evidence.refused if isinstance(error, RangeError))


def unsupported_field(evidence: Evidence) -> Iterator[UserError]:
    yield from (error for error in evidence.refused if not isinstance(error, OtherFamilyError | RangeError))


def said_for_nothing(evidence: Evidence) -> Iterator[UserError]:
    yield from evidence.overwritten


UNREADABLE, OTHER_FAMILY = "ML022", "ML023"

CHECKS = (
    Check("ML001", ERROR, "fewer classes than the label map", too_few_classes),
    Check("ML002", WARNING, "more classes than the label map", too_many_classes),
    Check("ML003", ERROR, "a label map that cannot be read", unreadable_label_map),
    Check("ML004", ERROR, "an input path that matches no file", no_input_file),
    Check("ML005", ERROR, "a mask type that is not the records'", other_mask_type),
    Check("ML006", ERROR, "records without masks", no_masks_in_records),
    Check("ML007", ERROR, "masks are predicted and not loaded", masks_not_loaded),
    Check("ML008", WARNING, "masks are predicted and not measured", no_mask_metrics),
    Check("ML009", ERROR, "anchors on another grid than the features", anchors_off_the_features),
    Check("ML010", ERROR, "a pool larger than the crop", pool_beyond_the_crop),
    Check("ML011", WARNING, "a batch of images of different sizes", batch_of_many_sizes),
    Check("ML012", ERROR, "no checkpoint where training starts", no_checkpoint),
    Check("ML013", ERROR, "a checkpoint of another network", other_network),
    Check("ML014", WARNING, "a schedule that goes on after training", schedule_beyond_the_end),
    Check("ML015", WARNING, "training and evaluation read the same files", same_files),
    Check("ML016", ERROR, "more proposals sampled than there are", more_sampled_than_proposed),
    Check("ML017", WARNING, "limits of detections that disagree", limits_without_effect),
    Check("ML018", WARNING, "heads of other classes than the checkpoint's", heads_of_other_classes),
    Check("ML019", ERROR, "a shard that is not there", missing_files),
    Check("ML020", WARNING, "more objects in an image than are read", more_objects_than_read),
    Check("ML021", ERROR, "a record that training cannot use", unusable_record),
    Check(UNREADABLE, ERROR, "text that is no config", unreadable_text),
    Check(OTHER_FAMILY, ERROR, "a model of another family", other_family),
    Check("ML024", ERROR, "a value out of range", value_out_of_range),
    Check("ML025", ERROR, "a field that is not supported", unsupported_field),
    Check("ML026", WARNING, "text that counts for nothing", said_for_nothing),
)
"""Codes are never given to another check."""


def _class_counts(evidence: Evidence) -> Iterator[tuple[str, int, int]]:
    """The field's path, its value, and the greatest id of the training label map, where there is one."""
    if isinstance(evidence.training.label_map, LabelMap):
        yield f"{RCNN}.num_classes", evidence.config.model.faster_rcnn.num_classes, evidence.training.label_map.num_classes


def _nearest_file(source: InputPath) -> str:
    name = Path(source.pattern).name
    close = difflib.get_close_matches(name, source.neighbours, n=1)
    return f"is it {Path(source.pattern).with_name(close[0])}?" if close else "correct the path, or write the records there"


def _schedule_steps(train: TrainConfig) -> Iterator[tuple[str, int, int]]:
    """Every field that names a step of the learning rate's schedule: its path, that step, and the least `num_steps` that reaches it."""
    optimizer = train.optimizer.WhichOneof("optimizer")
    if optimizer is None:
        return
    rate = getattr(train.optimizer, optimizer).learning_rate
    path = f"train_config.optimizer.{optimizer}.learning_rate"
    for index, point in enumerate(rate.manual_step_learning_rate.schedule):
        yield f"{path}.manual_step_learning_rate.schedule[{index}].step", point.step, point.step + 1
    if rate.HasField("cosine_decay_learning_rate"):
        cosine = rate.cosine_decay_learning_rate
        yield f"{path}.cosine_decay_learning_rate.total_steps", cosine.total_steps, cosine.total_steps
