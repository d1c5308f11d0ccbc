"""The models against the original's stored tensors. The two cheapest run always; `make parity` runs all and writes the table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from tests.parity.border import possible_turns
from tests.parity.deviation import STAGE_1, Deviation, in_spreads
from tests.parity.inference import inference_deviations
from tests.parity.operations import operation_deviations
from tests.parity.reference import REFERENCES, Reference
from tests.parity.report import main
from tests.parity.training import training_deviations

MODELS = [
    "resnet50",
    "inception_v2",
    pytest.param("resnet101", marks=pytest.mark.slow),
    pytest.param("inception_resnet_v2", marks=pytest.mark.slow),
]


def broken(rows: Iterator[Deviation]) -> list[Deviation]:
    return [row for row in rows if not row.holds]


@pytest.mark.parametrize("name", MODELS)
def test_everything_that_the_original_computed(name: str) -> None:
    reference = Reference(REFERENCES / f"{name}_small.npz")
    assert broken(inference_deviations(reference)) == []
    assert broken(training_deviations(reference)) == []
    unused = [index for index, layer in enumerate(reference["infer/endpoint_names"]) if "/block4" in layer]
    samples = {f"infer/endpoint_sample/{index:03d}" for index in unused}
    assert reference.unread == samples | {f"{sample}__flat_stride" for sample in samples}


def test_operations_without_a_network() -> None:
    assert broken(operation_deviations(REFERENCES / "ops.npz")) == []


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
