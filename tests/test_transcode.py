"""Masks from one form to the other, against TensorFlow's reading of both, and back to the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.records.manifest import read_manifest
from tasks.records.tfrecord import read_shard
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir
from tasks.transcode import transcode
from tests.records.original_tools import original_features, serialized, write_records
from tests.small_dataset import assert_indexes_are_of_their_shards, files_of

SIZE = (6, 10)
MASKS = [np.pad(np.ones((2, 3), np.uint8), ((1, 3), (2, 5))), np.pad(np.ones((6, 1), np.uint8), ((0, 0), (9, 0)))]


def parsed(path: Path, masks) -> list[dict]:
    """Each record as TensorFlow reads it: the masks as such a feature, and features that only the pets' tool writes."""
    import tensorflow as tf

    spec = {
        "image/object/mask": tf.io.VarLenFeature(masks),
        "image/object/truncated": tf.io.VarLenFeature(tf.int64),
        "image/object/view": tf.io.VarLenFeature(tf.string),
    }
    records = (tf.io.parse_single_example(record, spec) for record in tf.data.TFRecordDataset(str(path)))
    return [{key: value.values.numpy() for key, value in record.items()} for record in records]


def pets(dense: bool) -> list[bytes]:
    """One record with two objects, and one without, whose empty list has the kind that it would have with objects."""
    import tensorflow as tf

    values = original_features(MASKS, ["cat", "dog"], size=SIZE, dense=dense)
    values |= {"image/object/truncated": [0, 1], "image/object/view": [b"Left", b"Rear"]}
    empty = tf.train.Example.FromString(serialized(original_features([], [], size=SIZE) if dense else values))
    for key in list(empty.features.feature):
        if "object" in key:
            del empty.features.feature[key]
    feature = empty.features.feature["image/object/mask"]
    (feature.float_list if dense else feature.bytes_list).SetInParent()
    return [serialized(values), empty.SerializeToString()]


def test_pngs_of_other_tools_become_numbers_and_all_else_stays(tmp_path):
    import tensorflow as tf

    write_records(tmp_path / "pets.record-00000-00001", pets(dense=False))
    result = transcode(str(tmp_path / "pets.record-?????-of-00001"), "numerical", tmp_path / "out")
    target = tmp_path / "out" / "pets.record-00000-of-00001"
    two, none = parsed(target, tf.float32)
    np.testing.assert_array_equal(two["image/object/mask"].reshape(2, *SIZE), MASKS)
    assert list(two["image/object/truncated"]) == [0, 1]
    assert list(two["image/object/view"]) == [b"Left", b"Rear"]
    assert none["image/object/mask"].size == 0
    before = (tmp_path / "pets.record-00000-00001").stat().st_size
    assert result.summary["bytes_before"] == before
    assert result.summary["bytes_before"] - result.summary["bytes_saved"] == result.summary["bytes_after"] == target.stat().st_size
    assert sorted(files_of(tmp_path / "out")) == [f"index/{target.name}.idx", target.name]


def test_numbers_become_pngs_with_the_label_map_beside_them(tmp_path):
    import tensorflow as tf

    write_records(tmp_path / "pets.record", pets(dense=True))
    (tmp_path / "pets.pbtxt").write_text("item { id: 2 name: 'cat' }")
    transcode(str(tmp_path / "pets.record"), "png", tmp_path / "out", str(tmp_path / "pets.pbtxt"))
    two, none = parsed(tmp_path / "out" / "pets.record", tf.string)
    masks = [tf.io.decode_png(png, channels=1).numpy()[..., 0] for png in two["image/object/mask"]]
    np.testing.assert_array_equal(masks, MASKS)
    assert none["image/object/mask"].size == 0
    assert "cat" in DatasetDir(tmp_path / "out").label_map.read_text()


def test_there_and_back_is_the_same_dataset_byte_for_byte(scenes: DatasetDir, tmp_path):
    transcode(str(scenes.root), "numerical", tmp_path / "there")
    there = read_manifest(tmp_path / "there" / "manifest.json")
    before = read_manifest(scenes.manifest)
    assert there.mask_type == "NUMERICAL_MASKS"
    assert there.digest != before.digest
    assert there.splits == before.splits
    transcode(str(tmp_path / "there"), "png", tmp_path / "back")
    for split in before.splits.values():
        for shard in split.shards:
            assert (tmp_path / "back" / shard).read_bytes() == (scenes.root / shard).read_bytes()
            assert (tmp_path / "there" / shard).stat().st_size > (scenes.root / shard).stat().st_size
    assert (tmp_path / "back" / "label_map.pbtxt").read_bytes() == scenes.label_map.read_bytes()


def test_a_second_time_is_skipped_and_a_broken_first_is_not(scenes: DatasetDir, tmp_path):
    assert transcode(str(scenes.root), "numerical", tmp_path / "out").status == "done"
    assert transcode(str(scenes.root), "numerical", tmp_path / "out").status == "skipped"
    assert_indexes_are_of_their_shards(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    assert transcode(str(scenes.root), "numerical", tmp_path / "out").status == "done"


def test_what_has_the_form_already_stays_byte_for_byte(tmp_path):
    records = pets(dense=True)
    write_records(tmp_path / "pets.record", records)
    transcode(str(tmp_path / "pets.record"), "numerical", tmp_path / "out")
    assert list(read_shard(tmp_path / "out" / "pets.record")) == records


def test_a_record_that_cannot_be_read_leaves_the_folder_as_it_was(tmp_path):
    write_records(tmp_path / "x.record", [*pets(dense=False), b"\xff"])
    with pytest.raises(UserError, match=r"x\.record: record 2: not a tf"):
        transcode(str(tmp_path / "x.record"), "numerical", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_records(tmp_path / "good.record", pets(dense=False))
    transcode(str(tmp_path / "good.record"), "numerical", tmp_path / "out")
    with pytest.raises(UserError):
        transcode(str(tmp_path / "x.record"), "numerical", tmp_path / "out")
    assert sorted(files_of(tmp_path / "out")) == ["good.record", "index/good.record.idx"]


def test_wrong_options_are_named(scenes: DatasetDir, tmp_path):
    with pytest.raises(UserError, match="--mask-type is 'dense'"):
        transcode(str(scenes.root), "dense", tmp_path)
    with pytest.raises(UserError, match="is the folder of the records themselves"):
        transcode(str(scenes.root), "png", scenes.root)
    with pytest.raises(UserError, match=r"manifest\.json does not exist"):
        transcode(str(tmp_path), "png", tmp_path / "out")


def test_the_command_answers_without_tensorflow(scenes: DatasetDir, tmp_path):
    arguments = ["transcode", str(scenes.root), "--mask-type", "numerical", "--output", str(tmp_path / "out")]
    program = f"import sys, atexit; sys.argv = {['maskline', *arguments, '--result', str(tmp_path / 'answer.json')]!r}\n"
    program += "from tasks.cli import main\natexit.register(lambda: print('tensorflow' in sys.modules))\nmain()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
    assert json.loads((tmp_path / "answer.json").read_text())["summary"]["mask_type"] == "NUMERICAL_MASKS"
