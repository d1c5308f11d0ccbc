"""Features read from the bytes of a record against protobuf's own reading of them."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest

from tasks.records.example_pb2 import Example
from tasks.records.feature_bytes import byte_strings, floats
from tasks.running.wire_format import WireError


def example() -> Example:
    found = Example()
    features = found.features.feature
    features["mask"].bytes_list.value.extend([b"", b"one", b"x" * 300])
    features["numbers"].float_list.value.extend([0.5, -1.0, 3.0e8])
    features["ids"].int64_list.value.extend([1, -1])
    features["none"].bytes_list.SetInParent()
    return found


def test_lists_are_those_that_protobuf_reads() -> None:
    serialized = example().SerializeToString()
    assert byte_strings(serialized, "mask") == [b"", b"one", b"x" * 300]
    assert byte_strings(serialized, "none") == byte_strings(serialized, "nothing of that name") == []
    assert floats(serialized, "numbers").tolist() == [0.5, -1.0, 3.0e8]
    assert floats(serialized, "nothing of that name").tolist() == []
    assert byte_strings(serialized, "numbers") is None
    assert floats(serialized, "mask") is None
    assert floats(serialized, "ids") is None
    assert byte_strings(b"", "mask") == []


def test_numbers_that_are_not_packed_are_read_too() -> None:
    """Each as a field of its own, and some packed behind them: a reader has to join them."""
    stored = b"".join(b"\x0d" + struct.pack("<f", value) for value in (1.0, 2.0)) + b"\x0a\x04" + struct.pack("<f", 3.0)
    feature = b"\x12" + bytes([len(stored)]) + stored
    entry = b"\x0a\x01n" + b"\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    serialized = b"\x0a" + bytes([len(features)]) + features
    assert list(Example.FromString(serialized).features.feature["n"].float_list.value) == [1.0, 2.0, 3.0]
    assert floats(serialized, "n").tolist() == [1.0, 2.0, 3.0]


def test_of_a_feature_that_is_given_twice_the_last_counts() -> None:
    other = Example()
    other.features.feature["mask"].bytes_list.value.append(b"later")
    assert byte_strings(example().SerializeToString() + other.SerializeToString(), "mask") == [b"later"]


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_what_is_cut_off_is_no_record(cut: int) -> None:
    with pytest.raises(WireError):
        byte_strings(example().SerializeToString()[:-cut], "mask")


def test_numbers_are_not_copied() -> None:
    record = Example()
    record.features.feature["numbers"].float_list.value.extend(np.ones(1_000_000, np.float32))
    serialized = record.SerializeToString()
    tracemalloc.start()
    found = floats(serialized, "numbers")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.sum() == 1_000_000
    assert peak < 100_000
