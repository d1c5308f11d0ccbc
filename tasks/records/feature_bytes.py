"""One feature of a serialized record, read where it stands: many megabytes of dense masks are not copied to look at one of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tasks.running.wire_format import fields, messages

# Numbers of fields in `tf.train.Example` and the messages in it.
_FEATURES = _ENTRY = _KEY = _VALUES = 1
_FEATURE = 2
_BYTES, _FLOATS = 1, 2


def byte_strings(serialized: bytes, key: str) -> list[memoryview] | None:
    """The byte strings of a feature, none where the record has no such feature; None where it holds something else. WireError."""
    kind, stored = _feature(serialized, key)
    if kind not in (None, _BYTES):
        return None
    return [content for number, content in fields(stored) if number == _VALUES and isinstance(content, memoryview)]


def floats(serialized: bytes, key: str) -> npt.NDArray[np.float32] | None:
    """The numbers of a feature, a view of the record's bytes; the rest as for `byte_strings`."""
    kind, stored = _feature(serialized, key)
    if kind not in (None, _FLOATS):
        return None
    parts = [np.frombuffer(content, "<f4") for number, content in fields(stored) if number == _VALUES and isinstance(content, memoryview)]
    # Writers pack all numbers in one; others are allowed.
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.float32), *parts])


def _feature(serialized: bytes, key: str) -> tuple[int | None, memoryview]:
    """Which kind of list a feature holds, and the list; None where there is no such feature, or no list in it."""
    wanted = key.encode()
    found: tuple[int | None, memoryview] = None, memoryview(b"")
    for features in messages(memoryview(serialized), _FEATURES):
        for entry in messages(features, _ENTRY):
            name, lists = b"", memoryview(b"")
            for number, content in fields(entry):
                if number == _KEY:
                    name = bytes(content)
                elif number == _FEATURE:
                    lists = content
            if name == wanted:
                found = next(((number, content) for number, content in fields(lists)), (None, memoryview(b"")))
    return found
