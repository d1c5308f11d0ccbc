"""What a training has left behind, and how that differs from what it should have."""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.checkpoints.own_checkpoint import written_checkpoints
from tasks.running.line_file import whole_lines
from tasks.running.workspace import ModelDir

TOTAL_LOSS = "Loss/total_loss"

Row = Mapping[str, Any]

# What the clock and the machine say, which no two trainings have in common.
_OF_THE_CLOCK = ("time", "compiled", "step/", "system/", "seconds", "images_per_second")
# Told once in each loop of steps, whose lengths follow from the machine's speed.
_OF_A_LOOP = "system/"
_UNFINISHED = ("*.tempstate*", "*_temp*", ".checkpoint.*", ".*.json.*", ".*.yaml.*")


@dataclass(frozen=True)
class Left:
    """What lies in a training's folder and in MLflow after its end."""

    rows: Sequence[Row]
    """The figures of each step, in the order in which they were written; a step that was taken again is there again"""
    weights: Mapping[str, int]
    """A checksum of each tensor of the last checkpoint"""
    best: str | None
    """The name of the best checkpoint"""
    evaluations: Sequence[Mapping[str, Any]]
    unfinished: Sequence[str] = ()
    """Files that a writing which was cut off has left"""
    runs: int = 1
    """In MLflow"""
    status: str = "FINISHED"
    """Of the last one"""
    points: Sequence[tuple[str, int, float]] = field(default=())
    """Name, step and value of each number in MLflow, in the order in which they came"""


def left_by(model: ModelDir, database: Path) -> Left:
    """Reads it, MLflow's numbers from its database."""
    evaluations = model.train / "evaluations.json"
    measured = json.loads(evaluations.read_text()) if evaluations.exists() else {"evaluations": [], "best": None}
    with sqlite3.connect(database) as connection:
        statuses = [status for (status,) in connection.execute("SELECT status FROM runs ORDER BY start_time")]
        # SQLite numbers its rows as they come.
        points = list(connection.execute("SELECT key, step, value FROM metrics ORDER BY rowid"))
    written = written_checkpoints(model.train)
    return Left(
        rows=list(rows_of(model)),
        weights=checksums(written[-1]) if written else {},
        best=measured["best"] and measured["best"]["checkpoint"],
        evaluations=measured["evaluations"],
        unfinished=sorted(unfinished(model.train)),
        runs=len(statuses),
        status=statuses[-1] if statuses else "",
        points=points,
    )


def rows_of(model: ModelDir) -> Iterable[dict[str, Any]]:
    """All lines of the file of steps."""
    return (json.loads(line) for line, _ in whole_lines(model.train / "metrics.jsonl"))


def unfinished(folder: Path) -> set[str]:
    """The names of files of writings that are under way, or were cut off."""
    found = {file.name for pattern in _UNFINISHED for file in folder.glob(pattern)}
    whole = {prefix.name for prefix in written_checkpoints(folder)}
    return found | {file.name for file in folder.glob("ckpt-*.data-*") if file.name.partition(".")[0] not in whole}


def checksums(checkpoint: Path) -> dict[str, int]:
    """Of each tensor of a checkpoint."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(checkpoint))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: zlib.crc32(reader.get_tensor(name).tobytes()) for name in names}


def differences(undisturbed: Left, other: Left) -> list[str]:
    """Everything in which a training is not as if it had been undisturbed, to the bit; empty where there is nothing."""
    return [
        *unequal_steps(undisturbed.rows, other.rows),
        *_unequal_weights(undisturbed.weights, other.weights),
        *_unequal_evaluations(undisturbed, other),
        *unequal_points(undisturbed, other),
        *(f"{name} was left by a writing that was cut off" for name in other.unfinished),
    ]


def unequal_steps(expected: Iterable[Row], found: Iterable[Row], tolerance: float = 0.0) -> list[str]:
    """How the figures of a training's steps differ from those of another: steps that lack, and figures that are others, each time that
    a step was taken. Figures may differ by `tolerance` of the step's total loss; 0 is to the bit."""
    wanted = {row["step"]: row for row in expected}
    taken: dict[int, list[Row]] = {}
    for row in found:
        taken.setdefault(row["step"], []).append(row)
    told = [f"no figures of {_named('step', missing)}"] if (missing := sorted(wanted.keys() - taken.keys())) else []
    if extra := sorted(taken.keys() - wanted.keys()):
        told.append(f"figures of {_named('step', extra)}, which there should not be")
    unequal = [
        f"step {step}: {name} is {row.get(name)} and not {value}"
        for step in sorted(wanted.keys() & taken.keys())
        for row in taken[step]
        for name, value in _own(wanted[step]).items()
        if not _alike(value, row.get(name), tolerance * abs(wanted[step].get(TOTAL_LOSS, 0.0)))
    ]
    return [*told, *_first_of("figures", unequal)]


def unequal_points(undisturbed: Left, other: Left) -> list[str]:
    """How MLflow's numbers of a training differ from those of an undisturbed one: lacking, doubled, other values, in another order."""
    told = [f"{other.runs} MLflow runs for one training"] if other.runs != 1 else []
    if other.status != undisturbed.status:
        told.append(f"the MLflow run is {other.status}")
    places = Counter((name, step) for name, step, _ in other.points)
    told += _first_of("numbers in MLflow", [f"{name} of step {step} is there {n} times" for (name, step), n in places.items() if n > 1])
    wanted = {(name, step): value for name, step, value in undisturbed.points if not name.startswith(_OF_A_LOOP)}
    told += _first_of("numbers in MLflow", [f"{name} of step {step} is missing" for name, step in wanted if (name, step) not in places])
    unequal = [
        f"{name} of step {step} is {value} and not {wanted[name, step]}"
        for name, step, value in other.points
        if (name, step) in wanted and not name.startswith(_OF_THE_CLOCK) and value != wanted[name, step]
    ]
    told += _first_of("numbers in MLflow", unequal)
    last: dict[str, int] = {}
    backwards = []
    for name, step, _ in other.points:
        if step < last.get(name, step):
            backwards.append(f"{name} of step {step} came after that of step {last[name]}")
        last[name] = step
    return [*told, *_first_of("numbers in MLflow", backwards)]


def _unequal_weights(expected: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    names = sorted(expected.keys() | found.keys())
    return _first_of("tensors", [f"{name} has other bytes" for name in names if expected.get(name) != found.get(name)])


def _unequal_evaluations(undisturbed: Left, other: Left) -> list[str]:
    told = [] if undisturbed.best == other.best else [f"the best checkpoint is {other.best} and not {undisturbed.best}"]
    if list(undisturbed.evaluations) != list(other.evaluations):
        steps = [row["step"] for row in other.evaluations]
        told.append(f"other evaluations: of {_named('step', steps)}, and not of {[row['step'] for row in undisturbed.evaluations]}")
    return told


def _own(row: Row) -> Row:
    """The figures that follow from the training alone."""
    return {name: value for name, value in row.items() if not name.startswith(_OF_THE_CLOCK)}


def _alike(expected: Any, found: Any, allowed: float) -> bool:
    # As text, since what is no number is not equal to itself.
    return str(expected) == str(found) or (found is not None and bool(abs(expected - found) <= allowed))


def _named(what: str, numbers: Sequence[int]) -> str:
    return f"{what}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _first_of(what: str, told: Sequence[str]) -> list[str]:
    """The first, and how many more there are."""
    return [f"{told[0]} (and {len(told) - 1} more {what})" if len(told) > 1 else told[0]] if told else []
