"""What evaluate makes of unusual validation records, with one small trained model."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import tensorflow as tf
import yaml

from tasks.coco.matches import write_matches
from tasks.convert import convert
from tasks.evaluate import Effort, evaluate, evaluate_from_matches, evaluate_results
from tasks.evaluation.batches import batches_of_one_size
from tasks.evaluation.latency import device_name, latency
from tasks.evaluation.measure import detector, measure
from tasks.evaluation.thresholds import Rule, read_thresholds
from tasks.input.batches import record_files
from tasks.input.config import DataConfig
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.errors import UserError
from tasks.running.workers import Workers
from tasks.running.workspace import DatasetDir, ModelDir, StepResult, read_json, write_json
from tasks.serving.trained_model import read_trained_model, restored_model
from tasks.tracking.store import tracking_uri
from tasks.train import train
from tasks.training.overrides import Overrides
from tests.coco.drawn_matches import drawn_models
from tests.evaluation.scene_records import write_scenes

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
        validate_on(model, input_path=str(changed), label_map_path=str(scenes.label_map))
        result = evaluate(model)
        return result, json.loads((model.evaluation / "metrics.json").read_text())

    return on


def validate_on(model: ModelDir, **data: str) -> None:
    """Has evaluations of the model read other records. Tests share the model in any order: each says which it wants."""
    trained = model.train / "experiment.yaml"
    values = yaml.safe_load(trained.read_text())
    values["task"]["validation_data"].update(data)
    trained.write_text(yaml.safe_dump(values))


@pytest.fixture
def of_scenes(model: ModelDir, scenes: DatasetDir) -> dict[str, Any]:
    """The metrics of the model's evaluation on the scenes as they were materialized, which lies in its folder."""
    validate_on(model, input_path=scenes.shard_pattern("val", 1), label_map_path=str(scenes.label_map), mask_type="PNG_MASKS")
    evaluate(model)
    metrics: dict[str, Any] = json.loads((model.evaluation / "metrics.json").read_text())
    return metrics


@pytest.fixture(scope="module")
def network(model: ModelDir) -> Any:
    return restored_model(read_trained_model(model.train))


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


SIZES = [(64, 80), (80, 64), (64, 80), (64, 80), (80, 64)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Five scenes of two sizes in three files."""
    folder = tmp_path_factory.mktemp("records")
    return DataConfig(
        input_path=write_scenes(folder, SIZES, 3), label_map_path=str(folder / "label_map.pbtxt"), is_training=False, global_batch_size=1
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def measured(network: MaskRCNN, data: DataConfig, folder: Path, **options: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    folder.mkdir()
    found = measure(network, data, folder, **options)
    del found["seconds_per_image"]
    return found, files_of(folder)


def test_batches_and_workers_find_what_one_image_after_the_other_does(network: MaskRCNN, data: DataConfig, tmp_path: Path) -> None:
    detect = detector(network)
    alone, files = measured(network, data, tmp_path / "alone", detect=detect)
    assert alone["images"] == 5
    with Workers(2, "tasks.evaluation.image_results") as workers:
        shared = measured(network, data, tmp_path / "shared", workers=workers, detect=detect)
    assert shared == (alone, files)
    _, batched = measured(network, data, tmp_path / "batched", batch_size=2, detect=detect)
    # Sums of another order differ in the last bits.
    one, other = (json.loads(found["detections_boxes.json"]) for found in (files, batched))
    assert len(one) > 50
    assert [(row["image_id"], row["category_id"]) for row in one] == [(row["image_id"], row["category_id"]) for row in other]
    np.testing.assert_allclose([row["score"] for row in one], [row["score"] for row in other], atol=1e-6)
    np.testing.assert_allclose([row["bbox"] for row in one], [row["bbox"] for row in other], atol=1e-3)


def test_images_beside_larger_ones_would_get_other_detections(network: MaskRCNN, data: DataConfig) -> None:
    """Why sizes are not padded to a common one."""
    first = str(record_files(data)[0])
    wide, tall = (batch for batch in batches_of_one_size(first, network.config.image_resizer, 1))
    detect = detector(network)
    padded = np.pad(wide.images, [(0, 0), (0, tall.images.shape[1] - wide.images.shape[1]), (0, 0), (0, 0)])
    alone, beside = (detect(images, wide.true_shapes) for images in (wide.images, padded))
    assert np.abs(alone["detection_scores"] - beside["detection_scores"]).max() > 1e-3


def test_parts_join_to_the_same_files_bit_for_bit(model: ModelDir, data: DataConfig, capsys: pytest.CaptureFixture[str]) -> None:
    validate_on(model, input_path=data.input_path, label_map_path=data.label_map_path)
    evaluate(model)
    whole = files_of(model.evaluation)
    shutil.rmtree(model.evaluation)
    assert not model.evaluation_parts.exists()
    with pytest.raises(UserError, match=r"--shard-range is 2:4.*\n.*within 0:3"):
        evaluate(model, effort=Effort(shard_range=(2, 4)))
    assert evaluate(model, effort=Effort(shard_range=(2, 3))).status == "part"
    assert not model.evaluation.exists()
    assert evaluate(model, effort=Effort(shard_range=(0, 1))).summary == {"parts": [0], "files": 3}
    capsys.readouterr()
    assert evaluate(model).status == "done"
    assert "2 of 3 parts are written already" in capsys.readouterr().out
    joined = files_of(model.evaluation)
    timed = json.loads(whole.pop("metrics.json")), json.loads(joined.pop("metrics.json"))
    assert joined == whole
    for one in timed:
        del one["latency"], one["seconds_per_image"]
    assert timed[0] == timed[1]
    assert not model.evaluation_parts.exists()


def test_figures_are_derived_again_from_the_matches_alone(model: ModelDir, of_scenes: dict[str, Any]) -> None:
    found = of_scenes
    assert len(found["metrics"]) > 20
    write_json(model.evaluation / "metrics.json", found | {"metrics": {}, "unmeasured": [], "images": 0})
    written = files_of(model.evaluation)
    for name in ("detections.json", "detections_boxes.json", "groundtruth.json"):
        (model.evaluation / name).unlink()
    for name in ("analysis", "slices"):
        shutil.rmtree(model.evaluation / name)
    assert evaluate_from_matches(model).status == "done"
    assert json.loads((model.evaluation / "metrics.json").read_text()) == found
    assert {name: content for name, content in written.items() if name.startswith(("analysis", "slices", "matches"))}.items() <= files_of(
        model.evaluation
    ).items()
    # The detections are not there, so an evaluation is no skipped one.
    assert evaluate(model).status == "done"
    assert written.keys() == files_of(model.evaluation).keys()


def test_detections_in_a_file_have_the_figures_of_the_evaluation_that_they_are_of(
    model: ModelDir, scenes: DatasetDir, of_scenes: dict[str, Any], tmp_path: Path
) -> None:
    """Our own detections, evaluated as if another program had found them; their boxes are the masks' extents then."""
    found = of_scenes
    for file, prefixes in (("detections.json", ("Masks", "Boundaries")), ("detections_boxes.json", ("Boxes",))):
        given = ModelDir(tmp_path / file)
        assert evaluate_results(given, model.evaluation / file, scenes).status == "done"
        again = json.loads((given.evaluation / "metrics.json").read_text())
        for prefix in prefixes:
            assert {name: value for name, value in again["metrics"].items() if name.startswith(f"Detection{prefix}_")} == {
                name: value for name, value in found["metrics"].items() if name.startswith(f"Detection{prefix}_")
            }
        assert (given.evaluation / "groundtruth.json").exists()
        assert again["dataset_digest"] == found["dataset_digest"]
        assert evaluate_results(given, model.evaluation / file, scenes).status == "skipped"
    with pytest.raises(UserError, match="was trained here"):
        evaluate_results(model, model.evaluation / "detections.json", scenes)
    with pytest.raises(UserError, match="has no split `test`"):
        evaluate_results(ModelDir(tmp_path / "new"), model.evaluation / "detections.json", scenes, "test")
    assert not (tmp_path / "new").exists()


def test_attributes_of_a_side_file_are_kept_with_the_matches(model: ModelDir, of_scenes: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "cameras.csv"
    ids = [image["id"] for image in json.loads((model.evaluation / "groundtruth.json").read_text())["images"]]
    file.write_text("image,camera\n" + "".join(f"{number},{'left' if place else 'right'}\n" for place, number in enumerate(ids)))
    before = of_scenes
    assert evaluate(model, effort=Effort(slices=file)).status == "done"
    after = json.loads((model.evaluation / "metrics.json").read_text())
    assert after["sliced_by"] == [*before["sliced_by"], "camera"]
    assert after["metrics"] == before["metrics"]
    # Without the file again.
    evaluate_from_matches(model)
    parts = json.loads((model.evaluation / "slices" / "camera" / "summary.json").read_text())["parts"]
    assert {name: one["images"] for name, one in parts.items()} == {"left": 1, "right": 1}


def test_operating_thresholds_are_chosen_from_the_matches_by_a_rule_that_stays(
    model: ModelDir, of_scenes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = model.evaluation
    chosen = read_thresholds(evaluation / "thresholds.json")
    assert chosen.chosen_on == {name: of_scenes[name] for name in ("split", "dataset", "dataset_digest", "checkpoint_digest")}
    # Two scenes have too few objects of any class.
    assert {one.source for one in chosen.categories} == {"the default"}
    rule = Rule(0.5)
    capsys.readouterr()
    assert evaluate(model, effort=Effort(rule=rule)).status == "done"
    assert "operating thresholds (precision=0.5)" in capsys.readouterr().out
    assert read_thresholds(evaluation / "thresholds.json").rule == rule
    # It stays until another is asked for, and is there again without the model.
    assert evaluate(model).status == evaluate(model, effort=Effort(rule=rule)).status == "skipped"
    (evaluation / "thresholds.json").unlink()
    assert evaluate_from_matches(model, rule=rule).status == "done"
    metrics = mlflow.tracking.MlflowClient(tracking_uri()).get_run(read_json(model.tracking)["run_id"]).data.metrics
    operating = json.loads((evaluation / "analysis" / "operating.json").read_text())["parts"]["all"]
    assert metrics["Operating/recall"] == operating["chosen"]["recall"]
    assert {name for name in metrics if name.startswith("Operating/threshold/")} == {
        f"Operating/threshold/{one.name}" for one in chosen.categories
    }


def test_the_split_test_chooses_no_thresholds_and_has_those_of_the_same_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ModelDir(tmp_path)
    for folder, split, seed in ((model.evaluation, "val", 1), (model.test_evaluation, "test", 2)):
        (matches,) = drawn_models(40, [0.7], 2.0, seed, split=split, dataset="d", checkpoint_digest="c")
        folder.mkdir()
        write_matches(folder / "matches.npz", matches)
        write_json(folder / "metrics.json", {})
    evaluate_from_matches(model, "test")
    assert "no operating thresholds: they are chosen on the validation records" in capsys.readouterr().out
    assert not (model.test_evaluation / "thresholds.json").exists()
    evaluate_from_matches(model, rule=Rule(0.8))
    assert "a little too good on them" in capsys.readouterr().out
    evaluate_from_matches(model, "test")
    assert "a little too good on them" not in capsys.readouterr().out
    chosen = (model.evaluation / "thresholds.json").read_bytes()
    assert (model.test_evaluation / "thresholds.json").read_bytes() == chosen
    told = [json.loads((folder / "analysis" / "operating.json").read_text()) for folder in (model.evaluation, model.test_evaluation)]
    on_val, on_test = (one["parts"]["all"] for one in told)
    assert (
        on_val["categories"]["one"]["threshold"]
        == on_test["categories"]["one"]["threshold"]
        == read_thresholds(model.evaluation / "thresholds.json").scores[1]
    )
    assert on_val["chosen"]["precision"] >= 0.8
    assert on_test["chosen"] != on_val["chosen"]
    # Another checkpoint has scores of its own.
    (other,) = drawn_models(40, [0.7], 2.0, 2, split="test", dataset="d", checkpoint_digest="another")
    write_matches(model.test_evaluation / "matches.npz", other)
    evaluate_from_matches(model, "test")
    assert not (model.test_evaluation / "thresholds.json").exists()


@pytest.mark.usefixtures("of_scenes")
def test_without_matches_there_is_nothing_to_derive(model: ModelDir) -> None:
    (model.evaluation / "matches.npz").write_bytes(b"no matches")
    with pytest.raises(UserError, match=r"matches.npz is no evaluation's matches"):
        evaluate_from_matches(model)
    shutil.rmtree(model.evaluation)
    with pytest.raises(UserError, match=r"metrics.json does not exist"):
        evaluate_from_matches(model)


def test_latency_is_told_with_the_device_and_the_machine(network: MaskRCNN, data: DataConfig) -> None:
    found = latency(detector(network), network.config.image_resizer, data, 2)
    assert set(found["seconds_per_image"]) == {"1", "2"}
    for one in found["seconds_per_image"].values():
        assert 0 < one["p50"] <= one["p95"]
        assert 3 <= one["runs"] <= 50
    assert (found["device"], found["machine"]) == (device_name(), platform.node())
    # Three of the five images are of this size.
    assert found["image_size"] == [64, 80]
