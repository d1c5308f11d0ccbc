"""Configs and a dataset that the tests of this room share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.pipeline_config.edits import Records

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def records() -> Records:
    """Where a dataset of three classes would lie."""
    return Records(
        train_pattern="dataset/train.record-?????-of-00002",
        validation_pattern="dataset/val.record-?????-of-00001",
        label_map="dataset/label_map.pbtxt",
        mask_type="PNG_MASKS",
        num_classes=3,
    )


@pytest.fixture
def configs() -> Path:
    """The folder of the configs that the project ships."""
    return CONFIGS


@pytest.fixture(
    params=sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.config")),
    ids=lambda name: Path(name).stem,
)
def config_file(request: pytest.FixtureRequest) -> Path:
    """Each config that the project ships, in turn."""
    return CONFIGS / str(request.param)
