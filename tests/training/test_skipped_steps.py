"""Skipped steps: named by their records, and bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from official.core import config_definitions as cfg

from tasks.input.config import DataConfig
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir
from tasks.training.experiment import mask_rcnn_zoo
from tasks.training.skipped_steps import SkippedSteps

GOOD = {"Loss/total_loss": 1.0, "gradient_norm": 2.0, "finite": 1.0}
BAD = {"Loss/total_loss": float("nan"), "gradient_norm": float("inf"), "finite": 0.0}


@pytest.fixture
def experiment(scenes: DatasetDir) -> cfg.ExperimentConfig:
    """Batches of two of four scenes, in the order of the file."""
    values = mask_rcnn_zoo()
    records = str(next(scenes.root.glob("train.record-*")))
    values.task.train_data = DataConfig(input_path=records, global_batch_size=2, shuffle=False, seed=5)
    return values


def skipped(experiment: cfg.ExperimentConfig, tmp_path: Path, start_step: int = 0) -> SkippedSteps:
    return SkippedSteps(experiment, tmp_path / "skipped_steps", start_step)


def test_a_step_names_its_records_and_is_kept_for_whoever_looks_into_it(experiment: cfg.ExperimentConfig, tmp_path: Path) -> None:
    (tmp_path / "ckpt-1.index").touch()
    (line,) = skipped(experiment, tmp_path).look_at([GOOD, BAD, GOOD], last_step=4)
    file = tmp_path / "skipped_steps" / "step-3.json"
    assert line == (
        "step 3 was skipped: Loss/total_loss, gradient_norm are no finite number; "
        f"its records: train.record-00000-of-00001 record 0 (1), train.record-00000-of-00001 record 1 (2); see {file}"
    )
    kept = json.loads(file.read_text())
    # Two epochs of two steps: the third step begins again.
    assert [(one["position"], one["record"], one["source_id"]) for one in kept["records"]] == [(4, 0, "1"), (5, 1, "2")]
    assert kept["figures"] == {"Loss/total_loss": "nan", "gradient_norm": "inf", "finite": 0.0}
    assert (kept["checkpoint"], kept["seed"]) == ("ckpt-1", 5)


def test_the_first_stops_a_training_that_is_told_so(experiment: cfg.ExperimentConfig, tmp_path: Path) -> None:
    experiment.trainer.on_nan = "stop"
    with pytest.raises(UserError, match=r"^step 2 was skipped: .*; there is no checkpoint yet") as error:
        skipped(experiment, tmp_path).look_at([GOOD, BAD, GOOD], last_step=3)
    assert "--on-nan skip" in error.value.fix


def test_ten_in_a_row_are_too_many_over_any_number_of_loops(experiment: cfg.ExperimentConfig, tmp_path: Path) -> None:
    steps = skipped(experiment, tmp_path)
    assert not steps.in_doubt
    steps.look_at([GOOD, BAD], last_step=10)
    assert not steps.in_doubt
    assert len(steps.look_at([BAD] * 8, last_step=18)) == 6
    assert steps.in_doubt
    (tmp_path / "ckpt-9.index").touch()
    with pytest.raises(UserError, match=r"10 steps in a row were skipped: step 19 .*ckpt-9 is the last good checkpoint") as error:
        steps.look_at([BAD, GOOD], last_step=20)
    assert "lower --learning-rate" in error.value.fix


def test_one_in_a_hundred_is_the_most_of_all(experiment: cfg.ExperimentConfig, tmp_path: Path) -> None:
    steps = skipped(experiment, tmp_path)
    for last in range(100, 1100, 100):
        steps.look_at([BAD, GOOD], last_step=last)
    # 10 of 1000, whose files a training that goes on from there counts.
    again = skipped(experiment, tmp_path, start_step=1000)
    again.look_at([BAD, GOOD], last_step=1101)
    with pytest.raises(UserError, match="12 of 1102 steps were skipped: step 1102 "):
        again.look_at([BAD], last_step=1102)


def test_what_a_killed_process_skipped_is_skipped_again_and_counted_once(experiment: cfg.ExperimentConfig, tmp_path: Path) -> None:
    skipped(experiment, tmp_path).look_at([BAD, GOOD, BAD], last_step=8)
    skipped(experiment, tmp_path, start_step=7)
    assert [file.name for file in (tmp_path / "skipped_steps").iterdir()] == ["step-6.json"]


@pytest.mark.parametrize("value", ["", "raise"])
def test_another_answer_is_refused(value: Any) -> None:
    from tasks.training.overrides import Overrides

    with pytest.raises(UserError, match="--on-nan is"):
        Overrides(on_nan=value)
