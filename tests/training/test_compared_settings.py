"""The parameters that a person compares, against the words of the zoo's own configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.convert import convert
from tasks.records.label_map import LabelMap
from tasks.records.record_set import RecordSet
from tasks.running.workspace import ModelDir
from tasks.training.compared_settings import compared_settings
from tasks.training.experiment import load_experiment

RECORDS = RecordSet("pets", "ab" * 32, Path("pets"), {"train": {"images": 6}, "val": {"images": 2}}, LabelMap({1: "cat"}), Path("pets"), {})


def settings(tmp_path: Path, config: str, *assignments: str) -> dict[str, Any]:
    model = ModelDir(tmp_path / config)
    convert(config, None, model, assignments=assignments)
    return compared_settings(load_experiment(model.experiment), RECORDS)


def test_two_models_of_the_zoo_differ_where_their_configs_do(tmp_path: Path) -> None:
    deep, small = (settings(tmp_path, config) for config in ("mask_rcnn_resnet101_atrous_coco", "mask_rcnn_inception_v2_coco"))
    assert 25 <= len(deep) <= 35
    assert all(isinstance(value, str | int | float) for value in deep.values())
    differing = {name: (deep[name], small[name]) for name in deep if deep[name] != small.get(name)}
    assert differing == {
        "backbone": ("resnet101", "inception_v2"),
        "feature_stride": (8, 16),
        "anchor_stride": ("8x8", "16x16"),
        "mask": ("33x33", "15x15"),
        "mask_conv_layers": (4, 2),
        "learning_rate": (0.0003, 0.0002),
        "learning_rate_details": (
            "boundaries [899999, 1199999], values [0.0003, 3e-05, 3e-06]",
            "boundaries [899999, 1199999], values [0.0002, 2e-05, 2e-06]",
        ),
    }
    assert (deep["dataset"], deep["train_images"], deep["val_images"]) == ("pets", 6, 2)
    assert (deep["augmentations"], deep["image_size"], deep["proposals"]) == ("random_horizontal_flip", "800 to 1365", 300)


@pytest.mark.parametrize(
    ("schedule", "kind", "rate", "warmup"),
    [
        (
            "cosine_decay_learning_rate={learning_rate_base: 0.002 total_steps: 90 warmup_learning_rate: 0.0005 warmup_steps: 10}",
            "cosine",
            0.002,
            10,
        ),
        ("constant_learning_rate.learning_rate=0.004", "constant", 0.004, None),
        ("exponential_decay_learning_rate={initial_learning_rate: 0.006 decay_steps: 7}", "exponential", 0.006, None),
    ],
)
def test_every_schedule_tells_its_first_rate(tmp_path: Path, schedule: str, kind: str, rate: float, warmup: int | None) -> None:
    path = "train_config.optimizer.momentum_optimizer.learning_rate."
    found = settings(tmp_path, "mask_rcnn_resnet50_atrous_coco", path + schedule)
    assert found["learning_rate"] == rate
    assert kind in found["learning_rate_schedule"]
    assert found.get("warmup_steps") == warmup
