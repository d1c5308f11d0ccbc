"""What tells two configs apart by their meaning: a default that is written out is no difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest

from google.protobuf.message import Message

from tasks.pipeline_config.fields import descriptor_of, is_map, is_message, joined, one_line, text_of, value_text


@dataclass(frozen=True)
class Difference:
    """A field and its two values in text format; None where a message is absent."""

    path: str
    before: str | None
    after: str | None

    def to_json(self) -> dict[str, str | None]:
        return asdict(self)


def differences(before: Message, after: Message, path: str = "") -> Iterator[Difference]:
    """The fields of two messages of one type that differ, in the schema's order.

    A scalar that is absent has its default. A message that only one of the two has is one difference, whatever it holds; elements of
    a list are compared by their place.
    """
    for field in descriptor_of(before).fields:
        name = joined(path, field.name)
        if field.is_repeated and is_message(field) and not is_map(field):
            elements = zip_longest(getattr(before, field.name), getattr(after, field.name))
            for index, (left, right) in enumerate(elements):
                yield from _of_messages(f"{name}[{index}]", left, right)
        elif is_message(field) and not is_map(field) and before.HasField(field.name) and after.HasField(field.name):
            yield from differences(getattr(before, field.name), getattr(after, field.name), name)
        else:
            text = text_of if is_message(field) else value_text
            values = text(before, field.name), text(after, field.name)
            if values[0] != values[1]:
                yield Difference(name, *values)


def difference_lines(found: Iterable[Difference]) -> str:
    """A line of text for each difference; for people."""
    lines = [f"{one.path}: {_shown(one.before)} -> {_shown(one.after)}\n" for one in found]
    return "".join(lines) or "no difference\n"


def _of_messages(path: str, before: Message | None, after: Message | None) -> Iterator[Difference]:
    if before is not None and after is not None:
        yield from differences(before, after, path)
    else:
        yield Difference(path, *(None if one is None else f"{{ {one_line(one)} }}" for one in (before, after)))


def _shown(value: str | None) -> str:
    return "absent" if value is None else value
