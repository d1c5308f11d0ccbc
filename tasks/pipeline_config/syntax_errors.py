"""What is wrong with text that is no config, in terms of the field where the reader gave up."""

from __future__ import annotations

import re

from google.protobuf import text_encoding, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tasks.pipeline_config.fields import INTEGER_RANGES, FieldError, cut, is_message, nearest, unknown_field
from tasks.pipeline_config.positions import Position, Scan, tokens
from tasks.pipeline_config.ranges import bounds_of, bounds_text

_LONGEST = 120

_NO_FIELD = re.compile(r'has no field named "([^"]+)"')
_NO_VALUE = re.compile(r"has no value (?:named|with number) (\S+?)\.?$")
_BAD_VALUE = re.compile(r"(?:Value out of range|Couldn't parse (?:integer|float)): '?([^']*)'?$")
_QUOTED_LINE = re.compile(r"^\d+:\d+ : (?:'.*': (?=[A-Z]))?", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

BACKSLASH = "\\"
ESCAPE = re.compile(r"\\(.)", re.DOTALL)
"""A backslash in a string and what follows it"""


class PlacedError(FieldError):
    """A `FieldError` whose place is not where its field begins."""

    def __init__(self, line: int, column: int, error: FieldError) -> None:
        super(FieldError, self).__init__(error.message, error.fix)
        self.path = error.path
        self.line = line
        self.column = column


def syntax_error(error: text_format.ParseError, text: str, root: Descriptor) -> FieldError:
    """What the text-format parser complained of: at the field, where that says most, or as a `PlacedError` at the very word."""
    line, column = error.GetLine(), error.GetColumn()
    if line is None or column is None:
        return FieldError("the text", _plain(str(error)), "name a pipeline.config in text format")
    scan, path = Scan(text, root, (line, column)), ""
    for position in scan:
        path = position.path
    before, at, after = _around(text, (line, column))
    owner, field = described(path, root)
    parent = path.rpartition(".")[0]
    if ('Expected "}"' in str(error) or 'Expected ">"' in str(error)) and (opened := _left_open(text, root)) is not None:
        return FieldError(opened.path, f"opens in line {opened.line} and is not closed", "add the missing }")
    if field is not None and before == ":" and (at in ("", "}", ">") or after in (":", "{", "<")):
        return FieldError(path, "has no value", f"write {_type_text(field)} behind the colon")
    around = scan.open[-1].path if scan.open else "the top level"
    unknown = _NO_FIELD.search(str(error))
    if unknown and owner is not None:
        found = _unknown(owner, parent, unknown[1], scan.open, root)
    elif at == "}" and not scan.open:
        found = FieldError("the top level", "has a } too many: all before it is closed", "remove it, or the one above that came too early")
    else:
        found = explained(str(error), field if before == ":" else None, path if before == ":" or at == path.rpartition(".")[2] else around)
    return PlacedError(line, column, found)


def _around(text: str, place: tuple[int, int]) -> tuple[str, str, str]:
    """The token at `place` between the one before and the one behind it; "" where there is none."""
    before = at = ""
    for token in tokens(text):
        if at:
            return before, at, token.text
        if (token.line, token.column) >= place:
            at = token.text
        else:
            before = token.text
    return before, at, ""


def _unknown(owner: Descriptor, parent: str, name: str, inside: list[Position], root: Descriptor) -> FieldError:
    """The error for an unknown name, which may well belong to a message around this one."""
    for index in reversed(range(len(inside))):
        outer = inside[index - 1].path if index else ""
        around = _message_at(outer, root) if outer else root
        if around is not None and name in around.fields_by_name:
            message = f"has no field {name}, but {outer or 'the top level'} has: is a }} missing?"
            fix = f"close {inside[index].path}, which opens in line {inside[index].line}, before {name}"
            return FieldError(parent, message, fix)
    return unknown_field(owner, parent, name)


def _left_open(text: str, root: Descriptor) -> Position | None:
    """The innermost message that is open at the end of the text."""
    scan = Scan(text, root)
    for _ in scan:
        pass
    return scan.open[-1] if scan.open else None


def described(path: str, root: Descriptor) -> tuple[Descriptor | None, FieldDescriptor | None]:
    """The message that should own the field at `path`, and the field; None where the schema has none."""
    owner: Descriptor | None = root
    field: FieldDescriptor | None = None
    for part in path.split("."):
        if field is not None:
            owner = field.message_type
        if owner is None:
            return None, None
        field = owner.fields_by_name.get(part.partition("[")[0])
        if field is None:
            return owner, None
    return owner, field


def _message_at(path: str, root: Descriptor) -> Descriptor | None:
    _, field = described(path, root)
    return field.message_type if field is not None else None


def explained(message: str, field: FieldDescriptor | None, path: str) -> FieldError:
    """What the text-format parser complains of, in terms of the field it was reading."""
    no_value = _NO_VALUE.search(message)
    if field is not None and field.enum_type is not None and no_value:
        name = cut(no_value[1], _LONGEST)
        return FieldError(path, f"{name} is not a value of it", nearest(name, field.enum_type.values_by_name))
    bad = _BAD_VALUE.search(message)
    if field is not None and not is_message(field) and bad:
        return FieldError(path, f"{cut(bad[1], _LONGEST)} is out of range or of another type", f"write {_type_text(field)}")
    if 'Expected "true" or "false"' in message:
        return FieldError(path, "this is a switch", "write true or false")
    unknown = _NO_FIELD.search(message)
    if unknown and field is not None and field.message_type is not None:
        return FieldError(path, f"has no field {unknown[1]}", nearest(unknown[1], field.message_type.fields_by_name))
    return FieldError(path, _plain(message), "correct the text; the format is name: value and name { ... }")


def _plain(message: str) -> str:
    return cut(_QUOTED_LINE.sub("", message).rstrip("."), _LONGEST).replace("maskline.pipeline.", "")


def string_error(path: str, string: str) -> FieldError | None:
    """What is wrong with a string as it is written: a quote that stays open, escapes that are none, or that no path can hold.

    Of `"C:\\new\\train.record"`, with single backslashes, the text format makes a newline and a tab.
    """
    inside, shown = string[1:-1], cut(string[1:-1], _LONGEST)
    if len(string) == 1 or string[-1] != string[0]:
        return FieldError(path, f"the quote that opens here does not close in its line: {cut(string, _LONGEST)}", "close it, or remove it")
    if "\\" not in inside:
        return None
    try:
        value = text_encoding.CUnescape(inside).decode("utf-8", "replace")
    except ValueError:
        message = "a backslash begins an escape, and this one is none"
    else:
        if not (control := _CONTROL.search(value)):
            return None
        name = {"\n": "a newline", "\t": "a tab", "\0": "a NUL character"}.get(control[0], "a control character")
        message = f"a backslash begins an escape, and makes {name} of this"
    return FieldError(path, f"{shown}: {message}", f"write {shown.replace(BACKSLASH, '/')} or {shown.replace(BACKSLASH, BACKSLASH * 2)}")


def _type_text(field: FieldDescriptor) -> str:
    if is_message(field):
        return "{ ... }"
    if field.enum_type is not None:
        return f"one of {', '.join(field.enum_type.values_by_name)}"
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true or false"
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "text in quotes"
    bounds = bounds_of(field.containing_type.name, field.name) if field.containing_type else None
    if field.cpp_type in INTEGER_RANGES:
        low, high = INTEGER_RANGES[field.cpp_type]
        return f"a whole number {bounds_text(*bounds) if bounds else f'from {low} to {high}'}"
    return f"a number {bounds_text(*bounds)}" if bounds else "a number"
