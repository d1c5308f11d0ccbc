"""Records by number, whatever index there is: one beside the shard, one that a scan left, one that is of another file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tensorflow as tf

from tasks.input import record_reader
from tasks.input.record_reader import RecordReader
from tasks.records.tfrecord import frame, index_path, write_shard
from tasks.running.errors import UserError

RECORDS = [b"a" * 5, b"\x00" * 100, bytes(range(256)) * 300, b"the last"]


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the files that are scanned."""
    sizes: list[int] = []

    def counted(read: record_reader.Read, size: int, *more: object) -> object:
        sizes.append(size)
        return scan(read, size)

    scan = record_reader.scan
    monkeypatch.setattr(record_reader, "scan", counted)
    return sizes


def read_all(*files: Path | str) -> list[bytes]:
    reader = RecordReader([str(file) for file in files])
    return [reader.read(number) for number in range(len(reader))]


def test_records_are_numbered_over_all_files(tmp_path: Path, scans: list[int]) -> None:
    for name, records in (("a", RECORDS[:1]), ("b", []), ("c", RECORDS[1:])):
        write_shard(tmp_path / name, records)
    assert read_all(tmp_path / "a", tmp_path / "b", tmp_path / "c") == RECORDS
    reader = RecordReader([str(tmp_path / name) for name in "abc"])
    assert reader.place(2) == (str(tmp_path / "c"), 1)
    assert scans == []


def test_a_foreign_file_is_scanned_once_and_again_when_it_has_changed(tmp_path: Path, own_workspace: Path, scans: list[int]) -> None:
    file = tmp_path / "theirs" / "x.record"
    file.parent.mkdir()
    content = b"".join(map(frame, RECORDS))
    file.write_bytes(content)
    assert read_all(file) == read_all(file) == RECORDS
    assert scans == [len(content)]
    assert [path.name for path in file.parent.iterdir()] == ["x.record"]
    assert len(list((own_workspace / "record_indexes").iterdir())) == 1
    # As long as before, and with a first and a last record of the same length.
    file.write_bytes(b"".join(map(frame, [RECORDS[0], RECORDS[2], RECORDS[1], RECORDS[3]])))
    os.utime(file, ns=(0, 0))
    assert read_all(file) == [RECORDS[0], RECORDS[2], RECORDS[1], RECORDS[3]]
    assert len(scans) == 2
    assert len(list((own_workspace / "record_indexes").iterdir())) == 1


def test_a_workspace_that_cannot_be_written_to_costs_only_a_second_scan(
    tmp_path: Path, own_workspace: Path, scans: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.record").write_bytes(frame(b"one"))
    (own_workspace / "record_indexes").write_text("a file, where a folder is needed")
    assert read_all(tmp_path / "x.record") == read_all(tmp_path / "x.record") == [b"one"]
    assert len(scans) == 2
    assert "will be looked through again" in capsys.readouterr().out


@pytest.mark.parametrize("records", [RECORDS[::-1], RECORDS[:3], [RECORDS[1], RECORDS[0], *RECORDS[2:]]], ids=["order", "size", "lengths"])
def test_an_index_that_is_not_of_its_shard_is_told_and_not_used(
    tmp_path: Path, scans: list[int], records: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    shard = tmp_path / "train.record-00000-of-00001"
    write_shard(shard, RECORDS)
    shard.write_bytes(b"".join(map(frame, records)))
    assert read_all(shard) == records
    assert len(scans) == 1
    assert "the index beside it is of another file" in capsys.readouterr().out


def test_a_damaged_header_takes_nothing_from_the_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first header is among those that are looked at, and the shard's own index knows what a scan could not."""
    shard = tmp_path / "train.record-00000-of-00001"
    write_shard(shard, RECORDS)
    content = bytearray(shard.read_bytes())
    for offset in (0, 21):  # of the first two records
        content[offset] ^= 1
    shard.write_bytes(content)
    reader = RecordReader([str(shard)])
    assert [reader.read(number) for number in (2, 3)] == RECORDS[2:]
    for number in (0, 1):
        with pytest.raises(UserError, match=f"of-00001: record {number} is cut off or damaged"):
            reader.read(number)
    assert "another file" not in capsys.readouterr().out


def test_a_shard_under_a_url_that_tensorflow_reads(scans: list[int]) -> None:
    tf.io.gfile.makedirs("ram://records/index")
    with tf.io.gfile.GFile("ram://records/x.record", "wb") as stream:
        stream.write(b"".join(map(frame, RECORDS)))
    assert read_all("ram://records/x.record") == RECORDS
    assert len(scans) == 1
    with tf.io.gfile.GFile(f"ram://records/{index_path(Path('x.record'))}", "w") as stream:
        stream.write("0 21\n21 116\n137 76816\n76953 24\n")
    assert read_all("ram://records/x.record") == RECORDS
    assert len(scans) == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.record cannot be read"):
        RecordReader([str(tmp_path / "gone.record")])


def test_a_file_that_was_not_fetched_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "x.record").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(UserError, match="it is a Git LFS pointer"):
        RecordReader([str(tmp_path / "x.record")])
