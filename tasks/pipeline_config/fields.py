"""Fields of a config by their path as a person writes it: `eval_input_reader[0].tf_record_input_reader.input_path`."""

from __future__ import annotations

import difflib
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from tasks.running.errors import UserError

INTEGER_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
}

_PATH_PART = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:\[(\d+)\])?")


# Whatever a file holds, what is said of it has room on a screen.
_LONGEST_NAME, _LONGEST_PATH, _LONGEST_MESSAGE, _LONGEST_FIX = 60, 200, 400, 1200


class FieldError(UserError):
    """A `UserError` about one field, whose `path` lets the caller say where in the file it stands; long words are cut."""

    def __init__(self, path: str, message: str, fix: str) -> None:
        super().__init__(f"{cut(path, _LONGEST_PATH)}: {cut(message, _LONGEST_MESSAGE)}", cut(fix, _LONGEST_FIX))
        self.path = path


class OtherFamilyError(FieldError):
    """The model is of a family that is not built here; nothing else matters then."""


class RangeError(FieldError):
    """A value that makes no sense where it stands."""


class ConfigError(UserError):
    """Everything that a config is refused for, families before fields."""

    def __init__(self, errors: Sequence[UserError]) -> None:
        self.errors = tuple(sorted(errors, key=lambda error: not isinstance(error, OtherFamilyError)))
        super().__init__("\n".join(error.message for error in self.errors), "\n".join(error.fix for error in self.errors))


def together(errors: Sequence[UserError]) -> UserError:
    """The one error, or all of them as `ConfigError`, which are flattened."""
    flat = [one for error in errors for one in (error.errors if isinstance(error, ConfigError) else (error,))]
    return flat[0] if len(flat) == 1 else ConfigError(flat)


def cut(words: str, length: int) -> str:
    """The words, or as many characters of their beginning, with three dots for the rest."""
    return words if len(words) <= length else f"{words[: length - 3]}..."


@dataclass(frozen=True)
class Change:
    """One field that an edit changed: its value before and after in text format (None: absent), and why."""

    path: str
    before: str | None
    after: str | None
    why: str

    def to_json(self) -> dict[str, str | None]:
        return {"path": self.path, "before": self.before, "after": self.after, "why": self.why}


def descriptor_of(message: Message) -> Descriptor:
    return cast(Descriptor, message.DESCRIPTOR)


def joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint that names the closest valid name, or all of them where none is close."""
    names = sorted(valid)
    close = difflib.get_close_matches(cut(name, _LONGEST_PATH), names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"valid names: {', '.join(names)}" if names else "nothing can stand here"


def unknown_field(descriptor: Descriptor, path: str, name: str) -> FieldError:
    """The error for a name that the message at `path` lacks."""
    where, name = path or "the top level", cut(name, _LONGEST_NAME)
    return FieldError(joined(path, name), f"{where} has no field {name}", nearest(name, descriptor.fields_by_name))


def shortest(value: float) -> float:
    """The float of fewest digits that is the same float32: 0.7 for the stored 0.699999988."""
    try:
        stored = struct.pack("<f", value)
    except OverflowError:
        return value
    candidates = (float(f"{value:.{digits}g}") for digits in range(6, 10))
    return next((candidate for candidate in candidates if struct.pack("<f", candidate) == stored), value)


def is_message(field: FieldDescriptor) -> bool:
    return field.message_type is not None


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def set_values(message: Message, path: str = "") -> Iterator[tuple[str, Message, FieldDescriptor, Any]]:
    """(path, owner, field, value) of everything that is set, depth first.

    An element of a repeated message has its own `[i]` path; a repeated scalar or a map is one value. A message comes
    before what it holds.
    """
    for field, value in message.ListFields():
        name = joined(path, field.name)
        if not is_message(field) or is_map(field):
            yield name, message, field, value
        elif field.is_repeated:
            for index, element in enumerate(value):
                yield f"{name}[{index}]", message, field, element
                yield from set_values(element, f"{name}[{index}]")
        else:
            yield name, message, field, value
            yield from set_values(value, name)


def text_of(message: Message, name: str) -> str | None:
    """The field in text format, on one line; None where it is not set."""
    if not any(present.name == name for present, _ in message.ListFields()):
        return None
    return value_text(message, name)


def value_text(message: Message, name: str) -> str:
    """As `text_of`, with the language's default where the field is not set."""
    field = descriptor_of(message).fields_by_name[name]
    if is_message(field):
        alone = type(message)()
        _copy_field(message, alone, field)
        return one_line(alone)
    return _scalar_text(field, getattr(message, name))


def one_line(message: Message) -> str:
    """The message in text format, without line breaks."""
    return text_format.MessageToString(message, as_one_line=True, use_short_repeated_primitives=True)


def follow(config: Message, path: str) -> tuple[Message, FieldDescriptor, int | None]:
    """The message that owns the field at `path`, the field, and the index where the path names an element.

    Messages on the way are created (in a `oneof`, they take the other's place). Raises FieldError for what is missing.
    """
    message, walked = config, ""
    parts = path.split(".")
    for position, part in enumerate(parts):
        match = _PATH_PART.fullmatch(part)
        if match is None:
            raise FieldError(path, f"{part!r} is not a field name", "write names joined by dots, elements as name[0]")
        name, index = match[1], int(match[2]) if match[2] else None
        field = descriptor_of(message).fields_by_name.get(name)
        if field is None:
            raise unknown_field(descriptor_of(message), walked, name)
        walked = joined(walked, part)
        if index is not None and not (field.is_repeated and index < len(getattr(message, name))):
            raise FieldError(walked, "there is no such element", f"the config has {_count(message, field)} of {name}, counted from 0")
        if position == len(parts) - 1:
            return message, field, index
        if not is_message(field):
            raise FieldError(walked, "holds a value, not fields", f"set {walked} itself")
        message = _enter(message, field, index, walked)
    raise AssertionError("a split path has at least one part")


def clear(config: Message, path: str) -> None:
    """Takes away what is set at `path`, which leaves the default."""
    owner, field, _ = follow(config, path)
    owner.ClearField(field.name)


def _enter(message: Message, field: FieldDescriptor, index: int | None, path: str) -> Message:
    value = getattr(message, field.name)
    if not field.is_repeated:
        value.SetInParent()
        return value  # type: ignore[no-any-return]
    if index is None:
        if len(value) == 1:
            return value[0]  # type: ignore[no-any-return]
        raise FieldError(path, f"is a list of {len(value)}", f"say which one: {path}[0]")
    return value[index]  # type: ignore[no-any-return]


def _count(message: Message, field: FieldDescriptor) -> int:
    return len(getattr(message, field.name)) if field.is_repeated else 1


def _copy_field(source: Message, target: Message, field: FieldDescriptor) -> None:
    value = getattr(source, field.name)
    if field.is_repeated:
        getattr(target, field.name).MergeFrom(value)
    else:
        getattr(target, field.name).CopyFrom(value)


def _scalar_text(field: FieldDescriptor, value: Any) -> str:
    if field.is_repeated:
        return f"[{', '.join(_scalar_text_one(field, one) for one in value)}]"
    return _scalar_text_one(field, value)


def _scalar_text_one(field: FieldDescriptor, value: Any) -> str:
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[value].name)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(shortest(value))
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)
