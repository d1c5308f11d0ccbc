"""One command on a workspace under a URL: its arguments name places of the store, the command works on the copy of this machine."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.running.working_copy import WorkingCopy
from tasks.running.workspace import working_copy

_OF_THE_STORE_ITSELF = {"materialize"}
"""Commands that read and write URLs themselves"""
_WITHOUT_WEIGHTS = {"open-run", "recall", "remember", "compare", "sync", "review", "regrade"}
"""Commands that look at what was measured, and need no checkpoint"""


@contextmanager
def workspace_session(arguments: list[str]) -> Iterator[None]:
    """Within the block the URLs of the workspace in `arguments` are paths of its copy, brought; what is printed has URLs in their place.

    At the end all that has changed is in the store, whatever ended the block. `arguments` are changed in place; the first is the
    program's. Where the workspace is a folder, nothing happens.
    """
    copy = working_copy()
    if copy is None:
        yield
        return
    command = next((word for word in arguments[1:] if not word.startswith("-")), "")
    printed = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Addressing(stream, copy) for stream in printed)
    try:
        if command not in _OF_THE_STORE_ITSELF:
            arguments[1:] = [_localized(word, copy, with_weights=command not in _WITHOUT_WEIGHTS) for word in arguments[1:]]
        yield
    finally:
        try:
            copy.close()
        finally:
            sys.stdout, sys.stderr = printed


def _localized(word: str, copy: WorkingCopy, *, with_weights: bool) -> str:
    local = copy.localized(word)
    for found in re.findall(rf"{re.escape(str(copy.root))}/[^\s\"',]+", local):
        copy.open(copy.place(Path(found)) or "", with_weights=with_weights)
    return local


class _Addressing:
    """A stream that prints URLs in place of the copy's paths."""

    def __init__(self, stream: Any, copy: WorkingCopy) -> None:
        self._stream, self._copy = stream, copy

    def write(self, text: str) -> int:
        self._stream.write(self._copy.addressed(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
