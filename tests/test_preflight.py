"""What a later step would refuse is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.pipeline_config.fine_tuning import StartingPoint
from tasks.preflight import preflight
from tasks.running.errors import UserError

CONFIG = "mask_rcnn_inception_v2_coco"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "scenes.yaml"
    path.write_text("name: scenes\nshapes: {train: 4, val: 2}\n")
    return path


def test_what_can_be_done_is_accepted_and_nothing_written(dataset: Path) -> None:
    before = sorted(dataset.parent.rglob("*"))
    result = preflight(dataset, [CONFIG], assignments=["train_config.batch_size=2"], shard_ranges=["2:4", "0:2"])
    assert result.summary == {"dataset": "scenes", "configs": [CONFIG]}
    assert sorted(dataset.parent.rglob("*")) == before


def test_a_dataset_alone_is_enough(dataset: Path) -> None:
    assert preflight(dataset, []).status == "done"


def test_a_dataset_that_is_not_there(dataset: Path) -> None:
    with pytest.raises(UserError, match=r"scenez.yaml: the dataset's YAML cannot be opened"):
        preflight(dataset.with_name("scenez.yaml"), [CONFIG])


def test_a_config_that_is_not_there(dataset: Path) -> None:
    with pytest.raises(UserError, match="there is no config mask_rcnn_inception_v3_coco") as caught:
        preflight(dataset, [CONFIG, "mask_rcnn_inception_v3_coco"])
    assert CONFIG in caught.value.fix


def test_a_field_that_no_config_has(dataset: Path) -> None:
    with pytest.raises(UserError, match="train_config has no field btch_size") as caught:
        preflight(dataset, [CONFIG], assignments=["train_config.btch_size=2"])
    assert "batch_size" in caught.value.fix


def test_a_checkpoint_that_is_not_there(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.ckpt does not exist"):
        preflight(dataset, [CONFIG], start=StartingPoint(tmp_path / "model.ckpt"))


def test_a_label_map_of_no_checkpoint(dataset: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint to start from"):
        preflight(dataset, [CONFIG], start=StartingPoint(label_map="coco"))


@pytest.mark.parametrize("ranges", [["0:3", "2:4"], ["4:6", "0:5"], ["0:3", "0:3"]])
def test_ranges_that_share_a_shard(dataset: Path, ranges: list[str]) -> None:
    with pytest.raises(UserError, match="overlap"):
        preflight(dataset, [CONFIG], shard_ranges=ranges)
