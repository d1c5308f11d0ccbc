"""The step that turns a config and a dataset into an experiment.

    maskline convert CONFIG [--dataset DATASET_DIR] --output MODEL_DIR [--reverse] [--set path=value ...] [--checkpoint PATH ...]

CONFIG is the name of a zoo config or the path of a Faster or Mask R-CNN pipeline.config. The six edits make it a Mask
R-CNN config on the dataset (`--reverse` takes the masks away), one more names the checkpoint to start from; it is then
translated. Writes `pipeline.config`, `experiment.yaml`, `zoo_difference.txt` and, last, `conversion.json`, which tells every
edit, what became of every field, and what differs from the zoo's config. `--dry-run` instead of `--output` only prints that.
Usual runtime: under a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from tasks.checkpoints.class_match import match_classes
from tasks.pipeline_config.assignments import assignments_of
from tasks.pipeline_config.box_edits import remove_masks
from tasks.pipeline_config.dataset_records import records_of
from tasks.pipeline_config.difference import difference_lines, differences
from tasks.pipeline_config.edits import Edit, Edited, MaskBranch, Records, add_masks, end_training, fit_to_dataset
from tasks.pipeline_config.experiment import Experiment, translate
from tasks.pipeline_config.fields import Change, ConfigError, FieldError, together, value_text
from tasks.pipeline_config.fine_tuning import StartingPoint, classes_of_checkpoint, start_from
from tasks.pipeline_config.input_reader_pb2 import InputReader
from tasks.pipeline_config.overwritten import overwritten
from tasks.pipeline_config.parser import located, odd_encoding, parse_pipeline_config, print_pipeline_config, read_text, set_field
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.pipeline_config.zoo import find_config
from tasks.pipeline_config.zoo_difference import ZooDifference, from_zoo
from tasks.records.example import MASK_TYPES
from tasks.records.label_map import read_label_map
from tasks.records.manifest import Manifest, read_manifest
from tasks.records.survey import Survey, survey
from tasks.records.tfrecord import confirm_whole, matching_files
from tasks.running.errors import UserError
from tasks.running.scratch import scratch_folder
from tasks.running.workspace import DatasetDir, ModelDir, StepResult, read_json, write_json, write_text

FORMAT_VERSION = 1

_Result = TypeVar("_Result")


def convert(
    config: str,
    dataset: DatasetDir | None,
    output: ModelDir | None,
    *,
    assignments: Sequence[str] = (),
    branch: MaskBranch | None = None,
    start: StartingPoint | None = None,
    mask_type: str = "auto",
    reverse: bool = False,
    original_padded_masks: bool = False,
) -> StepResult:
    """Writes the experiment of `config` on `dataset` into `output`, unless the same inputs wrote it before.

    Without a dataset the config keeps its own records, label map and number of classes; without an output nothing is written, and
    the differences are printed. `mask_type` is `auto`, `png` or `numerical`; `auto` asks the dataset, or looks into the config's records.
    `assignments` (`path=value`, or `config: path=value` for the config of that name alone) are applied after the edits, in order; then the
    checkpoint is looked up. `original_padded_masks`: see `tasks.mask_rcnn.config.MaskRCNN`.

    Raises UserError, before anything is written, for a config, dataset or checkpoint that cannot be used.
    """
    if reverse and (branch not in (None, MaskBranch()) or mask_type != "auto"):
        raise UserError("--reverse takes the masks away, and other options describe them", "leave out --reverse, or the --mask options")
    file = find_config(config)
    text = read_text(file)
    manifest = read_manifest(dataset.manifest) if dataset is not None else None
    records = records_of(dataset, manifest) if dataset is not None and manifest is not None else None
    start = start or StartingPoint()
    refused: list[UserError] = []
    original = parse_pipeline_config(text, str(file), refused)
    chosen = assignments_of(file.stem, assignments)

    def conversion(own: Survey | None) -> _Conversion:
        """The config as an experiment; UserError, with each place in the file, for all that it is refused for."""
        faults = list(refused)
        mask_kind = "" if reverse else _noted(faults, lambda: _mask_type(mask_type, original, records, own), "PNG_MASKS")
        edited, edits = _edited(original, records, branch or MaskBranch(), mask_kind, reverse)
        edited, overrides = _overridden(edited, chosen)
        unstarted: Edited = edited, ()
        edited, started = _noted(faults, lambda: start_from(edited, start, file.stem), unstarted)
        label_map = _checkpoint_label_map(edited, start, manifest)

        def translated() -> Experiment | None:
            return translate(edited, name=file.stem, checkpoint_label_map=label_map, original_padded_masks=original_padded_masks)

        experiment = _noted(faults, translated, None)
        _noted(faults, lambda: _check_against(edited, records), None)
        if experiment is None or faults:
            raise located(together(faults), text, str(file))
        if started:
            edits = (*edits, Edit("training starts from a checkpoint", started))
        return _Conversion(edited, edits, overrides, experiment)

    own = None
    if records is None:
        # What is wrong with the config is said before its records are read, which may take minutes. All of them are, once: the first
        # mask may be behind many images without objects.
        conversion(None if _matched(original.train_input_reader) else survey((), None))
        for reader in (original.train_input_reader, *original.eval_input_reader):
            _confirm_shards(reader)
        own = survey(_matched(original.train_input_reader), None)
    edited, edits, overrides, experiment = conversion(own)
    warnings = [str(located(one, text, str(file))) for one in (*odd_encoding(file), *overwritten(text))]
    zoo = from_zoo(edited)
    printed = print_pipeline_config(edited)
    values = yaml.safe_dump(experiment.values, sort_keys=False)
    report = _report(file.stem, manifest, edits, overrides, experiment, zoo)
    report["warnings"] = warnings
    most_objects = records.most_objects if records is not None else own.most_objects if own is not None else 0
    offers = report["offers"] = _offers(edited, most_objects)
    report["digest"] = _digest(text, printed, values, report)
    summary = {"config": file.stem, "changes": sum(len(edit.changes) for edit in edits) + len(overrides)}
    if output is None:
        _say(edits, overrides, experiment, offers, warnings)
        print(f"\n{file} -> converted\n{difference_lines(differences(original, edited))}\n{zoo.text()}", end="")
        return StepResult("convert", "done", {}, summary)
    files = {"model": str(output.root), "pipeline_config": str(output.pipeline_config), "experiment": str(output.experiment)}
    if _is_written(output, report["digest"]):
        return StepResult("convert", "skipped", files, summary)
    _say(edits, overrides, experiment, offers, warnings)
    write_text(output.pipeline_config, printed)
    write_text(output.experiment, values)
    write_text(output.zoo_difference, zoo.text())
    write_json(output.conversion_report, report)
    return StepResult("convert", "done", files, summary)


@contextlib.contextmanager
def would_be_experiment(
    config: str, dataset: DatasetDir | None, assignments: Sequence[str] = (), start: StartingPoint | None = None
) -> Iterator[Path]:
    """The experiment that `convert` would write, as a file that is there within the block. Raises and takes what `convert` does."""
    with scratch_folder() as folder:
        model = ModelDir(folder)
        # Whoever converts in earnest is told all of it.
        with contextlib.redirect_stdout(io.StringIO()):
            convert(config, dataset, model, assignments=assignments, start=start)
        yield model.experiment


class _Conversion(NamedTuple):
    """A config on its way, what was done to it, and what training makes of it."""

    edited: TrainEvalPipelineConfig
    edits: tuple[Edit, ...]
    overrides: tuple[Change, ...]
    experiment: Experiment


def _noted(faults: list[UserError], step: Callable[[], _Result], otherwise: _Result) -> _Result:
    """What the step answers; where it refuses fields, `otherwise`, and the refusals join `faults`."""
    try:
        return step()
    except (FieldError, ConfigError) as error:
        faults.append(error)
        return otherwise


def _edited(
    config: TrainEvalPipelineConfig, records: Records | None, branch: MaskBranch, mask_type: str, reverse: bool
) -> tuple[TrainEvalPipelineConfig, tuple[Edit, ...]]:
    """The config with masks of a type, or without, on the dataset if there is one, and ending; and each edit's report."""
    if reverse:
        config, edits = remove_masks(config)
    else:
        config, edits = add_masks(config, mask_type, branch)
    if records is not None:
        config, fitted = fit_to_dataset(config, records)
        edits = (*edits, *fitted)
    config, changes = end_training(config)
    return config, (*edits, Edit("training has an end", changes)) if changes else edits


def _overridden(config: TrainEvalPipelineConfig, assignments: Sequence[str]) -> tuple[TrainEvalPipelineConfig, tuple[Change, ...]]:
    overrides = []
    for assignment in assignments:
        config, change = set_field(config, assignment)
        overrides.append(change)
    return config, tuple(overrides)


def _mask_type(wish: str, config: TrainEvalPipelineConfig, records: Records | None, own: Survey | None) -> str:
    """`PNG_MASKS` or `NUMERICAL_MASKS`: as asked for, as the manifest says, or as the config's own records are.

    Where these are not here, a config that loads masks already is believed.
    """
    if wish != "auto":
        if wish not in MASK_TYPES:
            raise UserError(f"--mask-type is {wish!r}", f"use one of auto, {', '.join(MASK_TYPES)}")
        return MASK_TYPES[wish]
    if records is not None:
        return records.mask_type
    reader = config.train_input_reader
    patterns = reader.tf_record_input_reader.input_path
    if own is None or (not own.counts and reader.load_instance_masks):
        return value_text(reader, "mask_type")
    if own.mask_types:
        return next(iter(own.mask_types))
    if own.fault is not None and not own.objects_per_image:
        raise own.fault  # not one of them is a record
    problem = f"the records of {', '.join(patterns)} hold no mask" if own.counts else f"no file matches {', '.join(patterns) or 'it'}"
    fix = "correct the path, give --dataset, or say how the masks are stored: --mask-type png, or numerical"
    raise FieldError("train_input_reader.tf_record_input_reader.input_path", problem, fix)


def _matched(reader: InputReader) -> list[Path]:
    """The files of records that are there."""
    return [file for pattern in reader.tf_record_input_reader.input_path for file in matching_files(pattern)]


def _confirm_shards(reader: InputReader) -> None:
    """UserError where a shard is missing beside others."""
    for pattern in reader.tf_record_input_reader.input_path:
        confirm_whole(pattern, matching_files(pattern))


def _offers(config: TrainEvalPipelineConfig, most_objects: int) -> list[str]:
    """What the records would have otherwise, and how to get it."""
    limit = config.train_input_reader.max_number_of_boxes
    if most_objects <= limit:
        return []
    return [
        f"an image to train on has {most_objects} objects, and max_number_of_boxes is {limit}: training leaves out all after the first"
        f" {limit}; --set train_input_reader.max_number_of_boxes={most_objects} keeps them"
    ]


def _checkpoint_label_map(config: TrainEvalPipelineConfig, start: StartingPoint, manifest: Manifest | None) -> str:
    """The path of the checkpoint's label map, "" without one; UserError where it shares no name with the dataset's."""
    path = classes_of_checkpoint(config, start.label_map)
    if path is None:
        return ""
    if manifest is not None:
        match_classes(manifest.label_map.names, read_label_map(path).names)
    return str(path)


def _check_against(config: TrainEvalPipelineConfig, records: Records | None) -> None:
    """Raises FieldError where a wish contradicts the dataset in a way that training could not survive."""
    if records is None:
        return
    num_classes = config.model.faster_rcnn.num_classes
    if num_classes < records.num_classes:
        raise FieldError(
            "model.faster_rcnn.num_classes",
            f"{num_classes} is less than the {records.num_classes} classes of {records.label_map}",
            "leave it to the label map",
        )
    reader = config.train_input_reader
    if reader.load_instance_masks and value_text(reader, "mask_type") != records.mask_type:
        raise FieldError("train_input_reader.mask_type", f"the dataset holds {records.mask_type}", "leave it to the dataset")


def _report(
    name: str, manifest: Manifest | None, edits: Sequence[Edit], overrides: Sequence[Change], experiment: Experiment, zoo: ZooDifference
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "config": name,
        "dataset_digest": manifest.digest if manifest else None,
        "edits": [edit.to_json() for edit in edits],
        "overrides": [change.to_json() for change in overrides],
        "fields": experiment.fields,
        "zoo": zoo.to_json(),
    }


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _is_written(output: ModelDir, digest: str) -> bool:
    """Whether all files of this very conversion are there; the report is written last."""
    files = (output.pipeline_config, output.experiment, output.zoo_difference, output.conversion_report)
    return all(path.is_file() for path in files) and bool(read_json(output.conversion_report).get("digest") == digest)


def _say(
    edits: Sequence[Edit], overrides: Sequence[Change], experiment: Experiment, offers: Sequence[str], warnings: Sequence[str]
) -> None:
    """Prints every change, and every field that was passed over, as lines that a person can read."""
    for warning in warnings:
        print(f"warning: {warning}")
    for edit in edits:
        print(f"{edit.title}{'' if edit.changes else ': nothing to do'}")
        for change in edit.changes:
            print(f"  {change.path}: {change.before or 'absent'} -> {change.after or 'absent'} ({change.why})")
    for change in overrides:
        print(f"--set {change.path}: {change.before or 'absent'} -> {change.after}")
    for field in experiment.fields["ignored"]:
        print(f"ignored: {field['path']}: {field['value']} ({field['reason']})")
    for offer in offers:
        print(f"offer: {offer}")
