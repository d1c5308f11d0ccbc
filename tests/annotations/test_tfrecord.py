"""Records that TensorFlow wrote the way the original's tools do, as a source."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml
from upath import UPath

from tasks.annotations.source import EmbeddedImages
from tasks.annotations.tfrecord import TfRecordSource
from tasks.coco.masks import mask_from_rle
from tasks.materialize import materialize
from tasks.records.checks import BadImageError, Check
from tasks.records.example import parse_example
from tasks.records.tfrecord import frame, read_shard
from tasks.running.errors import UserError
from tests.records.original_tools import original_features, serialized, write_records

HEIGHT, WIDTH = 12, 20
LABELS = "item { id: 3 name: 'cat' } item { id: 90 name: 'dog' }"


def mask_of(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[rows, columns] = 1
    return mask


MASKS = [mask_of(slice(2, 6), slice(5, 15)), mask_of(slice(0, 12), slice(18, 20))]


def features(index: int, dense: bool = False) -> dict:
    return original_features(MASKS, ["dog", "cat"], size=(HEIGHT, WIDTH), dense=dense, source_id=str(index), seed=index)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.pbtxt"
    path.write_text(LABELS)
    return path


@pytest.mark.parametrize("dense", [False, True])
def test_images_and_objects_are_those_that_were_written(tmp_path, labels, dense):
    for shard in range(2):
        records = [serialized(features(10 * shard + index, dense)) for index in range(3)]
        write_records(tmp_path / f"pets.record-0000{shard}-of-00002", records)
    source = pickle.loads(pickle.dumps(TfRecordSource(tmp_path / "pets.record-?????-of-00002", labels)))
    assert isinstance(source, EmbeddedImages)
    listing = source.list()
    assert listing.categories == {3: "cat", 90: "dog"}
    images = list(listing.images)
    assert [(image.source_id, image.file_name, image.size) for image in images] == [
        (str(number), f"{number}.jpg", (HEIGHT, WIDTH)) for number in (0, 1, 2, 10, 11, 12)
    ]
    for image in reversed(images):
        assert source.image_bytes(image) == features(int(image.source_id))["image/encoded"][0]
        objects = list(source.objects(image, (HEIGHT, WIDTH)))
        assert [(one.category, one.area, one.is_crowd) for one in objects] == [(90, 40, False), (3, 24, False)]
        np.testing.assert_allclose([one.box_yxyx for one in objects], [(2, 5, 6, 15), (0, 18, 12, 20)], rtol=1e-6)
        np.testing.assert_array_equal([mask_from_rle(one.segmentation) for one in objects], MASKS)


@pytest.mark.parametrize("dense", [False, True])
def test_records_are_materialized_anew(tmp_path, labels, dense):
    for name, seeds in {"old_train": (0, 1, 2), "old_val": (3,)}.items():
        write_records(tmp_path / f"{name}.record-00000-00001", [serialized(features(seed, dense)) for seed in seeds])
    splits = {
        split: {"format": "tfrecord", "records": f"old_{split}.record-?????-of-00001", "label_map": "labels.pbtxt"}
        for split in ("train", "val")
    }
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"name": "old", "splits": splits}))
    summary = materialize(tmp_path / "dataset.yaml", tmp_path / "out").summary
    assert (summary["images"], summary["objects"], summary["findings"]) == ({"train": 3, "val": 1}, {"train": 6, "val": 2}, {})
    for number, serialized_record in enumerate(read_shard(tmp_path / "out" / "train.record-00000-of-00001")):
        record = parse_example(serialized_record, "new", {"cat": 3, "dog": 90})
        assert (record.source_id, record.encoded) == (str(number), features(number)["image/encoded"][0])
        assert [one.category_id for one in record.instances] == [90, 3]
        np.testing.assert_array_equal([mask_from_rle(one.mask) for one in record.instances], MASKS)


def test_other_masks_make_another_dataset(tmp_path, labels):
    digests = set()
    (tmp_path / "dataset.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "old",
                "splits": {
                    split: {"format": "tfrecord", "records": records, "label_map": "labels.pbtxt"}
                    for split, records in (("train", "x"), ("val", "y"))
                },
            }
        )
    )
    write_records(tmp_path / "y", [serialized(features(7))])
    for masks in (MASKS, [MASKS[0], 1 - MASKS[0]]):
        values = original_features(masks, ["dog", "cat"], size=(HEIGHT, WIDTH))
        write_records(tmp_path / "x", [serialized(values | {"image/object/area": [1.0, 1.0]})])
        digests.add(materialize(tmp_path / "dataset.yaml", tmp_path / "out").summary["digest"])
    assert len(digests) == 2


@pytest.mark.parametrize("pattern", ["x.record-?????-of-00001", "x.record-?????-00001", "x.record-*", "x.record-00000-of-00001"])
@pytest.mark.parametrize("name", ["x.record-00000-of-00001", "x.record-00000-00001"])
def test_both_ways_to_number_shards_are_found(tmp_path, labels, pattern, name):
    write_records(tmp_path / name, [serialized(features(5))])
    assert [image.source_id for image in TfRecordSource(tmp_path / pattern, labels).list().images] == ["5"]


def test_records_may_lie_anywhere(labels):
    UPath("memory://records/x.record").write_bytes(frame(serialized(features(5))))
    source = TfRecordSource(UPath("memory://records/*.record"), labels)
    (image,) = source.list().images
    assert len(list(source.objects(image, (HEIGHT, WIDTH)))) == 2


def test_an_area_that_is_not_stored_is_not_made_up(tmp_path, labels):
    values = features(5)
    del values["image/object/area"]
    write_records(tmp_path / "x", [serialized(values)])
    source = TfRecordSource(tmp_path / "x", labels)
    (image,) = source.list().images
    assert [one.area for one in source.objects(image, (HEIGHT, WIDTH))] == [None, None]


def test_a_record_without_names_goes_by_its_place(tmp_path, labels):
    values = features(5)
    del values["image/source_id"]
    named = serialized(values)
    del values["image/filename"]
    write_records(tmp_path / "x", [named, serialized(values)])
    images = TfRecordSource(tmp_path / "x", labels).list().images
    assert [(image.source_id, image.file_name) for image in images] == [("5.jpg", "5.jpg"), ("x:1", "x:1")]


def test_a_broken_record_is_listed_and_refused_where_it_is_read(tmp_path, labels):
    write_records(tmp_path / "x", [b"\xff\xff", serialized(features(5))])
    source = TfRecordSource(tmp_path / "x", labels)
    broken, whole = source.list().images
    assert (broken.source_id, broken.size, whole.source_id) == ("x:0", None, "5")
    for read in (lambda: source.image_bytes(broken), lambda: source.objects(broken, (HEIGHT, WIDTH))):
        with pytest.raises(BadImageError) as caught:
            read()
        assert caught.value.check == Check.RECORD_MALFORMED


def test_wrong_paths_are_named(tmp_path, labels):
    with pytest.raises(UserError, match=r"absent-\*: no file of records matches"):
        TfRecordSource(tmp_path / "absent-*", labels).list()
    write_records(tmp_path / "x", [])
    with pytest.raises(UserError, match=r"absent\.pbtxt: the label map cannot be opened"):
        TfRecordSource(tmp_path / "x", tmp_path / "absent.pbtxt").list()
