"""What evaluate makes of unusual validation records, with one small trained model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import yaml

from tasks.convert import convert
from tasks.evaluate import evaluate
from tasks.running.workspace import DatasetDir, ModelDir, StepResult
from tasks.train import train
from tasks.training.overrides import Overrides

BOX_AR, MASK_AR = "DetectionBoxes_Recall/AR@100", "DetectionMasks_Recall/AR@100"


@pytest.fixture(scope="module")
def model(scenes: DatasetDir, workspace: Path) -> ModelDir:
    model = ModelDir(workspace / "runs" / "test" / "mask_rcnn_inception_v2_coco")
    convert("mask_rcnn_inception_v2_coco", scenes, model)
    train(model, Overrides(image_size=64, steps=2, batch_size=1, proposals=30, seed=1))
    return model


@pytest.fixture
def evaluated(model: ModelDir, scenes: DatasetDir, tmp_path: Path) -> Callable[..., tuple[StepResult, dict[str, Any]]]:
    """A function: evaluates on the scenes' validation records, each changed by a function of its features and place."""

    def on(change: Callable[[Any, int], None]) -> tuple[StepResult, dict[str, Any]]:
        (shard,) = scenes.root.glob("val.record-*")
        changed = tmp_path / "val.record"
        with tf.io.TFRecordWriter(str(changed)) as writer:
            for place, serialized in enumerate(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator()):
                example = tf.train.Example.FromString(serialized)
                change(example.features.feature, place)
                writer.write(example.SerializeToString())
        trained = model.train / "experiment.yaml"
        values = yaml.safe_load(trained.read_text())
        values["task"]["validation_data"]["input_path"] = str(changed)
        trained.write_text(yaml.safe_dump(values))
        result = evaluate(model)
        return result, json.loads((model.evaluation / "metrics.json").read_text())

    return on


def as_they_are(features: Any, place: int) -> None:
    pass


def with_ids(*ids: int | str) -> Callable[[Any, int], None]:
    def change(features: Any, place: int) -> None:
        features["image/source_id"].bytes_list.value[:] = [str(ids[place]).encode()]

    return change


def without_objects(features: Any, place: int) -> None:
    for name in [name for name in features if name.startswith("image/object/")]:
        del features[name]


def crowds(features: Any, place: int) -> None:
    values = features["image/object/is_crowd"].int64_list.value
    values[:] = [1] * len(values)


def test_figures_are_printed_and_ids_of_64_bits_change_none(
    evaluated: Callable[..., tuple[StepResult, dict[str, Any]]], model: ModelDir, capsys: pytest.CaptureFixture[str]
) -> None:
    _, plain = evaluated(as_they_are)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"2 images with {plain['objects']} objects" in printed.out
    assert f"{plain['metrics'][MASK_AR]:.4f}" in next(line for line in printed.out.splitlines() if "AR@100 " in line)
    assert plain["metrics"][BOX_AR] > 0
    assert plain["unmeasured"]
    assert set(plain["unmeasured"]).isdisjoint(plain["metrics"])
    assert min(plain["metrics"].values()) >= 0

    ids = [2**63 + 12345, 17]
    _, hashed = evaluated(with_ids(*ids))
    assert hashed["metrics"] == pytest.approx(plain["metrics"])
    truth = json.loads((model.evaluation / "groundtruth.json").read_text())
    assert [image["id"] for image in truth["images"]] == ids
    for name in ("detections.json", "detections_boxes.json"):
        assert {one["image_id"] for one in json.loads((model.evaluation / name).read_text())} <= set(ids)
    assert "pycocotools itself" in capsys.readouterr().out
    assert {path.name for path in (model.evaluation / "pictures").iterdir()} == {f"{ids[0]}.png", "0017.png"}


def test_numbers_too_long_for_an_id_are_names(evaluated: Callable[..., tuple[StepResult, dict[str, Any]]], model: ModelDir) -> None:
    evaluated(with_ids("9" * 5000, 4))
    truth = json.loads((model.evaluation / "groundtruth.json").read_text())
    assert [image["id"] for image in truth["images"]] == [1, 4]


@pytest.mark.parametrize(("change", "words"), [(without_objects, "with 0 objects\n"), (crowds, "`crowds: objects`")])
def test_validation_without_an_object_is_told_and_measures_nothing(
    evaluated: Callable[..., tuple[StepResult, dict[str, Any]]],
    model: ModelDir,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Any, int], None],
    words: str,
) -> None:
    result, measured = evaluated(change)
    printed = capsys.readouterr().err
    assert "warning: nothing was measured, on 2 images with 0 objects" in printed
    assert words in printed
    assert measured["metrics"] == {}
    assert {BOX_AR, MASK_AR} <= set(measured["unmeasured"])
    assert (result.status, result.summary["mask_ap"], result.summary["box_ap"]) == ("done", None, None)
    # Not once only.
    assert evaluate(model).status == "skipped"
    assert "warning: nothing was measured" in capsys.readouterr().err
