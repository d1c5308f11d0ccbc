"""One command on a workspace under a URL: its arguments name places of the store, the command works on the copy of this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from tasks.running.errors import UserError
from tasks.running.scratch import scratch_folder
from tasks.running.working_copy import WorkingCopy
from tasks.running.workspace import COPIES_VARIABLE, working_copy

_OF_THE_STORE_ITSELF = {"materialize", "doctor"}
"""Commands that read and write URLs themselves, or tell of the copy"""
_OF_THE_WHOLE = {"gc"}
"""Commands that look at all there is, and not into large files"""
_WITHOUT_WEIGHTS = {"open-run", "recall", "remember", "compare", "sync", "review", "regrade"}
"""Commands that look at what was measured, and need no checkpoint"""


@contextmanager
def workspace_session(arguments: list[str]) -> Iterator[None]:
    """Within the block the URLs of the workspace in `arguments` are paths of its copy, brought; what is printed has URLs in their place.

    At the end all that has changed is in the store, whatever ended the block. `arguments` are changed in place; the first is the
    program's. Where the workspace is a folder, nothing happens.

    UserError where the store cannot be reached, or no MLflow server is named.
    """
    command = next((word for word in arguments[1:] if not word.startswith("-")), "")
    with _copy_for(command) as copy:
        if copy is None or command in _OF_THE_STORE_ITSELF:
            yield
            return
        with redirect_stdout(_Addressing(sys.stdout, copy)), redirect_stderr(_Addressing(sys.stderr, copy)):
            try:
                _confirm_server(copy)
                arguments[1:] = [_localized(word, copy, with_weights=command not in _WITHOUT_WEIGHTS) for word in arguments[1:]]
                yield
            finally:
                copy.close()


@contextmanager
def _copy_for(command: str) -> Iterator[WorkingCopy | None]:
    if working_copy() is None or command not in _OF_THE_WHOLE:
        yield working_copy()
        return
    # Without what large files hold it is of no use to others.
    with scratch_folder() as scratch:
        os.environ[COPIES_VARIABLE] = str(scratch)
        copy = working_copy()
        assert copy is not None, "the workspace is a URL"
        copy.outline()
        yield copy


def _confirm_server(copy: WorkingCopy) -> None:
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError(
            f"the workspace is {copy.url}, and MLFLOW_TRACKING_URI is not set: each machine would keep a database of its own",
            "set it to the address of an MLflow server, such as http://mlflow.example:5000",
        )


def _localized(word: str, copy: WorkingCopy, *, with_weights: bool) -> str:
    """An argument with paths of the copy in place of URLs, whose places are opened."""
    local = copy.localized(word)
    for place in copy.paths_in(local):
        copy.open(place, with_weights=with_weights)
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
