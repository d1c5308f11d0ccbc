"""Shards against TensorFlow's own writer and reader, byte for byte, and damaged ones."""

from __future__ import annotations

import pytest

from tasks.records.tfrecord import ShardWriter, frame, located_records, read_shard, record_at, record_offsets, shard_family, write_shard
from tasks.running.errors import UserError

RECORDS = [b"", b"a", b"\x00" * 100, bytes(range(256)) * 300]


def test_an_empty_record_is_framed_as_derived_by_hand():
    # CRC-32C of eight zero bytes is 0x8C28B28A, of nothing 0; turned right by 15 bits, plus 0xA282EAD8.
    def masked(crc: int) -> bytes:
        return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    assert frame(b"") == bytes(8) + masked(0x8C28B28A) + masked(0)


def test_bytes_equal_tensorflows_writer(tmp_path):
    import tensorflow as tf

    write_shard(tmp_path / "ours", RECORDS)
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in RECORDS:
            writer.write(record)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_tensorflow_reads_ours_and_we_read_ours(tmp_path):
    import tensorflow as tf

    write_shard(tmp_path / "shard", RECORDS)
    assert list(tf.data.TFRecordDataset(str(tmp_path / "shard")).as_numpy_iterator()) == RECORDS
    assert list(read_shard(tmp_path / "shard")) == RECORDS


def test_a_record_is_read_where_it_begins(tmp_path):
    write_shard(tmp_path / "shard", RECORDS)
    places = [offset for offset, _ in located_records(tmp_path / "shard")]
    # Each is framed by 16 bytes.
    assert places == [0, 16, 33, 149] == record_offsets(tmp_path / "shard")
    assert [record_at(tmp_path / "shard", offset) for offset in reversed(places)] == RECORDS[::-1]
    with pytest.raises(UserError, match="shard: the record at byte 17 is cut off or damaged"):
        record_at(tmp_path / "shard", 17)
    (tmp_path / "cut").write_bytes(frame(b"good") + b"123")
    with pytest.raises(UserError, match="cut: record 1 is cut off or damaged"):
        record_offsets(tmp_path / "cut")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("train.record-00000-of-00010", "train"),
        ("coco_val.record-00000-00010", "coco_val"),
        ("pets-10.tfrecord", "pets-10"),
        ("a.b.tfrecords-00001-of-00002", "a.b"),
        ("plain", "plain"),
    ],
)
def test_shards_of_a_split_are_a_family(name, family):
    assert shard_family(name) == family


def test_a_shard_has_no_name_before_its_end(tmp_path):
    with ShardWriter(tmp_path / "shard") as shard:
        shard.write(b"a")
        assert not (tmp_path / "shard").exists()
    assert list(read_shard(tmp_path / "shard")) == [b"a"]


def test_an_error_leaves_nothing(tmp_path):
    def records():
        yield b"a"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_shard(tmp_path / "shard", records())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("position", [0, 8, 12, 30, -1], ids=["length", "length crc", "content", "more content", "crc"])
def test_a_changed_byte_is_found(tmp_path, position):
    content = bytearray(frame(bytes(50)))
    content[position] ^= 1
    (tmp_path / "shard").write_bytes(frame(b"good") + content)
    reader = read_shard(tmp_path / "shard")
    assert next(reader) == b"good"
    with pytest.raises(UserError, match="shard: record 1 is cut off or damaged"):
        next(reader)


@pytest.mark.parametrize("kept", [5, 12, 40, 65])
def test_a_cut_off_shard_is_found(tmp_path, kept):
    (tmp_path / "shard").write_bytes(frame(bytes(50))[:kept])
    with pytest.raises(UserError, match="shard: record 0 is cut off or damaged"):
        list(read_shard(tmp_path / "shard"))


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(UserError, match="absent: the shard cannot be opened"):
        list(read_shard(tmp_path / "absent"))
