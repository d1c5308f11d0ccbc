"""Where in a text-format file each field stands, so that an error can point at it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from google.protobuf.descriptor import Descriptor

from tasks.pipeline_config.fields import joined

_TOKEN = re.compile(
    r"""(?P<skip>\#[^\n]*|[\s,;]+)"""
    r"""|(?P<string>"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)"""
    r"""|(?P<mark>[{}<>\[\]:])"""
    r"""|(?P<word>[^\s{}<>\[\]:,;\#"']+)"""
)


@dataclass(frozen=True)
class Position:
    """A field's path and its place in the text, counted from 1."""

    path: str
    line: int
    column: int


@dataclass
class _Open:
    """A message that the scan is inside of; `descriptor` is None below an unknown name."""

    path: str
    descriptor: Descriptor | None
    seen: Counter[str] = field(default_factory=Counter)
    in_list: bool = False


def positions(text: str, root: Descriptor) -> Iterator[Position]:
    """The fields of a text-format message in their order, unknown ones too; ends where the brackets make no sense."""
    stack = [_Open("", root)]
    name: str | None = None
    in_list = False
    after_colon = False
    line, line_start = 1, 0
    for token in _TOKEN.finditer(text):
        value, kind = token.group(), token.lastgroup
        place = (line, token.start() - line_start + 1)
        if "\n" in value:
            line += value.count("\n")
            line_start = token.start() + value.rindex("\n") + 1
        if kind == "skip":
            continue
        if kind == "string":
            after_colon = False
        elif kind == "word":
            if not after_colon and not in_list:
                name = value
                yield Position(_element(stack[-1], name), *place)
            after_colon = False
        elif value == ":":
            after_colon = True
        elif value == "[":
            in_list = after_colon
        elif value == "]":
            in_list = after_colon = False
        elif value in "{<":
            if name is None:
                return
            stack.append(_open(stack[-1], name, in_list))
            if in_list:
                yield Position(stack[-1].path, *place)
            in_list = after_colon = False
        else:
            if len(stack) == 1:
                return
            closed = stack.pop()
            in_list = closed.in_list
            name = closed.path.rpartition(".")[2].partition("[")[0]


def _element(parent: _Open, name: str) -> str:
    """The path of the field that starts here; one that repeats gets its index when a message opens after it."""
    path = joined(parent.path, name)
    known = parent.descriptor and parent.descriptor.fields_by_name.get(name)
    return f"{path}[{parent.seen[name]}]" if known and known.is_repeated and known.message_type else path


def _open(parent: _Open, name: str, in_list: bool) -> _Open:
    path = _element(parent, name)
    parent.seen[name] += 1
    known = parent.descriptor and parent.descriptor.fields_by_name.get(name)
    return _Open(path, known.message_type if known else None, in_list=in_list)
