"""Which record it was: faults are told by file and number, in words that name what is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tasks.input.bad_record import BadRecord
from tasks.input.batches import training_dataset
from tasks.input.config import DataConfig
from tasks.input.record_faults import DATA_ERRORS, find_faulty_record, first_fault
from tasks.mask_rcnn import config
from tasks.records.tfrecord import frame, write_shard
from tasks.running.errors import UserError
from tests.input.samples import LABELS, MASK, record


def test_a_faulty_record_is_found_by_file_and_number(shard: Path) -> None:
    data = DataConfig(input_path=str(shard))
    assert find_faulty_record(data, LABELS) is None
    with tf.io.TFRecordWriter(str(shard)) as writer:
        writer.write(record())
        writer.write(record(image__object__class__text=[b"cow"]))
    error = find_faulty_record(data, LABELS)
    assert error is not None
    assert error.message == f"{shard}: record 1: the label map has no category 'cow'"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image__object__mask": [tf.io.encode_png(MASK.T[..., None]).numpy()]}, "mask 0 is 6 x 4 (height x width), its image 4 x 6"),
        ({"image__encoded": [b"no picture"]}, "the image cannot be read: it is of no known format"),
        ({"image__object__mask": [b"no PNG"]}, "mask 0 is no PNG"),
    ],
)
def test_what_tensorflow_refuses_is_told_in_our_words(shard: Path, changes: dict[str, list[Any]], words: str) -> None:
    with tf.io.TFRecordWriter(str(shard)) as writer:
        writer.write(record(image__height=[4], image__width=[6], **changes))
    error = find_faulty_record(DataConfig(input_path=str(shard)), LABELS)
    assert error is not None
    assert error.message == f"{shard}: record 0: {words}"


def test_a_shard_that_was_cut_off_is_found(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-3])
    error = find_faulty_record(DataConfig(input_path=str(shard)), LABELS)
    assert error is not None
    assert error.message.startswith(f"{shard}: record 1 ")


def test_a_mask_type_that_the_records_do_not_hold_is_found(shard: Path) -> None:
    error = find_faulty_record(DataConfig(input_path=str(shard), mask_type="NUMERICAL_MASKS"), LABELS)
    assert error is not None
    assert "image/object/mask" in error.message


FIXED = config.ImageResizer(kind="fixed_shape", height=8, width=8)


def greens(data: DataConfig, bad: tuple[BadRecord, ...], steps: int, first_step: int = 0) -> list[int]:
    """What tells the records of `damaged` apart, in the order in which a training sees them."""
    batches = training_dataset(data, FIXED, LABELS, data.global_batch_size, first_step=first_step, bad=bad).take(steps)
    return [int(image[0, 0, 1]) for images, _, _ in batches for image in images]


def damaged(folder: Path, shuffle: bool = True) -> tuple[DataConfig, Path]:
    """Ten records of equal length in a shard of ours; of the second the checksum is wrong, of the fifth the header, and the eighth has no
    image."""
    shard = folder / "train.record-00000-of-00001"
    serialized = [record(image__encoded=[tf.io.encode_png(np.full((4, 6, 3), [0, green, 0], np.uint8)).numpy()]) for green in range(10)]
    serialized[7] = record(image__encoded=[b"no picture"])
    write_shard(shard, serialized)
    begins = np.cumsum([0, *(len(frame(one)) for one in serialized)])
    content = bytearray(shard.read_bytes())
    content[begins[1] + 40] ^= 1
    content[begins[4]] ^= 1
    shard.write_bytes(content)
    return DataConfig(input_path=str(shard), seed=2, global_batch_size=2, shuffle=shuffle), shard


def test_bad_records_are_found_one_after_the_other_where_training_meets_them(tmp_path: Path) -> None:
    data, shard = damaged(tmp_path, shuffle=False)
    with pytest.raises(DATA_ERRORS):
        greens(data, (), 1)
    bad: tuple[BadRecord, ...] = ()
    for step, number, reason in ((0, 1, "is cut off or damaged"), (2, 4, "is cut off or damaged"), (3, 7, "of no known format")):
        assert len(greens(data, bad, step)) == 2 * step
        fault = first_fault(data, FIXED, LABELS, bad, step, steps=1)
        assert fault is not None
        assert (fault.record.file, fault.record.record, fault.record.step) == (str(shard), number, step)
        assert fault.error.message.startswith(f"{shard}: record {number}")
        assert reason in fault.error.message
        bad = (*bad, fault.record)
        assert first_fault(data, FIXED, LABELS, bad, step, steps=1) is None
    # Each bad one's place is taken by the next that is none; what is behind a damaged header is not lost.
    assert greens(data, bad, 5) == [0, 2, 2, 3, 5, 5, 6, 8, 8, 9]


def test_the_order_of_all_others_stays(tmp_path: Path) -> None:
    data, shard = damaged(tmp_path)
    bad = tuple(BadRecord(str(shard), number, 0, "") for number in (1, 4, 7))
    whole = tmp_path / "whole"
    whole.mkdir()
    write_shard(
        whole / shard.name,
        [record(image__encoded=[tf.io.encode_png(np.full((4, 6, 3), [0, green, 0], np.uint8)).numpy()]) for green in range(10)],
    )
    undamaged = greens(data.replace(input_path=str(whole / shard.name)), (), 10)
    found = greens(data, bad, 10)
    for epoch in (0, 10):
        for place in range(10):
            # The next in the epoch's own order, from the front again behind its last.
            assert found[epoch + place] == next(
                green for green in (undamaged[epoch : epoch + 10] * 2)[place : place + 10] if green not in (1, 4, 7)
            )
    assert greens(data, bad, 6, first_step=4) == found[8:]


def test_only_faults_of_records_are_found(tmp_path: Path, shard: Path) -> None:
    assert first_fault(DataConfig(input_path=str(shard), global_batch_size=2), FIXED, LABELS, (), 0, steps=3) is None


def test_a_file_that_changes_while_it_is_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size, first and last record are as before, so that only the records between show it."""
    path = tmp_path / "x.record"
    short, long = record(), record(image__source_id=[b"77"])
    path.write_bytes(b"".join(map(frame, [short, short, long, short])))
    monkeypatch.setattr("tasks.records.record_index._HEADERS_LOOKED_AT", 2)
    data = DataConfig(input_path=str(path), global_batch_size=1, shuffle=False)
    assert first_fault(data, FIXED, LABELS, (), 0, steps=4) is None
    # The index in the workspace goes by the time of the last change.
    times = path.stat()
    path.write_bytes(b"".join(map(frame, [short, long, short, short])))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match="is not what it was when its records were looked for"):
        first_fault(data, FIXED, LABELS, (), 0, steps=4)


def test_a_record_that_was_left_out_must_still_be_there(shard: Path) -> None:
    gone = (BadRecord(str(shard), 2, 0, "damaged"),)
    with pytest.raises(UserError, match="record 2 was left out before, and is not among the records any more"):
        greens(DataConfig(input_path=str(shard), global_batch_size=1), gone, 1)
    both = tuple(BadRecord(str(shard), number, 0, f"{number} is damaged") for number in range(2))
    with pytest.raises(UserError, match="none of 2 records can be used; the first: 0 is damaged"):
        greens(DataConfig(input_path=str(shard), global_batch_size=1), both, 1)
