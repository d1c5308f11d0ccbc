"""The step that looks at what a pipeline run was asked for, before anything of it is written.

    maskline preflight DATASET.yaml --config CONFIG [--config CONFIG ...] [--set PATH=VALUE ...] [--checkpoint PATH ...]
    maskline preflight DATASET.yaml --evaluate-into FOLDER --predictor MODEL|--results FILE [--predictor-config CONFIG ...]

What `materialize`, `convert`, `evaluate` and their options would refuse minutes or hours later is refused here: a dataset's YAML, a field
of a config, a checkpoint, a model. Reads the dataset's description, not its images. Usual runtime: a second, and ten where a model is one
of TensorFlow's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.annotations.corrections import Corrections
from tasks.annotations.dataset import confirm_trainable, read_dataset_config
from tasks.annotations.recognition import description_of
from tasks.annotations.record_choice import choose, parse_range
from tasks.evaluation.given_results import read_results
from tasks.evaluation.slices import read_attributes
from tasks.pipeline_config.assignments import assignments_of
from tasks.pipeline_config.fields import FieldError, together
from tasks.pipeline_config.fine_tuning import StartingPoint, classes_of_checkpoint, start_from
from tasks.pipeline_config.parser import located, parse_pipeline_config, read_text, set_field
from tasks.pipeline_config.refusals import refusals
from tasks.pipeline_config.zoo import find_config, find_label_map
from tasks.records.label_map import LabelMap
from tasks.records.manifest import materialized_in
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, StepResult


@dataclass(frozen=True)
class Evaluated:
    """What `maskline evaluate` would be asked for, beside the dataset."""

    into: ModelDir
    predictor: Path | None = None
    results: Path | None = None
    config: str = ""
    label_map: str = ""
    checkpoint: str = ""
    slices: Path | None = None


def preflight(
    dataset_yaml: Path,
    configs: Sequence[str],
    *,
    assignments: Sequence[str] = (),
    start: StartingPoint | None = None,
    shard_ranges: Sequence[str] = (),
    evaluated: Evaluated | None = None,
) -> StepResult:
    """Names the dataset in its summary; UserError for the first thing that a later step would refuse."""
    start = start or StartingPoint()
    manifest = materialized_in(dataset_yaml)
    name = manifest.name if manifest is not None else _dataset_name(dataset_yaml)
    _confirm_apart(shard_ranges)
    if evaluated is not None:
        _confirm_evaluable(evaluated, manifest.label_map if manifest is not None else None)
    files = [find_config(config) for config in configs]
    for file in files:
        text = read_text(file)
        refused: list[UserError] = []
        parsed = parse_pipeline_config(text, str(file), refused)
        for assignment in assignments_of(file.stem, assignments, [other.stem for other in files]):
            parsed, _ = set_field(parsed, assignment)
        try:
            parsed, _ = start_from(parsed, start, file.stem)
        except FieldError as error:
            refused.append(error)
        refused += refusals(parsed, file.stem, with_dataset=True)
        if refused:
            raise located(together(refused), text, str(file))
        classes_of_checkpoint(parsed, start.label_map)
    return StepResult("preflight", "done", {}, {"dataset": name, "configs": list(configs)})


def _dataset_name(dataset_yaml: Path) -> str:
    """UserError where the dataset cannot be materialized, or not be trained on."""
    dataset = read_dataset_config(description_of(dataset_yaml))
    choice = choose(dataset.options, {})
    confirm_trainable(dataset, choice)
    Corrections(choice.corrections)
    return dataset.name


def _confirm_evaluable(asked: Evaluated, labels: LabelMap | None) -> None:
    """UserError where there is not one thing to evaluate, it is none, or its folder is another model's."""
    if asked.slices is not None:
        read_attributes(asked.slices)
    if (asked.predictor is None) == (asked.results is None):
        both = "a model and a file of detections are two things" if asked.results else "there is neither a model nor a file of detections"
        raise UserError(f"{both} to evaluate", "name one of the two")
    if asked.into.train.exists():
        raise UserError(f"{asked.into.root} is a model that was trained here, with evaluations of its own", "name a new folder")
    if asked.predictor is not None:
        # Not at the top: of a model it takes packages that take seconds to import.
        from tasks.serving.predictor import find_model

        find_model(asked.predictor, find_label_map(asked.label_map) if asked.label_map else None, asked.checkpoint, asked.config)
    elif asked.results is not None:
        if asked.config or asked.label_map or asked.checkpoint:
            raise UserError("detections in a file have no config, label map and checkpoint", "leave these out")
        read_results(asked.results, labels)


def _confirm_apart(shard_ranges: Sequence[str]) -> None:
    """UserError where two ranges share a shard: the tasks that write them would write the same file."""
    ranges = sorted((*parse_range(text), text) for text in shard_ranges)
    for (_, end, one), (first, _, other) in itertools.pairwise(ranges):
        if first < end:
            raise UserError(f"the shard ranges {one} and {other} overlap", "let each shard be in one range")
