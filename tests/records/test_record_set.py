"""Which records an experiment reads: equal ones have equal digests, under any names and in any folder."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tasks.records.example_pb2 import Example
from tasks.records.record_set import RecordSet, record_set
from tasks.records.survey import survey
from tasks.records.tfrecord import write_shard
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir


def record(image: bytes, boxes: int = 0, **changes: list[float]) -> bytes:
    """A record of an image with equal boxes of peanuts."""
    example = Example()
    features = example.features.feature
    features["image/encoded"].bytes_list.value.append(image)
    for side, value in {"ymin": 0.1, "xmin": 0.2, "ymax": 0.3, "xmax": 0.4}.items():
        features[f"image/object/bbox/{side}"].float_list.value.extend(changes.get(side, [value] * boxes))
    features["image/object/class/text"].bytes_list.value.extend([b"peanut"] * boxes)
    return example.SerializeToString(deterministic=True)


ONE, TWO, THREE, FOUR = map(record, (b"one", b"two", b"three", b"four"))
CONTENTS = {"train-00000-of-00002": [ONE, TWO], "train-00001-of-00002": [THREE], "val-00000-of-00001": [FOUR]}
LABELS = 'item { id: 1 name: "peanut" }'


def found(folder: Path, contents: dict[str, list[bytes]] = CONTENTS, labels: str = LABELS) -> RecordSet:
    folder.mkdir(exist_ok=True)
    for name, records in contents.items():
        write_shard(folder / name, records)
    (folder / "labels.pbtxt").write_text(labels)
    files = [[str(file) for file in sorted(folder.glob(f"{split}*"))] for split in ("train", "val")]
    return record_set(*files, folder / "labels.pbtxt")


def test_somebody_s_own_records_are_counted_and_called_after_their_folder(tmp_path: Path) -> None:
    records = found(tmp_path / "pets")
    assert (records.name, records.root) == ("pets", tmp_path / "pets")
    assert records.counts == {"train": {"images": 3}, "val": {"images": 1}}
    assert records.labels.names == {1: "peanut"}
    assert records.description == tmp_path / "pets" / "labels.pbtxt"


def test_the_digest_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    digest = found(tmp_path / "pets").digest
    renamed = dict(zip(("train-b", "train-a", "val"), CONTENTS.values(), strict=True))
    assert found(tmp_path / "other", renamed, f"# a remark\n{LABELS}").digest == digest
    changes = {
        "another byte": CONTENTS | {"val-00000-of-00001": [record(b"fouR")]},
        "records joined": CONTENTS | {"train-00000-of-00002": [ONE + TWO]},
        "one left out": CONTENTS | {"train-00000-of-00002": [ONE]},
        "the splits exchanged": {"train": CONTENTS["val-00000-of-00001"], "val": [ONE, TWO, THREE]},
    }
    digests = {found(tmp_path / name, contents).digest for name, contents in changes.items()}
    assert len(digests | {digest, found(tmp_path / "pets", labels=LABELS.replace("peanut", "date")).digest}) == 6


def test_a_materialized_dataset_is_known_by_its_manifest(scenes: DatasetDir, tmp_path: Path) -> None:
    dataset = DatasetDir(shutil.copytree(scenes.root, tmp_path / "copy"))
    train, val = ([str(file) for file in sorted(dataset.root.glob(f"{split}.record*"))] for split in ("train", "val"))
    records = record_set(train, val, dataset.label_map)
    assert (records.name, records.counts["train"]["images"], records.description) == ("scenes", 4, dataset.manifest)
    assert records.digest == json.loads(dataset.manifest.read_text())["digest"]
    # Other files beside the same manifest are not what it tells of.
    shutil.copy(val[0], dataset.root / "more.record")
    other = record_set(train, [str(dataset.root / "more.record")], dataset.label_map)
    assert other.digest != records.digest
    assert other.counts["val"] == {"images": 2}


@pytest.mark.parametrize(("contents", "words"), [([], "there is no record"), (None, "cannot be opened")])
def test_what_cannot_be_trained_on(tmp_path: Path, contents: list[bytes] | None, words: str) -> None:
    found(tmp_path)
    if contents is not None:
        write_shard(tmp_path / "empty", contents)
    with pytest.raises(UserError, match=words):
        record_set([str(tmp_path / "train-00000-of-00002")], [str(tmp_path / "empty")], tmp_path / "labels.pbtxt")


def test_bad_records_may_be_left_out_of_training_and_not_of_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = {"train": [record(b"a"), b"no example", record(b"b"), b"nor this"], "val": [record(b"c")]}
    with pytest.raises(UserError, match="train: record 1: not a tf"):
        found(tmp_path / "set", contents)
    files = [[str(tmp_path / "set" / split)] for split in ("train", "val")]
    with pytest.raises(UserError, match="train: record 1: not a tf"):
        record_set(*files, tmp_path / "set" / "labels.pbtxt", max_bad=1)
    records = record_set(*files, tmp_path / "set" / "labels.pbtxt", max_bad=2)
    assert records.counts["train"] == {"images": 4}
    assert "2 records of 4 cannot be used; 2 may be left out: " in capsys.readouterr().out
    with pytest.raises(UserError, match="train: record 1: not a tf"):
        record_set(*reversed(files), tmp_path / "set" / "labels.pbtxt", max_bad=2)


def test_objects_of_images_are_counted(tmp_path: Path, scenes: DatasetDir) -> None:
    records = found(tmp_path / "own", {"train": [record(b"a", 3), record(b"b"), record(b"c", 3)], "val": [record(b"d", 1)]})
    assert records.objects_per_image == {"train": {3: 2, 0: 1}, "val": {1: 1}}
    files = [[str(file) for file in scenes.root.glob(f"{split}.record*")] for split in ("train", "val")]
    of_manifest = record_set(*files, scenes.label_map)
    counted = {split: survey(map(Path, names), None).objects_per_image for split, names in zip(("train", "val"), files, strict=True)}
    assert of_manifest.objects_per_image == counted


BMP = Image.new("RGB", (3, 2)).convert("P")


def bmp(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "BMP")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (record(b"x", 2, xmax=[0.4, 55.0]), r"object 1: its box .* \[0.1, 0.2, 0.3, 55\]: .* they are mostly pixels"),
        (record(b"x", 1, ymin=[-0.2]), "object 0: .* shares of the image"),
        (record(b"x", 1, ymin=[0.5]), "object 0: .* corners are swapped"),
        (record(b"x", 1, xmin=[0.4]), "object 0: .* has no area"),
        (record(b"x", 1, xmin=[float("nan")]), "object 0: .* not all are finite"),
        (record(b"x", 1, ymax=[float("inf")]), "object 0: .* not all are finite"),
        (record(b"x", 1, ymax=[]), r"the boxes' sides hold \[1, 1, 0, 1\] values"),
        (record(b"x", 1).replace(b"peanut", b"walnut"), "the label map has no category 'walnut'"),
        (record(bmp(BMP)), "BMP with a palette"),
        (record(bmp(BMP.convert("1"))), "BMP with a palette"),
        (b"\xff", r"not a tf\.train\.Example"),
    ],
)
def test_a_record_that_cannot_be_trained_on_is_named_before_training(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(UserError, match=rf"(?s)val-00000-of-00001: record 1\b.*{words}"):
        found(tmp_path / "own", CONTENTS | {"val-00000-of-00001": [ONE, content]})


@pytest.mark.parametrize("image", [BMP.convert("RGB"), BMP.convert("RGBA"), BMP.convert("L")], ids=lambda image: image.mode)
def test_a_bmp_that_tensorflow_reads_right_is_taken(tmp_path: Path, image: Image.Image) -> None:
    assert found(tmp_path / "own", CONTENTS | {"val-00000-of-00001": [record(bmp(image), 1, xmax=[1.1])]})
