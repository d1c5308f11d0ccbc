"""Numbers that a tool wrote as text: `"50.0"` where JSON has 50.0."""

from __future__ import annotations

import re
from typing import Any

_NUMBER = re.compile(r"\s*[+-]?(\d{1,18}(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?\s*", re.ASCII)
_WHOLE = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
_PLAIN = {int, float}


def as_numbers(value: Any) -> tuple[Any, bool]:
    """A JSON value in which texts that are numbers, at any depth of its lists, are those numbers; and whether there was one.

    The values of JSON objects stay as they are: a run-length code is a text that may look like a number.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return (int(value) if _WHOLE.fullmatch(value) else float(value)), True
    if isinstance(value, list) and not set(map(type, value)) <= _PLAIN:
        read = [as_numbers(one) for one in value]
        return [one for one, _ in read], any(was_text for _, was_text in read)
    return value, False
