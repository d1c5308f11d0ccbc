"""The mask type of records, told by the features that they have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.records.example_pb2 import Example
from tasks.records.stored_masks import stored_mask_type
from tasks.records.tfrecord import matching_files, write_shard


def record(kind: str) -> bytes:
    """One image: without objects, or with an object's mask as a PNG, or as 2 x 2 numbers."""
    example = Example()
    example.features.feature["image/encoded"].bytes_list.value.append(b"JPEG")
    if kind == "png":
        example.features.feature["image/object/mask"].bytes_list.value.append(b"PNG")
    if kind == "dense":
        example.features.feature["image/object/mask"].float_list.value.extend([0, 1, 1, 0])
    return example.SerializeToString()


@pytest.mark.parametrize(
    ("shards", "mask_type"),
    [
        ([["png"]], "PNG_MASKS"),
        ([["empty", "dense"]], "NUMERICAL_MASKS"),
        ([["empty"], ["empty", "png"]], "PNG_MASKS"),
        ([["empty"] * 199 + ["png"]], "PNG_MASKS"),
        ([["empty"] * 200 + ["png"]], None),
        ([], None),
    ],
)
def test_the_first_mask_tells(tmp_path: Path, shards: list[list[str]], mask_type: str | None) -> None:
    for index, kinds in enumerate(shards):
        write_shard(tmp_path / f"x.record-{index}", map(record, kinds))
    assert stored_mask_type(sorted(tmp_path.iterdir())) == mask_type


def test_no_more_files_are_opened_than_it_takes(tmp_path: Path) -> None:
    write_shard(tmp_path / "first", [record("png")])

    def files() -> Iterator[Path]:
        yield tmp_path / "first"
        raise AssertionError("a second file was asked for")

    assert stored_mask_type(files()) == "PNG_MASKS"


def test_what_is_no_example_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "x", [b"\xff\xff"])
    with pytest.raises(UserError, match="x: a record is not a "):
        stored_mask_type([tmp_path / "x"])


def test_a_pattern_means_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.record", "a.record", "c.txt"):
        (tmp_path / name).touch()
    (tmp_path / "d.record").mkdir()
    assert matching_files(f"{tmp_path}/*.record") == (tmp_path / "a.record", tmp_path / "b.record")
    assert matching_files(f"{tmp_path}/c.txt") == (tmp_path / "c.txt",)
    assert matching_files(f"{tmp_path}/e*") == ()
