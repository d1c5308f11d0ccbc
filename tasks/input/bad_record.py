"""A record that a training goes without, and from when on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.input.record_reader import RecordReader
from tasks.running.errors import UserError


@dataclass(frozen=True)
class BadRecord:
    """Record `record` of `file`, from 0, is left out from `step` on, at which it was met and could not be used because of `reason`."""

    file: str
    record: int
    step: int
    reason: str


def left_out(bad: Sequence[BadRecord], records: RecordReader) -> frozenset[int]:
    """The numbers of bad records; UserError where one is not among the records, or no other is left."""
    found: set[int] = set()
    for one in bad:
        number = records.number(one.file, one.record)
        if number is None:
            raise UserError(
                f"{one.file}: record {one.record} was left out before, and is not among the records any more",
                "bring the file back, or train into another run folder",
            )
        found.add(number)
    if found and len(found) == len(records):
        raise UserError(f"none of {len(records)} records can be used; the first: {bad[0].reason}", "write the records again")
    return frozenset(found)
