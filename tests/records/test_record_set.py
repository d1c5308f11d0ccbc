"""Which records an experiment reads: equal ones have equal digests, under any names and in any folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.records.record_set import RecordSet, record_set
from tasks.records.tfrecord import write_shard
from tasks.workspace import DatasetDir

CONTENTS = {"train-00000-of-00002": [b"one", b"two"], "train-00001-of-00002": [b"three"], "val-00000-of-00001": [b"four"]}
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
        "another byte": CONTENTS | {"val-00000-of-00001": [b"fouR"]},
        "records joined": CONTENTS | {"train-00000-of-00002": [b"onetwo"]},
        "one left out": CONTENTS | {"train-00000-of-00002": [b"one"]},
        "the splits exchanged": {"train": CONTENTS["val-00000-of-00001"], "val": [b"one", b"two", b"three"]},
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
