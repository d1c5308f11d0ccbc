"""What a config says and what counts for nothing, or not as it was meant; the original reads it without a word."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.pipeline_config.fields import FieldError, cut
from tasks.pipeline_config.parser import ROOT
from tasks.pipeline_config.positions import Position, Scan
from tasks.pipeline_config.syntax_errors import BACKSLASH, ESCAPE, PlacedError, described

_LONGEST = 60
# Behind a backslash, what the text format knows as an escape.
_ESCAPES = frozenset("\\'\"abfnrtvxuUN?01234567\n")


def overwritten(text: str) -> Iterator[FieldError]:
    """Values that later ones replace, and backslashes that are no escapes; of text that parses."""
    scan = Scan(text, ROOT)
    last: dict[str, Position] = {}
    for position, string in scan.values():
        if string is not None:
            yield from _needless_backslash(position, string)
            continue
        field = described(position.path, ROOT)[1]
        if field is None or field.is_repeated:
            continue
        if field.containing_oneof is not None:
            owner = position.path.rpartition(".")[0]
            other = last.get(f"{owner} {field.containing_oneof.name}")
            if other is not None and other.path != position.path:
                name = position.path.rpartition(".")[2]
                message = f"counts for nothing: only one of its kind can, and {name} in line {position.line} is the last"
                yield PlacedError(other.line, other.column, FieldError(other.path, message, _apart(owner, name)))
            last[f"{owner} {field.containing_oneof.name}"] = position
        elif field.message_type is None:
            before = last.get(position.path)
            if before is not None:
                message = f"counts for nothing: line {position.line} has it again, and the last counts"
                yield PlacedError(before.line, before.column, FieldError(before.path, message, "keep one of the two"))
            last[position.path] = position


def _apart(owner: str, name: str) -> str:
    if owner.endswith("]"):
        block = owner.rpartition(".")[2].partition("[")[0]
        return f"give {name} a {block} of its own, or remove one of the two"
    return "remove one of the two"


def _needless_backslash(position: Position, string: str) -> Iterator[FieldError]:
    none = [match[0] for match in ESCAPE.finditer(string) if match[1] not in _ESCAPES]
    if none:
        shown = cut(string[1:-1], _LONGEST)
        error = FieldError(position.path, f"{shown}: the backslash of {none[0]} is kept as it is", f"write {shown.replace(BACKSLASH, '/')}")
        yield PlacedError(position.line, position.column, error)
