"""Train and evaluate on records as the original's tools write them, by a config that names them itself: no dataset is materialized."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from mlflow import MlflowClient

from tasks.convert import convert
from tasks.evaluate import evaluate
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir
from tasks.train import objects_cut_off, train
from tasks.training.experiment import load_experiment
from tasks.training.overrides import Overrides
from tasks.training.records import records_read

ZOO = Path(__file__).resolve().parents[1] / "configs" / "zoo" / "mask_rcnn_resnet50_atrous_coco.config"
HEIGHT, WIDTH = 48, 64
# A cat and a dog, (top, left, bottom, right) in pixels.
OBJECTS = {"cat": (8, 4, 32, 28), "dog": (20, 34, 44, 60)}


def example(source_id: str, mask_type: str, seed: int) -> bytes:
    """One image with both objects, each with its whole box as the mask; classes by name only, and no areas."""
    image = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    masks = np.zeros((len(OBJECTS), HEIGHT, WIDTH), np.uint8)
    for mask, (top, left, bottom, right) in zip(masks, OBJECTS.values(), strict=True):
        image[top:bottom, left:right] = 200
        mask[top:bottom, left:right] = 1
    jpeg = tf.io.encode_jpeg(image).numpy()
    sides = zip(("ymin", "xmin", "ymax", "xmax"), zip(*OBJECTS.values(), strict=True), (HEIGHT, WIDTH, HEIGHT, WIDTH), strict=True)
    features: dict[str, Any] = {
        "image/height": int64(HEIGHT),
        "image/width": int64(WIDTH),
        "image/filename": texts(f"{source_id}.jpg"),
        "image/source_id": texts(source_id),
        "image/key/sha256": texts(hashlib.sha256(jpeg).hexdigest()),
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg])),
        "image/format": texts("jpeg"),
        "image/object/class/text": texts(*OBJECTS),
        "image/object/is_crowd": int64(0, 0),
        **{f"image/object/bbox/{side}": floats([value / size for value in values]) for side, values, size in sides},
    }
    if mask_type == "PNG_MASKS":
        pngs = [tf.io.encode_png(mask[..., np.newaxis]).numpy() for mask in masks]
        features["image/object/mask"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=pngs))
    else:
        features["image/object/mask"] = floats(masks.ravel())
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def int64(*values: int) -> Any:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def floats(values: Any) -> Any:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def texts(*values: str) -> Any:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode() for value in values]))


def write_records(folder: Path, mask_type: str, shard: str) -> None:
    """Two training images in two shards, images 7 and 9 to evaluate on, and a label map whose ids have a gap."""
    folder.mkdir(parents=True)
    for name, ids in (("train", ["1", "2"]), ("val", ["7", "9"])):
        for index, source_id in enumerate(ids):
            with tf.io.TFRecordWriter(str(folder / f"{name}{shard.format(index=index)}")) as writer:
                writer.write(example(source_id, mask_type, int(source_id)))
    (folder / "labels.pbtxt").write_text("item {\n  id: 1\n  name: 'cat'\n}\n\nitem {\n  id: 3\n  name: 'dog'\n}\n")


def write_config(path: Path, records: str, pattern: str, num_classes: int = 3) -> Path:
    """The zoo's config with its own records filled in by hand, as its user had it."""
    text = ZOO.read_text().replace("num_classes: 90", f"num_classes: {num_classes}")
    text = text.replace("PATH_TO_BE_CONFIGURED/label_map.pbtxt", f"{records}/labels.pbtxt")
    for split, placeholder in (("train", "train.record-?????-of-00100"), ("val", "val.record-?????-of-00010")):
        text = text.replace(f"PATH_TO_BE_CONFIGURED/{placeholder}", f"{records}/{split}{pattern}")
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("mask_type", "shard", "pattern"),
    [
        ("PNG_MASKS", ".record-{index:05d}-of-00002", ".record-?????-of-00002"),
        # `convert` finds out that the masks are dense, whatever the config says.
        pytest.param("NUMERICAL_MASKS", ".record-{index:05d}-00002", ".record-*", marks=pytest.mark.slow),
    ],
)
def test_a_config_s_own_records_are_trained_and_evaluated_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask_type: str, shard: str, pattern: str
) -> None:
    # A folder that a careless reader would take for a pattern; checkpoints lie in it too.
    tmp_path /= "set [1]"
    tmp_path.mkdir()
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_records(tmp_path / "data" / "pets", mask_type, shard)
    # Relative paths, which the original takes from the working directory.
    config = write_config(tmp_path / "own.config", "data/pets", pattern)
    model = ModelDir(tmp_path / "models" / "own")
    convert(str(config), None, model)
    train(model, Overrides(image_size=64, steps=2, learning_rate=0.003, proposals=4))
    result = json.loads((model.train / "result.json").read_text())
    assert result["steps"] == 2
    assert all(np.isfinite(loss) for loss in result["losses"].values())
    train(model, Overrides(image_size=64, steps=4, learning_rate=0.003, proposals=4))
    assert [row["step"] for row in map(json.loads, (model.train / "metrics.jsonl").read_text().splitlines())] == [1, 2, 3, 4]
    assert sorted(file.name for file in model.train.glob("ckpt-*.index")) == ["ckpt-3.index", "ckpt-4.index"]

    evaluate(model)
    truth = json.loads((model.evaluation / "groundtruth.json").read_text())
    assert [(image["id"], image["file_name"]) for image in truth["images"]] == [(7, "7.jpg"), (9, "9.jpg")]
    assert [(category["id"], category["name"]) for category in truth["categories"]] == [(1, "cat"), (3, "dog")]
    # COCO's boxes are x, y, width, height.
    expected = [[left, top, right - left, bottom - top] for top, left, bottom, right in OBJECTS.values()] * 2
    np.testing.assert_allclose([one["bbox"] for one in truth["annotations"]], expected, atol=1e-4)
    assert [one["category_id"] for one in truth["annotations"]] == [1, 3, 1, 3]
    assert [one["area"] for one in truth["annotations"]] == pytest.approx([24 * 24, 24 * 26] * 2)
    # The model has a class 2, which the label map has not.
    assert {one["category_id"] for one in json.loads((model.evaluation / "detections.json").read_text())} <= {1, 3}
    assert evaluate(model).status == "skipped"

    result = json.loads((model.train / "result.json").read_text())
    run = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(json.loads(model.tracking.read_text())["run_id"])
    assert run.data.tags["dataset.digest"] == result["dataset_digest"]
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, json.loads(used.dataset.profile)) == ("pets", {"train": {"images": 2}, "val": {"images": 2}})


def test_what_an_image_has_more_than_is_read_is_counted_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Two images of 130 objects and one of 101, of which 100 each are read."""
    assert objects_cut_off(100, {0: 7, 100: 3, 101: 1, 130: 2}) == 61
    assert (
        "of 3 images with more objects, 61 are left out; convert with --set train_input_reader.max_number_of_boxes=130"
        in capsys.readouterr().out
    )
    assert objects_cut_off(130, {130: 2}) == 0
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pattern": ".tfrecord-*"}, r"no file matches the records' path data/train.tfrecord-\* in /.*, the working directory"),
        ({"records": "dat"}, "no file matches the records' path dat/train"),
        ({"num_classes": 2}, "labels.pbtxt has the id 3, the model 2 classes"),
    ],
)
def test_records_that_cannot_be_used_are_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_records(tmp_path / "data", "PNG_MASKS", ".record-{index:05d}-of-00002")
    model = ModelDir(tmp_path / "models" / "own")
    convert(str(write_config(tmp_path / "own.config", **{"records": "data", "pattern": ".record-*", **change})), None, model)
    with pytest.raises(UserError, match=words):
        records_read(load_experiment(model.experiment).task)
