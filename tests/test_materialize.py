"""Materialization as a whole: what went in is what TensorFlow reads, bad input leaves nothing, and the same input does nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as pycoco
from pycocotools.coco import COCO

from tasks.annotations.coco import CocoSource
from tasks.materialize import Effort, materialize
from tasks.records.example import parse_example
from tasks.records.label_map import read_label_map
from tasks.records.manifest import read_manifest
from tasks.records.tfrecord import read_shard
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir
from tests.small_dataset import assert_indexes_are_of_their_shards, change_annotations, files_of, write_source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_source(tmp_path / "in")
    return tmp_path / "in"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tasks", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


def assert_masks_are_pycocotools_own(dataset: DatasetDir, annotations: dict[str, Path], expected_objects: int) -> None:
    """Every mask that TensorFlow reads from the records equals pycocotools' rasterization of its annotation, pixel for pixel."""
    import tensorflow as tf

    spec = {
        "image/source_id": tf.io.FixedLenFeature((), tf.string),
        "image/encoded": tf.io.FixedLenFeature((), tf.string),
        "image/height": tf.io.FixedLenFeature((), tf.int64),
        "image/width": tf.io.FixedLenFeature((), tf.int64),
        "image/object/class/label": tf.io.VarLenFeature(tf.int64),
        "image/object/mask": tf.io.VarLenFeature(tf.string),
    }
    compared = 0
    for split, manifest in read_manifest(dataset.manifest).splits.items():
        coco = COCO()
        coco.dataset = json.loads(annotations[split].read_text())
        coco.createIndex()
        images = {str(image["id"]): image for image in coco.dataset["images"]}
        seen = set()
        for serialized in tf.data.TFRecordDataset([str(dataset.root / shard) for shard in manifest.shards]):
            parsed = tf.io.parse_single_example(serialized, spec)
            image = images[parsed["image/source_id"].numpy().decode()]
            seen.add(image["id"])
            decoded = tf.io.decode_image(parsed["image/encoded"], channels=3)
            assert decoded.shape[:2] == (image["height"], image["width"])
            assert (int(parsed["image/height"]), int(parsed["image/width"])) == decoded.shape[:2]
            own = coco.imgToAnns[image["id"]]
            np.testing.assert_array_equal(parsed["image/object/class/label"].values, [a["category_id"] for a in own])
            pngs = parsed["image/object/mask"].values
            assert len(pngs) == len(own)
            for png, annotation in zip(pngs, own, strict=True):
                mask = tf.io.decode_png(png, channels=1).numpy()[..., 0]
                assert np.array_equal(mask, pycoco.decode(coco.annToRLE(annotation))), (split, annotation["id"])
                compared += 1
        assert len(seen) == manifest.images
    assert compared == expected_objects


def test_shapes_come_back_pixel_for_pixel(tmp_path):
    path = tmp_path / "dataset.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "shapes": {"train": 6, "val": 2, "height": 64, "width": 80}}))
    result = materialize(path, tmp_path / "out", effort=Effort(shards=2))
    dataset = DatasetDir(tmp_path / "out")
    objects = sum(result.summary["objects"].values())
    assert objects > 0
    sources = {split: dataset.source / f"{split}.json" for split in ("train", "val")}
    assert_masks_are_pycocotools_own(dataset, sources, objects)
    assert materialize(path, tmp_path / "out", effort=Effort(shards=2)).status == "skipped"


def test_fruits_and_nuts_come_back_pixel_for_pixel(shared_data: Path, tmp_path):
    folder = shared_data / "fruits_nuts" / "data"
    values = {
        "name": "fruits_nuts",
        "source": {"images": str(folder / "images"), "annotations": str(folder / "trainval.json")},
        "split": {"train": 0.8, "val": 0.2},
    }
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))
    result = materialize(tmp_path / "dataset.yaml", tmp_path / "out")
    assert sum(result.summary["images"].values()) == 18
    assert result.summary["findings"] == {}
    annotations = dict.fromkeys(("train", "val"), folder / "trainval.json")
    assert_masks_are_pycocotools_own(DatasetDir(tmp_path / "out"), annotations, 165)


def test_coco_comes_back_pixel_for_pixel(shared_data: Path, tmp_path):
    folder = shared_data / "coco_tiny"
    annotations = {split: folder / "annotations" / f"instances_{split}2017.json" for split in ("train", "val")}
    splits = {split: {"images": str(folder / f"{split}2017"), "annotations": str(path)} for split, path in annotations.items()}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"name": "coco_tiny", "splits": splits}))
    materialize(tmp_path / "dataset.yaml", tmp_path / "out")
    dataset = DatasetDir(tmp_path / "out")
    assert_masks_are_pycocotools_own(dataset, annotations, 705 + 815)
    manifest = read_manifest(dataset.manifest)
    assert {name: split.crowd_objects for name, split in manifest.splits.items()} == {"train": 6, "val": 11}
    assert read_label_map(dataset.label_map).num_classes == 90


def test_the_manifest_counts_what_the_records_hold(source, tmp_path):
    materialize(source / "dataset.yaml", tmp_path / "out", effort=Effort(shards=2))
    dataset = DatasetDir(tmp_path / "out")
    manifest = read_manifest(dataset.manifest)
    assert sum(split.images for split in manifest.splits.values()) == 12
    assert sum(split.empty_images for split in manifest.splits.values()) == 1
    for name, split in manifest.splits.items():
        assert split.pattern == f"{name}.record-?????-of-00002"
        assert sorted(path.name for path in dataset.root.glob(split.pattern)) == list(split.shards)
        records = [parse_example(r, shard) for shard in split.shards for r in read_shard(dataset.root / shard)]
        assert len(records) == split.images
        assert sum(len(record.instances) for record in records) == split.objects == split.objects_per_category["cat"]
    assert manifest.findings == {}
    assert read_label_map(dataset.label_map) == manifest.label_map


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(source, tmp_path, workers):
    materialize(source / "dataset.yaml", tmp_path / "one", effort=Effort(shards=3))
    materialize(source / "dataset.yaml", tmp_path / "more", effort=Effort(shards=3, workers=workers))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "more")
    assert_indexes_are_of_their_shards(tmp_path / "one")


def test_the_digest_is_of_the_content_not_of_its_place_or_shards(source, tmp_path):
    first = materialize(source / "dataset.yaml", tmp_path / "a", effort=Effort(shards=1)).summary["digest"]
    moved = source.rename(tmp_path / "moved")
    assert materialize(moved / "dataset.yaml", tmp_path / "b", effort=Effort(shards=2)).summary["digest"] == first
    change_annotations(moved, lambda content: content["annotations"][0].update(iscrowd=1))
    assert materialize(moved / "dataset.yaml", tmp_path / "c").summary["digest"] != first


def test_an_unchanged_dataset_is_skipped_and_a_changed_or_broken_one_is_not(source, tmp_path):
    out = tmp_path / "out"
    run = lambda **options: materialize(source / "dataset.yaml", out, effort=Effort(**options)).status  # noqa: E731
    assert run() == "done"
    before = files_of(out)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert run() == "skipped"
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    next(out.glob("train.record-*")).unlink()
    assert run() == "done"
    assert files_of(out) == before
    assert run(shards=2) == "done"
    assert len(list(out.glob("train.record-*"))) == 2  # and no shard of the earlier count
    assert_indexes_are_of_their_shards(out)
    (out / "manifest.json").write_text("{}")
    assert run(shards=2) == "done"
    Image.new("RGB", (24, 16)).save(source / "images" / "3.png")
    assert run(shards=2) == "done"


def test_only_other_records_are_a_change(source, tmp_path):
    out = tmp_path / "out"
    changed = lambda **options: materialize(source / "dataset.yaml", out, effort=Effort(**options)).summary["changed"]  # noqa: E731
    assert changed()
    assert not changed()
    assert not changed(shards=2)  # written again, and the same
    change_annotations(source, lambda content: content["annotations"][0].update(iscrowd=1))
    assert changed(shards=2)


def test_an_image_keeps_its_split_when_others_are_added(source, tmp_path):
    def splits_of(out: Path) -> dict[str, str]:
        return {
            parse_example(record, shard).filename: name
            for name, split in read_manifest(out / "manifest.json").splits.items()
            for shard in split.shards
            for record in read_shard(out / shard)
        }

    materialize(source / "dataset.yaml", tmp_path / "all")
    change_annotations(source, lambda content: content.update(images=content["images"][:-1]))
    materialize(source / "dataset.yaml", tmp_path / "fewer")
    every, fewer = splits_of(tmp_path / "all"), splits_of(tmp_path / "fewer")
    assert len(fewer) == 11
    assert fewer == {name: every[name] for name in fewer}


def remove_image(source: Path) -> None:
    (source / "images" / "4.png").unlink()


def break_image(source: Path) -> None:
    path = source / "images" / "4.png"
    path.write_bytes(path.read_bytes()[:-200])


def name_unknown_category(source: Path) -> None:
    change_annotations(source, lambda content: content["annotations"][4].update(category_id=9))


def misname_annotations(source: Path) -> None:
    path = source / "dataset.yaml"
    path.write_text(path.read_text().replace("all.json", "al.json"))


def swap_size(source: Path) -> None:
    change_annotations(source, lambda content: content["images"][4].update(height=24, width=16))


BAD_INPUTS = {
    "missing image": (remove_image, r"4\.png: the image file cannot be opened"),
    "unreadable image": (break_image, r"4\.png: the image cannot be read"),
    "unknown category": (name_unknown_category, r"all\.json: annotation 104 of image 4\.png has the category 9"),
    "wrong path": (misname_annotations, r"al\.json: the annotations cannot be opened"),
    "swapped size": (swap_size, r"4\.png: the image is 16 x 24 .* swapped"),
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("break_input", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_bad_input_is_named_and_leaves_nothing(source, tmp_path, break_input, message, workers):
    break_input(source)
    with pytest.raises(UserError, match=message):
        materialize(source / "dataset.yaml", tmp_path / "out", effort=Effort(shards=3, workers=workers))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("break_input", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_bad_input_leaves_an_earlier_dataset_as_it_was(source, tmp_path, break_input, message):
    materialize(source / "dataset.yaml", tmp_path / "out")
    before = files_of(tmp_path / "out")
    break_input(source)
    with pytest.raises(UserError, match=message):
        materialize(source / "dataset.yaml", tmp_path / "out")
    assert files_of(tmp_path / "out") == before


def test_the_command_says_what_is_wrong_with_code_2(source, tmp_path):
    remove_image(source)
    done = command("materialize", source / "dataset.yaml", "--output", tmp_path / "out", "--result", tmp_path / "result.json")
    assert done.returncode == 2
    assert "4.png: the image file cannot be opened" in done.stderr
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "result.json").exists()


def test_the_command_answers_with_names_and_paths(source, tmp_path):
    done = command("materialize", source / "dataset.yaml", "--output", tmp_path / "out", "--result", tmp_path / "result.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["step"], result["status"]) == ("materialize", "done")
    assert result["outputs"] == {"dataset": str(tmp_path / "out"), "manifest": str(tmp_path / "out" / "manifest.json")}
    assert result["summary"]["name"] == "tiny"


def test_no_tensorflow_is_imported():
    code = (
        "import sys, tasks.materialize; sys.exit(any(name.split('.')[0] in ('tensorflow', 'tf_keras', 'mlflow') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_category_zero_is_said_to_be_renumbered(source, tmp_path, capsys):
    def from_zero(content):
        content["categories"] = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]

    change_annotations(source, from_zero)
    materialize(source / "dataset.yaml", tmp_path / "out")
    assert "category ids renumbered: 0 to 1, 1 to 2" in capsys.readouterr().out
    assert read_manifest(tmp_path / "out" / "manifest.json").label_map.names == {1: "cat", 2: "dog"}


def test_many_categories_that_count_from_zero_are_told_in_short(source, tmp_path, capsys):
    change_annotations(source, lambda content: content.update(categories=[{"id": key, "name": f"c{key}"} for key in range(80)]))
    materialize(source / "dataset.yaml", tmp_path / "out")
    assert "category ids renumbered: 0 ... 79 to 1 ... 80\n" in capsys.readouterr().out


def test_what_was_left_out_is_printed_and_recorded(source, tmp_path, capsys):
    change_annotations(source, lambda content: content["annotations"][4].update(segmentation=[[1, 1, 5, 5]]))
    result = materialize(source / "dataset.yaml", tmp_path / "out")
    assert result.summary["findings"] == {"degenerate-polygon": 1}
    assert "1 x degenerate-polygon, left out: no part of the polygon has three points" in capsys.readouterr().out
    assert read_manifest(tmp_path / "out" / "manifest.json").findings == {"degenerate-polygon": 1}


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2])
def test_a_killed_run_leaves_no_dataset_and_a_rerun_gives_the_undisturbed_bytes(source, tmp_path, seconds):
    materialize(source / "dataset.yaml", tmp_path / "undisturbed", effort=Effort(shards=3))
    # Every image takes a while, so that the kill falls among them.
    slowed = (
        "import sys, time, pathlib, tasks.annotations.shard as s, tasks.materialize as m; read = s.encode_image\n"
        "def slow(*a):\n    print('image', flush=True); time.sleep(0.05); return read(*a)\n"
        "s.encode_image = slow; m.materialize(*map(pathlib.Path, sys.argv[1:]), effort=m.Effort(shards=3))"
    )
    arguments = [sys.executable, "-c", slowed, str(source / "dataset.yaml"), str(tmp_path / "out")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "image\n"
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert list((tmp_path / "out").glob("*.record-*")) == []
    materialize(source / "dataset.yaml", tmp_path / "out", effort=Effort(shards=3))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")


@pytest.mark.parametrize("option", ["shards", "workers"])
def test_impossible_options_are_refused(source, tmp_path, option):
    with pytest.raises(UserError, match=f"--{option} is 0"):
        materialize(source / "dataset.yaml", tmp_path / "out", effort=Effort(**{option: 0}))


def test_images_that_a_source_passes_over_are_told(source, tmp_path, monkeypatch, capsys):
    listed = CocoSource.list
    monkeypatch.setattr(CocoSource, "list", lambda source: dataclasses.replace(listed(source), passed_over=3))
    materialize(source / "dataset.yaml", tmp_path / "out")
    assert "tiny: 3 images without annotations are passed over\n" in capsys.readouterr().out
