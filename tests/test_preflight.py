"""What a later step would refuse is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.materialize import materialize
from tasks.pipeline_config.fine_tuning import StartingPoint
from tasks.preflight import Evaluated, preflight
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir

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


@pytest.fixture(scope="module")
def materialized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("materialized")
    (folder / "scenes.yaml").write_text("name: scenes\nshapes: {train: 1, val: 1, height: 64, width: 80}\n")
    materialize(folder / "scenes.yaml", folder / "records")
    return folder / "records"


def test_a_materialized_dataset_stays_as_it_is(materialized: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in materialized.rglob("*")}
    assert preflight(materialized, []).summary["dataset"] == "scenes"
    again = materialize(materialized)
    assert (again.status, again.outputs["dataset"], again.summary["changed"]) == ("skipped", str(materialized), False)
    assert {path: path.stat().st_mtime_ns for path in materialized.rglob("*")} == before


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({}, "neither a model nor a file"),
        ({"predictor": Path("model"), "results": Path("found.json")}, "are two things"),
        ({"results": Path("nowhere.json")}, "nowhere.json cannot be opened"),
        ({"results": Path(__file__)}, "is not valid JSON"),
        ({"predictor": Path("nowhere")}, "nowhere does not exist"),
        ({"predictor": Path(__file__), "slices": Path("nowhere.csv")}, "nowhere.csv cannot be"),
    ],
)
def test_what_cannot_be_evaluated(dataset: Path, tmp_path: Path, asked: dict[str, Path], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        preflight(dataset, [], evaluated=Evaluated(ModelDir(tmp_path / "new"), **asked))


def test_detections_of_other_categories_are_refused_where_the_records_are_there(materialized: Path, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    found.write_text('[{"image_id": 1, "category_id": 77, "score": 0.5, "bbox": [1, 1, 2, 2]}]')
    evaluated = Evaluated(ModelDir(tmp_path / "new"), results=found)
    assert preflight(materialized.parent / "scenes.yaml", [], evaluated=evaluated).status == "done"
    with pytest.raises(UserError, match="its category_id is 77, and the label map has 1, 2, 3, 4"):
        preflight(materialized, [], evaluated=evaluated)
    (tmp_path / "new" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="was trained here"):
        preflight(materialized, [], evaluated=evaluated)
