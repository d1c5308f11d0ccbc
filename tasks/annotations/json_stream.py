"""The lists of a JSON object of any size, read once and element by element, each by the standard library's own decoder."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

_CHUNK = 1 << 20  # bytes
_CUT_OFF = "e-"  # the longest end of a number that is none without its digits
_SPACE = re.compile(r"[ \t\r\n]*")


def top_level_lists(stream: BinaryIO) -> Iterator[tuple[str, Iterator[tuple[Any, str]]]]:
    """Each list of the object in `stream` by its key, its elements, with their texts, to be taken before the next list.

    Other values are passed over. A byte order mark, or UTF-16, is understood. ValueError, saying where, for what is no JSON object, and
    for NaN and infinite numbers, which JSON does not have.
    """
    text = _Text(stream)
    for _ in text.members("{", "}"):
        key, _ = text.value()
        if not isinstance(key, str):
            text.refuse("a key is no text")
        text.take(":")
        if text.peek() == "[":
            elements = (text.value() for _ in text.members("[", "]"))
            yield key, elements
            for _ in elements:
                pass
        else:
            text.value()
    if text.peek():
        text.refuse("something follows the object")


class _Text:
    """The part of a stream's text that is being read; `place` is where, `before` is how many characters came before the part."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        start = stream.read(4)
        self._decode_bytes = codecs.getincrementaldecoder(json.detect_encoding(start))().decode
        self._decode = json.JSONDecoder(parse_constant=self.refuse).raw_decode
        self._text, self._place, self._before = self._decode_bytes(start), 0, 0

    def members(self, opening: str, closing: str) -> Iterator[None]:
        """Stops before each member of a list or object, and after its end."""
        self.take(opening)
        if self.peek() == closing:
            self.take(closing)
            return
        yield
        while self.take("," + closing) == ",":
            yield

    def peek(self) -> str:
        """The next character that is no space, empty at the end."""
        while True:
            self._place = _SPACE.match(self._text, self._place).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self._place < len(self._text) or not self._read_on():
                return self._text[self._place : self._place + 1]

    def take(self, expected: str) -> str:
        found = self.peek()
        if not found or found not in expected:
            self.refuse(f"{' or '.join(map(repr, expected))} is missing")
        self._place += 1
        return found

    def value(self) -> tuple[Any, str]:
        """The next value and its text. What ends where the part does may be longer, and what is broken there may be whole."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if not self._read_on():
                    self._place = error.pos
                    self.refuse(error.msg)
            except RecursionError:
                self.refuse("too many brackets within one another")
            else:
                if end + len(_CUT_OFF) < len(self._text) or not self._read_on():
                    own, self._place = self._text[self._place : end], end
                    return value, own

    def refuse(self, reason: str) -> NoReturn:
        raise ValueError(f"{reason}, character {self._before + self._place}")

    def _read_on(self) -> bool:
        """Whether there was more; it comes after what is not read yet, as long as that at least."""
        piece = self._stream.read(max(_CHUNK, len(self._text) - self._place))
        text = self._decode_bytes(piece, final=not piece)
        if piece:
            self._before += self._place
            self._text, self._place = self._text[self._place :] + text, 0
        return bool(piece)
