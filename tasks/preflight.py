"""The step that looks at what a pipeline run was asked for, before anything of it is written.

    maskline preflight DATASET.yaml --config CONFIG [--config CONFIG ...] [--set PATH=VALUE ...] [--checkpoint PATH ...]

What `materialize`, `convert` and their options would refuse minutes or hours later is refused here: a dataset's YAML, a field of a
config, a checkpoint. Reads the dataset's description, not its images. Usual runtime: a second.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from tasks.annotations.dataset import confirm_trainable, read_dataset_config
from tasks.annotations.recognition import description_of
from tasks.annotations.record_choice import choose, parse_range
from tasks.pipeline_config.assignments import assignments_of
from tasks.pipeline_config.fields import FieldError, together
from tasks.pipeline_config.fine_tuning import StartingPoint, classes_of_checkpoint, start_from
from tasks.pipeline_config.parser import located, parse_pipeline_config, read_text, set_field
from tasks.pipeline_config.refusals import refusals
from tasks.pipeline_config.zoo import find_config
from tasks.running.errors import UserError
from tasks.running.workspace import StepResult


def preflight(
    dataset_yaml: Path,
    configs: Sequence[str],
    *,
    assignments: Sequence[str] = (),
    start: StartingPoint | None = None,
    shard_ranges: Sequence[str] = (),
) -> StepResult:
    """Names the dataset in its summary; UserError for the first thing that a later step would refuse."""
    start = start or StartingPoint()
    dataset = read_dataset_config(description_of(dataset_yaml))
    confirm_trainable(dataset, choose(dataset.options, {}))
    _confirm_apart(shard_ranges)
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
    return StepResult("preflight", "done", {}, {"dataset": dataset.name, "configs": list(configs)})


def _confirm_apart(shard_ranges: Sequence[str]) -> None:
    """UserError where two ranges share a shard: the tasks that write them would write the same file."""
    ranges = sorted((*parse_range(text), text) for text in shard_ranges)
    for (_, end, one), (first, _, other) in itertools.pairwise(ranges):
        if first < end:
            raise UserError(f"the shard ranges {one} and {other} overlap", "let each shard be in one range")
