"""Whether the drills tell a training that is as if undisturbed from one that is not."""

from __future__ import annotations

import dataclasses
import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tasks.running.workspace import ModelDir
from tests.drills.left import TOTAL_LOSS, Left, differences, left_by, unequal_steps, unfinished

STEPS = (1, 2, 3)


def row(step: int, loss: float = 0.5, time: float = 0.0) -> dict[str, Any]:
    return {"step": step, "time": time, "step/seconds": time / 2, TOTAL_LOSS: loss + step, "finite": 1.0}


def points(time: float = 0.0) -> list[tuple[str, int, float]]:
    return [(name, step, value) for step in STEPS for name, value in ((TOTAL_LOSS, 0.5 + step), ("step/seconds", time))]


UNDISTURBED = Left(
    rows=[row(step) for step in STEPS],
    weights={"kernel": 1, "momentum": 2},
    best="ckpt-2",
    evaluations=[{"step": 2, "metrics": {"mAP": 0.25}}],
    points=[*points(), ("system/memory", 3, 7.0)],
)
# Killed after step 2, gone on from step 1; a loop more or less, and another clock.
DISTURBED = dataclasses.replace(
    UNDISTURBED,
    rows=[row(step, time=9.0) for step in (1, 2, 2, 3)],
    points=[*points(time=9.0), ("system/memory", 1, 8.0), ("system/memory", 3, 8.0)],
)


def test_a_disturbed_training_may_differ_in_the_clock_and_in_how_often_a_step_was_taken() -> None:
    assert differences(UNDISTURBED, UNDISTURBED) == []
    assert differences(UNDISTURBED, DISTURBED) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rows": [row(1), row(3)]}, "no figures of step 2"),
        ({"rows": [*UNDISTURBED.rows, row(4)]}, "figures of step 4, which there should not be"),
        # The last time is right; the first was not.
        ({"rows": [row(1), row(2, loss=0.25), row(2), row(3)]}, "step 2: Loss/total_loss is 2.25 and not 2.5"),
        ({"rows": [row(1), row(2), row(3) | {"finite": 0.0}]}, "step 3: finite is 0.0 and not 1.0"),
        ({"rows": [row(1), row(2), {"step": 3}]}, "step 3: Loss/total_loss is None and not 3.5 (and 1 more figures)"),
        ({"weights": {"kernel": 1, "momentum": 3}}, "momentum has other bytes"),
        ({"weights": {"kernel": 1}}, "momentum has other bytes"),
        ({"best": "ckpt-3"}, "the best checkpoint is ckpt-3 and not ckpt-2"),
        ({"evaluations": UNDISTURBED.evaluations * 2}, "other evaluations: of steps 2, 2, and not of [2]"),
        ({"evaluations": [{"step": 2, "metrics": {"mAP": 0.5}}]}, "other evaluations: of step 2, and not of [2]"),
        ({"unfinished": ["ckpt-2.data-00000-of-00001"]}, "ckpt-2.data-00000-of-00001 was left by a writing that was cut off"),
        ({"runs": 2}, "2 MLflow runs for one training"),
        ({"status": "RUNNING"}, "the MLflow run is RUNNING"),
        ({"points": points()[:-2]}, "Loss/total_loss of step 3 is missing (and 1 more numbers in MLflow)"),
        ({"points": [*points(), ("step/seconds", 3, 1.0)]}, "step/seconds of step 3 is there 2 times"),
        ({"points": [(TOTAL_LOSS, 1, 1.0), *points()[1:]]}, "Loss/total_loss of step 1 is 1.0 and not 1.5"),
        (
            {"points": [*points()[2:4], *points()[:2], *points()[4:]]},
            "Loss/total_loss of step 1 came after that of step 2 (and 1 more numbers in MLflow)",
        ),
    ],
)
def test_what_is_not_as_it_should_be_is_told(changes: dict[str, Any], told: str) -> None:
    assert differences(UNDISTURBED, dataclasses.replace(UNDISTURBED, **changes)) == [told]


def test_figures_that_are_no_number_are_alike_and_others_are_held_to_the_tolerance() -> None:
    nan = [row(1) | {TOTAL_LOSS: math.nan}]
    assert unequal_steps(nan, nan) == []
    assert unequal_steps([row(1)], nan) == ["step 1: Loss/total_loss is nan and not 1.5"]
    assert unequal_steps([row(1)], nan, tolerance=1e-5) == ["step 1: Loss/total_loss is nan and not 1.5"]
    near, far = ([row(1) | {TOTAL_LOSS: 1.5 * (1 + deviation)}] for deviation in (0.9e-5, 1.1e-5))
    assert unequal_steps([row(1)], near) != []
    assert unequal_steps([row(1)], near, tolerance=1e-5) == []
    assert unequal_steps([row(1)], far, tolerance=1e-5) != []


def test_what_a_training_left_is_read_from_its_files_and_from_the_database(tmp_path: Path) -> None:
    model = ModelDir(tmp_path / "model")
    model.train.mkdir(parents=True)
    (model.train / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 2}\n{"st')
    best = {"checkpoint": "ckpt-2", "step": 2, "value": 0.25}
    (model.train / "evaluations.json").write_text(json.dumps({"best": best, "evaluations": UNDISTURBED.evaluations}))
    # The form of MLflow's tables.
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (run_uuid TEXT, status TEXT, start_time INT)")
        database.execute("CREATE TABLE metrics (key TEXT, step INT, value REAL)")
        database.executemany("INSERT INTO runs VALUES (?, ?, ?)", [("b", "FINISHED", 2), ("a", "FAILED", 1)])
        database.executemany("INSERT INTO metrics VALUES (?, ?, ?)", [("loss", 2, 0.5), ("loss", 1, 0.25)])
    left = left_by(model, tmp_path / "mlflow.db")
    assert [row["step"] for row in left.rows] == [1, 2, 2]
    assert (left.best, left.evaluations, left.weights) == ("ckpt-2", UNDISTURBED.evaluations, {})
    assert (left.runs, left.status, left.points) == (2, "FINISHED", [("loss", 2, 0.5), ("loss", 1, 0.25)])


def test_files_of_a_writing_that_was_cut_off_are_seen(tmp_path: Path) -> None:
    whole = ["ckpt-1.index", "ckpt-1.data-00000-of-00001", "metrics.jsonl", "result.json", "checkpoint", ".tracking.lock"]
    torn = ["ckpt-2.data-00000-of-00001", "ckpt-2.index.tempstate123", "ckpt-3_temp", ".result.json.x1y2"]
    for name in (*whole, *torn):
        (tmp_path / name).touch()
    assert unfinished(tmp_path) == set(torn)
