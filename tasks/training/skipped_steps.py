"""Steps that were skipped because a loss, a gradient or an input was no number: told, kept for whoever looks into them, and bounded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from official.core import config_definitions as cfg

from tasks.checkpoints.own_checkpoint import written_checkpoints
from tasks.input.placed_record import records_at
from tasks.running.errors import UserError
from tasks.running.workspace import write_json
from tasks.training.left_out import RecordsLeftOut
from tasks.training.overrides import ON_NAN
from tasks.training.step_file import TIME
from tasks.training.step_log import INPUT_WAIT, SECONDS
from tasks.training.task import FINITE

FORMAT_VERSION = 1

SKIP, STOP = ON_NAN

# A bad record spoils one step of an epoch; weights that have run away spoil all that follow.
MOST_IN_A_ROW = 10
MOST_SHARE = 0.01
ALWAYS_ALLOWED = 10
_LINES_PER_LOOP = 5


class SkippedSteps:
    """Those of a training, in `folder`: a file for each, from which the step can be taken again."""

    def __init__(self, experiment: cfg.ExperimentConfig, folder: Path, start_step: int, bad_records: RecordsLeftOut | None = None) -> None:
        """What a killed process skipped after `start_step` is forgotten: it will come again. `bad_records` are no part of any step."""
        self._experiment = experiment
        self._bad_records = bad_records
        self._folder = folder
        self._in_a_row = 0
        for file in self._files():
            if int(file.stem.removeprefix("step-")) > start_step:
                file.unlink()
        self._total = len(self._files())

    @property
    def in_doubt(self) -> bool:
        """Whether the last steps were skipped, and not one alone: then the weights may be what is wrong, and none to save."""
        return self._in_a_row > 1

    def look_at(self, steps: Sequence[Mapping[str, float]], last_step: int) -> list[str]:
        """Keeps what was skipped of a loop's steps, the last of which is `last_step`; lines for a person come back.

        UserError where it is too much: with `on_nan` stop a single one, else many in a row or too large a share of all.
        """
        lines = []
        longest = 0
        for step, figures in enumerate(steps, start=last_step - len(steps) + 1):
            if figures[FINITE]:
                self._in_a_row = 0
                continue
            self._in_a_row += 1
            self._total += 1
            longest = max(longest, self._in_a_row)
            lines.append(self._keep(step, figures))
        if lines:
            self._confirm_bounded(lines, longest, last_step)
        more = len(lines) - _LINES_PER_LOOP
        return [*lines[:_LINES_PER_LOOP], f"and {more} more steps were skipped"] if more > 0 else lines

    def _confirm_bounded(self, lines: Sequence[str], longest: int, last_step: int) -> None:
        if self._experiment.trainer.on_nan == STOP:
            problem = f"{lines[0]}; and --on-nan is {STOP}"
            fix = f"mend the records that are named and train in a new run folder, or go on without the step: --on-nan {SKIP}"
        elif longest >= MOST_IN_A_ROW:
            problem = f"{longest} steps in a row were skipped: {lines[-1]}"
            fix = (
                "the weights have most likely run away: train in a new run folder with a lower --learning-rate; it can start from the "
                "checkpoint, by `maskline convert --checkpoint`"
            )
        elif self._total > max(ALWAYS_ALLOWED, MOST_SHARE * last_step):
            problem = f"{self._total} of {last_step} steps were skipped: {lines[-1]}"
            fix = f"mend or remove the records that the files in {self._folder} name, and train in a new run folder"
        else:
            return
        written = written_checkpoints(self._folder.parent)
        raise UserError(f"{problem}; {f'{written[-1]} is the last good checkpoint' if written else 'there is no checkpoint yet'}", fix)

    def _keep(self, step: int, figures: Mapping[str, float]) -> str:
        """Writes a step's file; a line that tells of it comes back."""
        data = self._experiment.task.train_data
        first = (step - 1) * data.global_batch_size
        bad = self._bad_records.records if self._bad_records else ()
        records = records_at(data, range(first, first + data.global_batch_size), bad)
        written = written_checkpoints(self._folder.parent)
        file = self._folder / f"step-{step}.json"
        kept: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "seed": data.seed,
            "records": [dataclasses.asdict(record) for record in records],
            # JSON has no other numbers. What the clock says is no matter here.
            "figures": {
                name: value if math.isfinite(value) else str(value)
                for name, value in figures.items()
                if name not in (TIME, SECONDS, INPUT_WAIT)
            },
            "checkpoint": written[-1].name if written else None,
        }
        write_json(file, kept)
        broken = sorted(name for name, value in figures.items() if not math.isfinite(value))
        what = f"{', '.join(broken)} {'are' if len(broken) > 1 else 'is'}" if broken else "an input is"
        of = ", ".join(f"{Path(one.file).name} record {one.record}" + (f" ({one.source_id})" if one.source_id else "") for one in records)
        return f"step {step} was skipped: {what} no finite number; its records: {of}; see {file}"

    def _files(self) -> list[Path]:
        return list(self._folder.glob("step-*.json"))
