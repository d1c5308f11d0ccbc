"""The models against the original's stored tensors. The cheapest run always; `make parity` runs all and writes the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.parity.border import possible_turns
from tests.parity.deviation import STAGE_1, Deviation, in_spreads
from tests.parity.reference import KERAS, REFERENCES, Reference, zoo_model
from tests.parity.report import main

CHEAP = ("ops", "settings", "inception_v2_small", "tf2/resnet50_mask_small")
DEAR = (
    "resnet50_small",
    "resnet101_small",
    "inception_resnet_v2_small",
    *(f"tf2/{name}_small" for name in KERAS if name != "resnet50_mask"),
)


@pytest.mark.parametrize("names", [CHEAP, pytest.param(DEAR, marks=pytest.mark.slow)], ids=" ".join)
def test_everything_that_the_original_computed(names: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    failures = main([str(REFERENCES / f"{name}.npz") for name in names])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "| **no** |" in line] == []
    assert (failures, sum(line.startswith("## ") for line in lines)) == (0, len(names))


def test_a_deviation_is_measured_in_standard_deviations() -> None:
    assert in_spreads([1.0, 2.5], [1.0, 2.0], 4.0) == 0.125
    assert not Deviation("x", float("nan"), STAGE_1).holds
    assert not Deviation("x", in_spreads([1.0], [1.0, 1.0], 1.0), STAGE_1).holds


def test_statistics_tell_what_the_stored_values_leave_out() -> None:
    reference = Reference(REFERENCES / "resnet50_small.npz")
    anchors = np.array(reference["infer/anchors"])
    assert reference.deviation("infer/anchors", anchors, STAGE_1).holds
    # Of the training graph's anchors only statistics are stored.
    assert not reference.deviation("train/anchors", anchors[:296], STAGE_1).holds


def test_a_turned_crop_ends_the_other_way_and_nothing_else_moves() -> None:
    proposals = tf.constant([[[20.0, 30.0, 128.0, 100.0], [52.0, 10.0, 128.0, 90.0], [7.0, 13.0, 60.0, 90.0]]])
    turns = possible_turns(proposals, tf.constant([128.0, 160.0]), (16, 20), 14)
    for turn in turns:
        change = (turn.proposals - proposals).numpy()
        ((_, box, axis),) = np.argwhere(change)
        assert (box in (0, 1), axis) == (True, 0)
        assert abs(change).max() < 1e-4
    assert turns


def changed(source: str, path: Path, meta: dict[str, Any] | None = None, drop: str = "-", **arrays: Any) -> Path:
    """A copy of a reference at `path`, without the arrays whose names begin with `drop`, and others in `meta` (None: gone) and `arrays`."""
    stored = {name: array for name, array in np.load(REFERENCES / f"{source}.npz").items() if not name.startswith(drop)} | arrays
    if meta:
        stored["meta"] = json.dumps({key: value for key, value in (json.loads(str(stored["meta"])) | meta).items() if value is not None})
    np.savez(path, **stored)
    return path


def test_a_failure_counts_though_another_file_of_its_title_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = changed("ops", tmp_path / "wrong.npz", **{"resize/0/true_shape": np.array([1, 2, 3])})
    assert main([str(wrong), str(REFERENCES / "ops.npz")]) == 1
    assert main([str(REFERENCES / "ops.npz"), str(wrong)]) == 1
    assert capsys.readouterr().out.count("| operations |") == 4


def test_a_reference_of_inference_alone_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = changed("inception_v2_small", tmp_path / "inference.npz", {"threads": 1, "train_proposals": None}, drop="train")
    assert main([str(file)]) == 0
    printed = capsys.readouterr().out
    assert "| inception_v2, 128x160, seed 0 | 1 |" in printed
    assert "train/" not in printed


@pytest.mark.parametrize("unsaid", ["proposals", "detections"])
def test_numbers_that_a_reference_does_not_tell_are_the_zoo_s(tmp_path: Path, unsaid: str) -> None:
    model = zoo_model(Reference(changed("inception_v2_small", tmp_path / "unsaid.npz", {unsaid: None})))
    told = {"proposals": model.first_stage.max_proposals, "detections": model.second_stage.max_total_detections}
    assert told == {"proposals": 40, "detections": 16} | {unsaid: 300}


def test_a_reference_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--image-size", "800x1365", "--seed", "7"])
    assert caught.value.code == 2
    assert "no reference file is of that image size and seed" in capsys.readouterr().err
