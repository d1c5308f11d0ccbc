"""Every name goes to MLflow and comes back."""

from __future__ import annotations

import itertools

import pytest
from mlflow.utils.validation import _validate_metric_name

from tasks.coco.figures import SUMMARY_NAMES
from tasks.tracking import mlflow_name, original_name

ORIGINAL_NAMES = [f"Detection{kind}_{name}" for kind in ("Boxes", "Masks") for name in SUMMARY_NAMES]
AWKWARD_NAMES = [
    "Loss/RPNLoss/localization_loss",
    "DetectionMasks_PerformanceByCategory/mAP/salt & pepper",
    "DetectionMasks_PerformanceByCategory/mAP/café (crème)",
    "DetectionMasks_PerformanceByCategory/mAP/A/C unit",
    "DetectionMasks_PerformanceByCategory/mAP/..",
    "/leading",
    "trailing/",
    "two//slashes///and three",
    "./here/./there",
    ":at:",
    "a:colon:b",
    "line\nbreak\n",
    "x2f:/:",
]


@pytest.mark.parametrize("name", ORIGINAL_NAMES + AWKWARD_NAMES)
def test_mlflow_takes_the_name_and_it_comes_back(name):
    _validate_metric_name(mlflow_name(name))
    assert original_name(mlflow_name(name)) == name


def test_no_two_names_meet():
    names = ["".join(letters) for length in range(1, 6) for letters in itertools.product("a:@(/.", repeat=length)]
    mapped = [mlflow_name(name) for name in names]
    assert len(set(mapped)) == len(names)
    assert [original_name(name) for name in mapped] == names


def test_documented_example():
    assert mlflow_name("DetectionMasks_Recall/AR@100 (small)") == "DetectionMasks_Recall/AR:at:100 :open:small:close:"


def test_names_that_mlflow_takes_stay():
    assert mlflow_name("Loss/BoxClassifierLoss/mask_loss") == "Loss/BoxClassifierLoss/mask_loss"
