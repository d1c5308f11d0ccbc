"""A training that is evaluated and killed again and again against one that runs through; to the bit, since operations are deterministic."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from tasks.training.loop import _BetweenLoops

PROGRAM = Path(__file__).with_name("interrupted_training.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [sys.executable, PROGRAM, tmp_path_factory.mktemp("trainings")]
    done = subprocess.run(command, cwd=PROGRAM.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_kills_and_a_sigterm_change_no_loss_and_no_weight(trained: dict[str, Any]) -> None:
    through, interrupted = trained["through"], trained["interrupted"]
    assert [row["step"] for row in through["rows"]] == ["1", "2", "3", "4", "5", "6"]
    # The step, six losses, the norm, the rate, whether it was taken, what it sampled and what was cut off.
    assert len(through["rows"][0]) == 16
    assert interrupted["rows"] == through["rows"]
    assert len(through["weights"]) > 500
    assert interrupted["weights"] == through["weights"]
    # The orchestrator's sign to try again.
    assert trained["code"] == 143
    # Of the newest steps at which one was due, at which SIGTERM came, or that were evaluated.
    assert through["checkpoints"] == ["ckpt-2", "ckpt-4", "ckpt-6"]
    assert interrupted["checkpoints"] == ["ckpt-4", "ckpt-6"]


def test_an_evaluation_that_was_killed_is_done_again_and_counts_once(trained: dict[str, Any]) -> None:
    evaluations = trained["interrupted"]["evaluations"]
    assert [row["step"] for row in evaluations] == trained["evaluated"] == [3, 6]
    assert all("DetectionMasks_Precision/mAP" in row["metrics"] for row in evaluations)
    assert trained["through"]["evaluations"] == []


def test_a_skipped_step_is_taken_again_and_its_bad_part_named(trained: dict[str, Any]) -> None:
    again, kept = trained["replayed"], trained["through"]["skipped"]["step-4.json"]
    # From the checkpoint of two steps before, to the bit.
    assert Path(again["start"]).name == "ckpt-2"
    # Files have the fewest digits that name a float32.
    assert {name: np.float32(again["figures"][name]) for name in kept["figures"]} == {
        name: np.float32(value) for name, value in kept["figures"].items()
    }
    (image,) = again["images"]
    assert (image["record"], image["broken"]) == (kept["records"][0], ["weights"])
    # Alone, as it was in its batch of one.
    assert image["losses"]["Loss/total_loss"] == pytest.approx(kept["figures"]["Loss/total_loss"], rel=1e-7)
    assert again["broken_gradients"] == []


def test_averages_lie_beside_the_weights_and_come_back_too(trained: dict[str, Any]) -> None:
    averages = [name for name in trained["through"]["weights"] if name.startswith("averages/values/")]
    momenta = [name for name in trained["through"]["weights"] if "/.OPTIMIZER_SLOT/optimizer/momentum/" in name]
    assert len(averages) == len(momenta) > 200


def test_the_step_of_a_bad_record_is_skipped_and_kept_once(trained: dict[str, Any]) -> None:
    through = trained["through"]
    assert [row["finite"] for row in through["rows"]] == ["1.0", "1.0", "1.0", "0.0", "1.0", "1.0"]
    assert trained["interrupted"]["skipped"].keys() == through["skipped"].keys() == {"step-4.json"}
    kept = through["skipped"]["step-4.json"]
    (record,) = kept["records"]
    assert (kept["step"], kept["seed"], record["position"], record["record"], record["source_id"]) == (4, 1, 3, 2, "3")
    assert (kept["figures"]["finite"], kept["checkpoint"]) == (0.0, "ckpt-2")


@pytest.mark.parametrize(("in_doubt", "step", "evaluated"), [(False, 30, True), (True, 30, False), (True, 40, True)])
def test_what_would_save_weights_that_may_be_bad_is_not_done_before_the_end(in_doubt: bool, step: int, evaluated: bool) -> None:
    checkpoints, validation = Mock(last=None), Mock(is_enough=False)
    together = SimpleNamespace(of_chief=lambda value: value, any=lambda told: told)
    between = _BetweenLoops(
        SimpleNamespace(trainer=SimpleNamespace(train_steps=40, checkpoint_interval=10)),
        Mock(global_step=Mock(numpy=lambda: step)),
        checkpoints,
        Mock(told=False),
        Mock(steps=[]),
        Mock(in_doubt=in_doubt, look_at=lambda *_: []),
        validation,
        together,
    )
    between({})
    assert checkpoints.save.called is evaluated
    assert validation.evaluate.called is evaluated
