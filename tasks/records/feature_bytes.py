"""One feature of a serialized record, read where it stands: many megabytes of dense masks are not copied to look at one of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5
# Numbers of fields in `tf.train.Example` and the messages in it.
_FEATURES = _ENTRY = _KEY = _VALUES = 1
_FEATURE = 2
_BYTES, _FLOATS = 1, 2


class WireError(ValueError):
    """The bytes are not those of the message that they should be."""


def byte_strings(serialized: bytes, key: str) -> list[memoryview] | None:
    """The byte strings of a feature, none where the record has no such feature; None where it holds something else. WireError."""
    kind, stored = _feature(serialized, key)
    if kind not in (None, _BYTES):
        return None
    return [content for number, content in _fields(stored) if number == _VALUES and isinstance(content, memoryview)]


def floats(serialized: bytes, key: str) -> npt.NDArray[np.float32] | None:
    """The numbers of a feature, a view of the record's bytes; the rest as for `byte_strings`."""
    kind, stored = _feature(serialized, key)
    if kind not in (None, _FLOATS):
        return None
    parts = [np.frombuffer(content, "<f4") for number, content in _fields(stored) if number == _VALUES and isinstance(content, memoryview)]
    # Writers pack all numbers in one; others are allowed.
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.float32), *parts])


def _feature(serialized: bytes, key: str) -> tuple[int | None, memoryview]:
    """Which kind of list a feature holds, and the list; None where there is no such feature, or no list in it."""
    wanted = key.encode()
    found: tuple[int | None, memoryview] = None, memoryview(b"")
    for features in _messages(memoryview(serialized), _FEATURES):
        for entry in _messages(features, _ENTRY):
            name, lists = b"", memoryview(b"")
            for number, content in _fields(entry):
                if number == _KEY:
                    name = bytes(content)
                elif number == _FEATURE:
                    lists = content
            if name == wanted:
                found = next(((number, content) for number, content in _fields(lists)), (None, memoryview(b"")))
    return found


def _messages(message: memoryview, number: int) -> Iterator[memoryview]:
    return (content for found, content in _fields(message) if found == number)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a message: their numbers, and the bytes of those that tell their length, or have four or eight."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, place = _varint(message, place)
            continue
        if kind == _COUNTED:
            length, place = _varint(message, place)
        elif kind in (_FOUR_BYTES, _EIGHT_BYTES):
            length = 4 if kind == _FOUR_BYTES else 8
        else:
            raise WireError(f"a field is of kind {kind}")
        if place + length > len(message):
            raise WireError("a field is longer than its message")
        yield number, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number, seven bits a byte, little end first, and where the next field begins."""
    number = shift = 0
    while place < len(message):
        byte = message[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
    raise WireError("a number has no end")
