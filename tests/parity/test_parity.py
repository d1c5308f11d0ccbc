"""The models against the original's stored tensors. The two cheapest run always; `make parity` runs all and writes the table."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.parity.border import possible_turns
from tests.parity.deviation import STAGE_1, Deviation, in_spreads
from tests.parity.reference import REFERENCES, Reference
from tests.parity.report import main

CHEAP = ("ops", "resnet50_small", "inception_v2_small")
DEAR = ("resnet101_small", "inception_resnet_v2_small")


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


def test_a_reference_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--image-size", "800x1365", "--seed", "7"])
    assert caught.value.code == 2
    assert "no reference file is of that image size and seed" in capsys.readouterr().err
