"""The step that turns a config and a dataset into an experiment.

    maskline convert CONFIG --dataset DATASET_DIR --output MODEL_DIR [--set path=value ...] [--checkpoint PATH ...]

CONFIG is the name of a zoo config or the path of a Faster or Mask R-CNN pipeline.config. The six edits make it a Mask
R-CNN config on the dataset, one more names the TF1 checkpoint to start from; it is then translated. Writes
`pipeline.config`, `experiment.yaml` and, last, `conversion.json`, which tells every edit and what became of every
field. Usual runtime: under a second.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import yaml

from tasks.errors import UserError
from tasks.mask_rcnn.class_match import match_classes
from tasks.pipeline_config.edits import Edit, MaskBranch, Records, to_mask_rcnn
from tasks.pipeline_config.experiment import Experiment, translate
from tasks.pipeline_config.fields import Change, FieldError
from tasks.pipeline_config.fine_tuning import StartingPoint, start_from
from tasks.pipeline_config.parser import located, parse_pipeline_config, print_pipeline_config, read_text, set_field
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.pipeline_config.zoo import find_config, find_label_map
from tasks.records.label_map import read_label_map
from tasks.records.manifest import Manifest, read_manifest
from tasks.workspace import DatasetDir, ModelDir, StepResult, read_json, write_json, write_text

FORMAT_VERSION = 1


def convert(
    config: str,
    dataset: DatasetDir,
    output: ModelDir,
    *,
    assignments: Sequence[str] = (),
    branch: MaskBranch | None = None,
    start: StartingPoint | None = None,
) -> StepResult:
    """Writes the experiment of `config` on `dataset` into `output`, unless the same inputs wrote it before.

    `assignments` (`path=value`) are applied after the six edits, in order; then the checkpoint is looked up. Raises
    UserError, before anything is written, for a config, dataset or checkpoint that cannot be used.
    """
    file = find_config(config)
    text = read_text(file)
    manifest = read_manifest(dataset.manifest)
    records = _records(dataset, manifest)
    branch, start = branch or MaskBranch(), start or StartingPoint()
    original = parse_pipeline_config(text, str(file))
    edited, edits = to_mask_rcnn(original, records, branch)
    overrides = []
    for assignment in assignments:
        edited, change = set_field(edited, assignment)
        overrides.append(change)
    checkpoint_label_map = _checkpoint_label_map(start, manifest)
    try:
        edited, changes = start_from(edited, start, file.stem)
        experiment = translate(edited, name=file.stem, checkpoint_label_map=checkpoint_label_map)
        _check_against(edited, records)
    except FieldError as error:
        raise located(error, text, str(file)) from error
    if changes:
        edits = (*edits, Edit("training starts from a checkpoint", changes))

    printed = print_pipeline_config(edited)
    values = yaml.safe_dump(experiment.values, sort_keys=False)
    report = _report(file.stem, manifest.digest, edits, overrides, experiment)
    report["digest"] = _digest(text, printed, values, report)
    result = StepResult(
        step="convert",
        status="skipped" if _is_written(output, report["digest"]) else "done",
        outputs={
            "model": str(output.root),
            "pipeline_config": str(output.pipeline_config),
            "experiment": str(output.experiment),
        },
        summary={"config": file.stem, "changes": sum(len(edit.changes) for edit in edits) + len(overrides)},
    )
    if result.status == "skipped":
        return result
    _say(edits, overrides, experiment)
    write_text(output.pipeline_config, printed)
    write_text(output.experiment, values)
    write_json(output.conversion_report, report)
    return result


def _records(dataset: DatasetDir, manifest: Manifest) -> Records:
    """What the manifest says of the dataset."""
    for split in ("train", "val"):
        if split not in manifest.splits:
            raise UserError(f"{dataset.manifest} has no split {split}", "materialize the dataset with both splits")
    place = DatasetDir(dataset.root.absolute())
    return Records(
        train_pattern=str(place.root / manifest.splits["train"].pattern),
        validation_pattern=str(place.root / manifest.splits["val"].pattern),
        label_map=str(place.label_map),
        mask_type=manifest.mask_type,
        num_classes=manifest.label_map.num_classes,
    )


def _checkpoint_label_map(start: StartingPoint, manifest: Manifest) -> str:
    """The path of the checkpoint's label map, "" without one; UserError where it shares no name with the dataset's."""
    if start.label_map is None:
        return ""
    path = find_label_map(start.label_map)
    match_classes(manifest.label_map.names, read_label_map(path).names)
    return str(path)


def _check_against(config: TrainEvalPipelineConfig, records: Records) -> None:
    """Raises FieldError where an override contradicts the dataset in a way that training could not survive."""
    num_classes = config.model.faster_rcnn.num_classes
    if num_classes < records.num_classes:
        raise FieldError(
            "model.faster_rcnn.num_classes",
            f"{num_classes} is less than the {records.num_classes} classes of {records.label_map}",
            "leave it to the label map",
        )


def _report(name: str, dataset_digest: str, edits: Sequence[Edit], overrides: Sequence[Change], experiment: Experiment) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "config": name,
        "dataset_digest": dataset_digest,
        "edits": [edit.to_json() for edit in edits],
        "overrides": [change.to_json() for change in overrides],
        "fields": experiment.fields,
    }


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _is_written(output: ModelDir, digest: str) -> bool:
    """Whether all three files of this very conversion are there; the report is written last."""
    if not all(path.is_file() for path in (output.pipeline_config, output.experiment, output.conversion_report)):
        return False
    return bool(read_json(output.conversion_report).get("digest") == digest)


def _say(edits: Sequence[Edit], overrides: Sequence[Change], experiment: Experiment) -> None:
    """Prints every change, and every field that was passed over, as lines that a person can read."""
    for edit in edits:
        print(f"{edit.title}{'' if edit.changes else ': nothing to do'}")
        for change in edit.changes:
            print(f"  {change.path}: {change.before or 'absent'} -> {change.after} ({change.why})")
    for change in overrides:
        print(f"--set {change.path}: {change.before or 'absent'} -> {change.after}")
    for field in experiment.fields["ignored"]:
        print(f"ignored: {field['path']}: {field['value']} ({field['reason']})")
