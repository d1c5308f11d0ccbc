"""Indexes against the bytes that a shard is known to have, and what a scan saves of a damaged file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.records.record_index import Read, is_likely_of, parse_places, scan
from tasks.records.tfrecord import frame, index_path, print_places, write_shard

RECORDS = [b"a" * 5, b"\x00" * 100, bytes(range(256)) * 300, b"the last"]
OFFSETS = [0, 21, 137, 76953]  # each 16 bytes longer than its content
LENGTHS = [21, 116, 76816, 24]


def reading(content: bytes) -> Read:
    return lambda offset, length: content[offset : offset + length]


def test_a_shard_of_ours_has_its_index_in_the_form_of_dali(tmp_path: Path) -> None:
    write_shard(tmp_path / "train.record-00000-of-00001", RECORDS)
    index = index_path(tmp_path / "train.record-00000-of-00001")
    assert index == tmp_path / "index" / "train.record-00000-of-00001.idx"
    assert index.read_text() == "0 21\n21 116\n137 76816\n76953 24\n"


def test_a_scan_finds_what_the_writer_wrote(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard", RECORDS)
    content = (tmp_path / "shard").read_bytes()
    found = scan(reading(content), len(content))
    assert found.places.tolist() == [list(place) for place in zip(OFFSETS, LENGTHS, strict=True)]
    assert found.whole.all()
    assert print_places(found.places.tolist()) == index_path(tmp_path / "shard").read_text()
    assert scan(reading(b""), 0).places.shape == (0, 2)


def test_a_scan_reads_headers_and_no_contents(tmp_path: Path) -> None:
    content = frame(bytes(10_000)) * 50
    asked: list[int] = []

    def read(offset: int, length: int) -> bytes:
        asked.append(length)
        return content[offset : offset + length]

    assert len(scan(read, len(content)).places) == 50
    assert sum(asked) == 50 * 12


@pytest.mark.parametrize("position", [0, 8], ids=["length", "its checksum"])
def test_records_behind_a_damaged_header_are_found(position: int) -> None:
    content = bytearray(b"".join(map(frame, RECORDS)))
    content[OFFSETS[1] + position] ^= 1
    found = scan(reading(bytes(content)), len(content))
    assert found.places.tolist() == [list(place) for place in zip(OFFSETS, LENGTHS, strict=True)]
    assert found.whole.tolist() == [True, False, True, True]


def test_a_record_that_looks_like_headers_inside_does_not_hide_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros and numbers in a damaged stretch, longer than what is read at once, and the next header across the edge of two readings."""
    monkeypatch.setattr("tasks.records.record_index._CHUNK", 1000)
    lost, kept = bytes([5, 0, 0, 0, 0, 0, 0, 0]) * 370, frame(b"kept")
    for cut in range(20):
        content = b"\x01" * 12 + lost + bytes(cut) + kept
        found = scan(reading(content), len(content))
        assert found.places.tolist() == [[0, len(content) - len(kept)], [len(content) - len(kept), len(kept)]]


def test_a_file_that_was_cut_off_ends_with_a_place_that_is_not_whole() -> None:
    content = b"".join(map(frame, RECORDS))[:-3]
    found = scan(reading(content), len(content))
    assert found.places[-1].tolist() == [OFFSETS[3], LENGTHS[3] - 3]
    assert found.whole.tolist() == [True, True, True, False]


def test_an_index_is_of_a_file_whose_records_it_knows() -> None:
    content = b"".join(map(frame, RECORDS))
    ours = scan(reading(content), len(content)).places
    damaged = bytearray(content)
    damaged[OFFSETS[1]] ^= 1
    # The stretch of a damaged header joins no others here; and were it longer, the index would still know all that is whole.
    assert scan(reading(bytes(damaged)), len(content)).confirms(ours)
    others = b"".join(frame(record) for record in (RECORDS[1], RECORDS[0], *RECORDS[2:]))
    assert len(others) == len(content)
    assert not scan(reading(others), len(others)).confirms(ours)
    assert is_likely_of(reading(content), ours)
    assert not is_likely_of(reading(others), ours)


@pytest.mark.parametrize("text", ["0 21\n21 116\n", "0 20\n21 117\n", "5 21\n26 111\n", "0 21\n21 x\n", "0 21 21\n", "", "0 138\n138 -1\n"])
def test_an_index_that_does_not_fit_its_file_is_none(text: str) -> None:
    size = 21 + 116
    assert parse_places("0 21\n21 116\n", size) is not None
    if text != "0 21\n21 116\n":
        assert parse_places(text, size) is None
    assert parse_places(text, size + 1) is None
