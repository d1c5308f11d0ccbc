"""Which files a path or pattern means, and which of their shards are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from upath import UPath

from tasks.records.tfrecord import matching_files, missing_shards, record_files
from tasks.running.errors import UserError


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_a_pattern_means_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "b.record", "a.record", "c.txt")
    (tmp_path / "d.record").mkdir()
    assert matching_files(f"{tmp_path}/*.record") == (tmp_path / "a.record", tmp_path / "b.record")
    assert matching_files(f"{tmp_path}/c.txt") == (tmp_path / "c.txt",)
    assert matching_files(f"{tmp_path}/e*") == ()


@pytest.mark.parametrize("name", ["set [1]", "set [[1]", "what?", "[a-z]", "*"])
def test_what_is_there_as_it_is_written_is_no_pattern(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / name / "data", "x.record-0", "x.record-1", "x[0].record")
    touch(tmp_path / "set 1" / "data", "x.record-2")
    both = (tmp_path / name / "data" / "x.record-0", tmp_path / name / "data" / "x.record-1")
    assert matching_files(f"{tmp_path}/{name}/data/x.record-?") == both
    assert matching_files(f"{tmp_path}/{name}/data/x[0].record") == (tmp_path / name / "data" / "x[0].record",)
    monkeypatch.chdir(tmp_path)
    assert matching_files(f"{name}/dat*/x.record-?") == tuple(file.relative_to(tmp_path) for file in both)


def test_a_folder_under_a_url_is_no_pattern_either() -> None:
    folder = UPath("memory://literal/set [1]")
    for name in ("x.record-00000-of-00002", "x.record-00001-of-00002"):
        (folder / name).write_bytes(b"")
    assert [file.name for file in record_files(folder / "x.record-?????-of-00002")] == [
        "x.record-00000-of-00002",
        "x.record-00001-of-00002",
    ]
    folder.fs.rm_file((folder / "x.record-00000-of-00002").path)
    with pytest.raises(UserError, match=r"set \[1\]/x\.record-00000-of-00002 is not there"):
        record_files(folder / "x.record-*")


@pytest.mark.parametrize(
    ("names", "pattern", "missing"),
    [
        (["x-00000-of-00003", "x-00002-of-00003"], "x-?????-of-00003", ["x-00001-of-00003"]),
        (["x-00000-of-00003", "x-00002-of-00003"], "x*", ["x-00001-of-00003"]),
        (["x-00000-00003", "x-00001-00003"], "x-*", ["x-00002-00003"]),  # the way that the documentation writes it
        (["x-0-of-2"], "*", ["x-1-of-2"]),
        (["x-00000-of-00002", "y-00000-of-00001", "y-00001-of-00001"], "*", ["x-00001-of-00002"]),
        # Who names shards himself wants these.
        (["x-00000-of-00003", "x-00001-of-00003"], "x-0000[01]-of-00003", []),
        (["x-00001-of-00003"], "x-00001-of-00003", []),
        # Other numbers count nothing.
        (["x-2026-11", "x-1-3", "x-00007-of-00002"], "x*", []),
    ],
)
def test_shards_that_the_others_count_are_missed(tmp_path: Path, names: list[str], pattern: str, missing: list[str]) -> None:
    touch(tmp_path, *names)
    found = missing_shards(f"{tmp_path}/{pattern}", matching_files(f"{tmp_path}/{pattern}"))
    assert [file.name for file in found] == missing
