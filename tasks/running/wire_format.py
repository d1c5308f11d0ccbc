"""Fields of a serialized protocol buffer, read where they stand: a message of many megabytes is not copied to look at one of them."""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5
_MOST_BITS = 70


class WireError(ValueError):
    """The bytes are not those of the message that they should be."""


def messages(message: memoryview, number: int) -> Iterator[memoryview]:
    """The contents of a field that may be there several times. WireError."""
    return (content for found, content in fields(message) if found == number)


def fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a message: their numbers, and the bytes of those that tell their length, or have four or eight. WireError."""
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
    while place < len(message) and shift < _MOST_BITS:
        byte = message[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
    raise WireError("a number has no end")
