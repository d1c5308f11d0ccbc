"""Annotations in JSON that fits into memory: one file for an image, or what a tool in a browser wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.annotations.source import unopened
from tasks.records.checks import Check, DataError
from tasks.running.pointer_file import pointer_in


def read_json_object(path: Path, tool: str) -> dict[str, Any]:
    """The object that is the file's content; DataError, naming the `tool` to write it with, where it is missing or something else."""
    try:
        read = path.read_bytes()
    except OSError as error:
        raise unopened(path, error) from error
    try:
        content = json.loads(read)
    except ValueError as error:
        if pointer := pointer_in(read):
            raise DataError(Check.SOURCE_MALFORMED, f"{path}: {pointer.problem}", pointer.fix) from error
        raise DataError(Check.SOURCE_MALFORMED, f"{path}: not JSON: {error}", f"save the annotations in {tool} again") from error
    if not isinstance(content, dict):
        raise DataError(Check.SOURCE_MALFORMED, f"{path}: the JSON is no object", f"name a file that {tool} wrote")
    return content
