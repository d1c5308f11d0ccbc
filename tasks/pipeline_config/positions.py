"""Where in a text-format file each field stands, so that an error can point at it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor

from tasks.pipeline_config.fields import joined

_TOKEN = re.compile(
    r"""(?P<skip>\#[^\n]*|[\s,;]+)"""
    r"""|(?P<string>"(?:[^"\\\n]++|\\.)*+"?|'(?:[^'\\\n]++|\\.)*+'?)"""
    r"""|(?P<mark>[{}<>\[\]:])"""
    r"""|(?P<word>[^\s{}<>\[\]:,;\#"']+)"""
)
# No config is nested deeper than ten messages.
_DEEPEST = 50
# What the text-format parser takes for a name; the rest of a word is another token.
_NAME = re.compile(r"[A-Za-z_][0-9A-Za-z_+-]*")


class Token(NamedTuple):
    """A piece of text with its kind (`string`, `mark` or `word`) and its place, counted from 1."""

    kind: str
    text: str
    line: int
    column: int


@dataclass(frozen=True)
class Position:
    """A field's path and its place in the text, counted from 1."""

    path: str
    line: int
    column: int


@dataclass
class _Open:
    """A message that the scan is inside of; `descriptor` is None below an unknown name."""

    position: Position
    descriptor: Descriptor | None
    in_list: bool = False


def tokens(text: str) -> Iterator[Token]:
    """What the text consists of, without spaces and comments."""
    line, line_start = 1, 0
    for match in _TOKEN.finditer(text):
        kind, value = str(match.lastgroup), match.group()
        if kind != "skip":
            yield Token(kind, value, line, match.start() - line_start + 1)
        if "\n" in value:
            line += value.count("\n")
            line_start = match.start() + value.rindex("\n") + 1


class Scan:
    """The fields of a text-format message in their order, unknown ones too; ends where brackets make no sense or nest too deep.

    `open` are the messages that the scan is inside of, outermost first: at the end, those that nobody has closed. With `until`, a
    (line, column), the token there is the last one.
    """

    def __init__(self, text: str, root: Descriptor, until: tuple[int, int] | None = None) -> None:
        self.open: list[Position] = []
        self._text = text
        self._until = until
        self._stack = [_Open(Position("", 1, 1), root)]
        self._seen: dict[str, int] = {}

    def __iter__(self) -> Iterator[Position]:
        return (position for position, string in self.values() if string is None)

    def values(self) -> Iterator[tuple[Position, str | None]]:
        """Each field, and after it each string that is its value, as written, with the field's path and the string's place."""
        name = Position("", 1, 1)
        in_list = after_colon = in_string = False
        for kind, value, line, column in tokens(self._text):
            if self._until is not None and (line, column) > self._until:
                return
            if kind == "string":
                # One that follows no colon, and no string that does, is a stray one.
                in_string |= after_colon or in_list
                after_colon = False
                yield Position(name.path if in_string else self._stack[-1].position.path, line, column), value
                continue
            in_string = False
            if kind == "word":
                if not after_colon and not in_list:
                    word = _NAME.match(value)
                    name = Position(self._element(word[0] if word else value), line, column)
                    yield name, None
                after_colon = False
            elif value == ":":
                after_colon = True
            elif value == "[":
                in_list = after_colon
            elif value == "]":
                in_list = after_colon = False
            elif value in "{<":
                if not name.path or len(self._stack) > _DEEPEST:
                    return
                opened = Position(self._opened(name.path), line, column) if in_list else name
                self._stack.append(_Open(opened, self._message(opened.path), in_list))
                self.open.append(opened)
                if in_list:
                    yield opened, None
                in_list = after_colon = False
            else:
                if len(self._stack) == 1:
                    return
                closed = self._stack.pop()
                self.open.pop()
                in_list = closed.in_list
                name = closed.position
                self._count(name.path)

    def _element(self, name: str) -> str:
        """The path of the field that starts here; one that repeats has its index."""
        parent = self._stack[-1]
        path = joined(parent.position.path, name)
        known = parent.descriptor and parent.descriptor.fields_by_name.get(name)
        return self._opened(path) if known and known.is_repeated and known.message_type else path

    def _opened(self, path: str) -> str:
        path = path.removesuffix("]").rpartition("[")[0] if path.endswith("]") else path
        return f"{path}[{self._seen.get(path, 0)}]"

    def _count(self, path: str) -> None:
        """Notes that an element of a list has ended; messages of one path share their lists, as they are merged."""
        if path.endswith("]"):
            path = path.rpartition("[")[0]
            self._seen[path] = self._seen.get(path, 0) + 1

    def _message(self, path: str) -> Descriptor | None:
        parent, name = self._stack[-1], path.rpartition(".")[2].partition("[")[0]
        known = parent.descriptor and parent.descriptor.fields_by_name.get(name)
        return known.message_type if known else None


def positions(text: str, root: Descriptor) -> Iterator[Position]:
    """The fields of a text-format message in their order, as `Scan` finds them."""
    return iter(Scan(text, root))
