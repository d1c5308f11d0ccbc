"""Which records of a split are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.records.samples import sample_records
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir
from tests.records.small_records import square, write_split

NAMES = {1: "cat"}


def sampled(folder: Path, images: list, count: int, shards: int) -> list[str]:
    dataset = DatasetDir(folder)
    return [record.source_id for record in sample_records(dataset, write_split(dataset, "train", images, NAMES, shards), count)]


@pytest.mark.parametrize(
    ("number", "shards", "chosen"),
    [(30, 4, ["0", "6", "12", "18", "24"]), (30, 1, ["0", "6", "12", "18", "24"]), (3, 2, ["0", "1", "2"]), (0, 1, [])],
)
def test_images_are_chosen_evenly(tmp_path: Path, number: int, shards: int, chosen: list[str]) -> None:
    assert sampled(tmp_path, [[square(1, 9)]] * number, 5, shards) == chosen


def test_of_many_shards_few_are_read(tmp_path: Path) -> None:
    dataset = DatasetDir(tmp_path)
    split = write_split(dataset, "train", [[square(1, 9)]] * 80, NAMES, shards=40)
    for index, path in enumerate(sorted(tmp_path.glob("*.record-*"))):
        if index % 8:
            path.unlink()
    # Shards 0, 8, 16, 24 and 32 hold images 0, 8, ..., 32 and 40, 48, ..., 72: of these ten, every second one.
    assert [record.source_id for record in sample_records(dataset, split, 5)] == ["0", "16", "32", "48", "64"]


def test_an_image_without_objects_and_a_crowd_are_added(tmp_path: Path) -> None:
    images = [[square(1, 9)] for _ in range(30)]
    images[28], images[29], images[4], images[7] = [], [], [square(1, 5), square(1, 20, is_crowd=True)], [square(1, 20, is_crowd=True)]
    assert sampled(tmp_path, images, 3, shards=1) == ["0", "10", "20", "28", "4"]


def test_nothing_is_added_where_the_choice_shows_it(tmp_path: Path) -> None:
    assert sampled(tmp_path, [[], [square(1, 9)], [square(1, 9, is_crowd=True)], []], 3, shards=1) == ["0", "1", "2"]


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    dataset = DatasetDir(tmp_path)
    split = write_split(dataset, "train", [[square(1, 9)]], NAMES)
    shard = tmp_path / split.shards[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{shard.name}.* is cut off or damaged"):
        sample_records(dataset, split, 5)
