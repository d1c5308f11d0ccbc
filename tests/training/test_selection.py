"""Which checkpoint is the best, and when it is enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.checkpoints.own_checkpoint import best_checkpoint, chosen_checkpoint
from tasks.running.errors import UserError
from tasks.training.selection import Selection, forget_best, metric_named

MASK_AP, BOX_AP = "DetectionMasks_Precision/mAP", "DetectionBoxes_Precision/mAP"


def measured(folder: Path, *values: float, metric: str = MASK_AP) -> Selection:
    """A training that was evaluated at steps 10, 20 and so on, with all its checkpoints."""
    selection = Selection(folder, metric, start_step=0)
    for number, value in enumerate(values, start=1):
        (folder / f"ckpt-{10 * number}.index").touch()
        selection.add(10 * number, {MASK_AP: value, BOX_AP: 1.0 - value})
    return selection


def test_the_highest_is_the_best_and_the_later_of_equal_ones(tmp_path: Path) -> None:
    selection = measured(tmp_path, 0.2, 0.4, 0.4, 0.3)
    assert (selection.best, selection.best_value, selection.count) == (tmp_path / "ckpt-30", 0.4, 4)
    # Only 0.4 was an improvement, once.
    assert selection.without_improvement == 2
    assert best_checkpoint(tmp_path) == tmp_path / "ckpt-30"
    assert chosen_checkpoint(tmp_path) == tmp_path / "ckpt-30"
    assert chosen_checkpoint(tmp_path, "last") == tmp_path / "ckpt-40"
    # What is not there any more is not the best.
    (tmp_path / "ckpt-30.index").unlink()
    assert chosen_checkpoint(tmp_path, "best") is None
    assert chosen_checkpoint(tmp_path) == tmp_path / "ckpt-40"
    assert Selection(tmp_path, MASK_AP, 40).best == tmp_path / "ckpt-20"


def test_another_metric_has_another_best(tmp_path: Path) -> None:
    measured(tmp_path, 0.2, 0.4)
    assert Selection(tmp_path, BOX_AP, 20).best == tmp_path / "ckpt-10"
    assert json.loads((tmp_path / "evaluations.json").read_text())["best"] == {"checkpoint": "ckpt-10", "step": 10, "value": 0.8}


def test_what_a_killed_process_measured_is_measured_again(tmp_path: Path) -> None:
    measured(tmp_path, 0.2, 0.1, 0.4)
    again = Selection(tmp_path, MASK_AP, start_step=20)
    assert [again.has(step) for step in (10, 20, 30)] == [True, True, False]
    assert (again.best, again.without_improvement) == (tmp_path / "ckpt-10", 1)


def test_a_training_that_goes_on_without_evaluations_has_no_best(tmp_path: Path) -> None:
    forget_best(tmp_path)
    measured(tmp_path, 0.4, 0.2)
    forget_best(tmp_path)
    assert chosen_checkpoint(tmp_path) == tmp_path / "ckpt-20"
    assert Selection(tmp_path, MASK_AP, 20).best == tmp_path / "ckpt-10"


def test_a_metric_that_the_records_do_not_give_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DetectionMasks_Precision/mAP cannot be measured"):
        Selection(tmp_path, MASK_AP, 0).add(10, {BOX_AP: 0.5})
    (tmp_path / "evaluations.json").write_text("[]")
    with pytest.raises(UserError, match=r"evaluations.json is not what `maskline train` writes"):
        best_checkpoint(tmp_path)


def test_metrics_go_by_short_and_full_names() -> None:
    assert metric_named("", stages=3) == metric_named("mask_ap", stages=3) == MASK_AP
    assert metric_named("", stages=2) == BOX_AP
    assert metric_named("DetectionMasks_Recall/AR@100", stages=3) == "DetectionMasks_Recall/AR@100"
    with pytest.raises(UserError, match="has no masks"):
        metric_named("mask_ap", stages=2)
    with pytest.raises(UserError, match=r"--best-metric is 'loss'.*\n.*mask_ap, mask_ap50, box_ap, box_ap50"):
        metric_named("loss", stages=3)
