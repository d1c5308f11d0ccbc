"""The records that a training goes without, so many as `--max-bad-records` allows, listed in its folder."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tensorflow as tf

from tasks.input.bad_record import BadRecord
from tasks.input.record_faults import DATA_ERRORS, first_fault
from tasks.records.label_map import read_label_map
from tasks.running.errors import UserError
from tasks.running.workspace import read_json, write_json
from tasks.training.experiment import MaskRCNNTask
from tasks.training.records import with_needed_masks

BAD_RECORDS = "bad_records.json"

_Result = TypeVar("_Result")


class RecordsLeftOut:
    """The list in a training's folder. What was left out up to `first_step` is so again; the rest will be met again, unless `all_stay`.

    So a training that goes on sees the order that it would have seen, and one that begins anew uses what was mended. Where a record ends
    the process that meets it, it has to stay left out.
    """

    def __init__(self, task: MaskRCNNTask, folder: Path, first_step: int, *, all_stay: bool = False) -> None:
        self._task = task
        self._file = folder / BAD_RECORDS
        self._out = sys.stdout  # the loop silences it for others
        listed = [BadRecord(**one) for one in read_json(self._file)] if (first_step or all_stay) and self._file.exists() else []
        self.records = tuple(one for one in listed if all_stay or one.step <= first_step)

    def going_without(self, run: Callable[[], _Result], first_step: int, steps: int) -> _Result:
        """What `run`, which reads so many steps from one on, answers when every bad record that it meets is left out."""
        while True:
            try:
                return run()
            except DATA_ERRORS as error:
                self.add(error, first_step, steps)

    def add(self, error: tf.errors.OpError, first_step: int, steps: int = 1) -> None:
        """Leaves out, from now on, the record among those of so many steps that has brought an error about, and says so.

        UserError where that is one more than the config allows; the error itself where no record is to blame.
        """
        most, model = self._task.train_data.max_bad_records, self._task.model
        data = with_needed_masks(self._task.train_data, model)
        label_map = read_label_map(Path(data.label_map_path))
        fault = first_fault(data, model.image_resizer, label_map, self.records, first_step, steps)
        if fault is None:
            raise error
        if len(self.records) >= most:
            told = f"more than {most} records cannot be used, the last of them: {fault.error.message}" if most else fault.error.message
            raise UserError(told, f"{fault.error.fix}; or go on without such records, up to a number: --max-bad-records N") from error
        self.records = (*self.records, fault.record)
        write_json(self._file, [dataclasses.asdict(one) for one in self.records])
        print(f"left out, {len(self.records)} of at most {most} records: {fault.error.message}", file=self._out, flush=True)
