"""Another machine's paths, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.adoption.old_paths import parts_of, place_of

FILES = [
    Path("/p/annotations/train.record"),
    Path("/p/backup/annotations/train.record"),
    Path("/p/data/Train.record"),
    Path("/p/shards/coco.record-00000-of-00002"),
    Path("/p/shards/coco.record-00001-of-00002"),
    Path("/p/a/model.ckpt"),
    Path("/p/b/model.ckpt"),
]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("C:\\Users\\me\\demo\\annotations\\train.record", FILES[:1]),
        ("/home/x/annotations/train.record", FILES[:1]),
        ("/home/x/backup/annotations/train.record", FILES[1:2]),
        ("D:/data/train.record", FILES[2:3]),
        ("gs://bucket/coco.record-?????-of-00002", FILES[3:5]),
        ("/x/coco.record", FILES[3:5]),
        ("/x/b/model.ckpt", FILES[6:]),
    ],
)
def test_the_longest_end_decides(written: str, expected: list[Path]) -> None:
    place = place_of(written, FILES)
    assert place is not None
    assert list(place.files) == expected


@pytest.mark.parametrize("written", ["", "  ", "C:\\", "/x/other.record"])
def test_what_is_not_there_is_no_place(written: str) -> None:
    assert place_of(written, FILES) is None


def test_a_name_alone_may_be_too_little() -> None:
    assert place_of("/elsewhere/model.ckpt", FILES, least=2) is None
    place = place_of("train.record", FILES)
    assert place is not None
    assert place.others == (Path("/p/data"), Path("/p/backup/annotations"))


def test_a_drive_is_no_part() -> None:
    assert parts_of("c:\\a\\..\\b//./c.record") == ["a", "b", "c.record"]
