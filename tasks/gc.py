"""The step that removes what a workspace has piled up: runs, checkpoints, data sets and logs that nothing refers to.

    maskline gc [--older-than 30d] [--keep RUN] [--delete]

Without `--delete` it only tells. A run stays while it is trained, was written to lately, is a champion or the version before it, is the
last good run of a schedule, has numbers that MLflow does not have, or is what another run that stays was made of. MLflow's own runs and
artifacts stay. Usual runtime: seconds, and a look at every file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from tasks.housekeeping.garbage import Garbage, datasets_of, garbage, remove, runs_of
from tasks.housekeeping.references import Clock, days, references
from tasks.running.errors import UserError
from tasks.running.workspace import StepResult

_UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_LEAST = 86400.0


def gc(workspace: Path, older_than: str = "30d", keep: Sequence[str] = (), *, delete: bool = False) -> StepResult:
    """The summary counts bytes and things by kind; with `delete`, those that were removed.

    UserError where `older_than` is no length of time or less than a day, the workspace is none, or MLflow does not answer.
    """
    clock = Clock(time.time(), _seconds(older_than))
    if not any((workspace / name).is_dir() for name in ("runs", "datasets")):
        raise UserError(f"{workspace} is no workspace of maskline: it has no runs and no datasets", "name it by MASKLINE_WORKSPACE")
    runs, datasets = runs_of(workspace), datasets_of(workspace)
    kept = references(workspace, runs, datasets, keep, clock)
    found = garbage(workspace, runs, datasets, kept, clock)
    for folder in (*runs, *datasets):
        if folder in kept.kept:
            print(f"stays    {folder.relative_to(workspace)}: {kept.kept[folder]}")
    removed = []
    for one in found:
        told = f"{one.kind} {one.name.relative_to(workspace)}, {_bytes(one.size)}, {days(clock.now - one.written)} old: {one.why}"
        if not delete:
            print(f"can go   {told}", flush=True)
        elif remove(one):
            removed.append(one)
            print(f"removed  {told}", flush=True)
        else:
            print(f"stays    {one.name.relative_to(workspace)}: somebody has written to it just now", flush=True)
    counted = removed if delete else found
    total = _bytes(sum(one.size for one in counted))
    print(f"{total} in {len(counted)} things {'were removed' if delete else 'can go; --delete removes them' if counted else 'can go'}")
    return StepResult("gc", "done" if removed else "skipped", {"workspace": str(workspace)}, _summary(counted))


def _summary(counted: Sequence[Garbage]) -> dict[str, object]:
    kinds = sorted({one.kind for one in counted})
    return {
        "bytes": sum(one.size for one in counted),
        "things": {kind: [str(one.name) for one in counted if one.kind == kind] for kind in kinds},
    }


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if not match:
        raise UserError(f"--older-than is {text!r}", "give a number of hours, days or weeks: 36h, 30d, 4w")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds < _LEAST:
        raise UserError(f"--older-than is {text}", "give a day or more: what is younger may be of a run that is under way")
    return seconds


def _bytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
