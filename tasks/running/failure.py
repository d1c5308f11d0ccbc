"""What a person is told of an error that no step has told in its own words."""

from __future__ import annotations

import errno
import os
import tempfile
import time
import traceback
from pathlib import Path

from tasks.running.concealment import without_secrets
from tasks.running.errors import UserError

# Of files and folders that were named, each with the way out. Other errors of the system may pass, and are worth another try.
_WAYS_OUT = {
    errno.ENOENT: "correct the path, or run the step that writes it first",
    errno.ENOTDIR: "name a folder where this is a file",
    errno.EISDIR: "name a file where this is a folder",
    errno.EEXIST: "name another path, or move what is there",
    errno.ENOTEMPTY: "name another path, or move what is there",
    errno.EACCES: "get the right to read or write it, or name another path",
    errno.EPERM: "get the right to read or write it, or name another path",
    errno.EROFS: "name a path that can be written",
    errno.ENOSPC: "make room on the disk, or name a path on another one",
    errno.EDQUOT: "make room under your quota, or name a path on another disk",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ELOOP: "name a path whose links lead somewhere",
}


_FULL = (errno.ENOSPC, errno.EDQUOT)
_EXHAUSTED = "ResourceExhaustedError"
"""TensorFlow's, by its name: importing it takes seconds."""
_LESS_MEMORY = (
    "ask for less at a time: fewer images per step (--batch-size), a smaller --image-size, fewer --proposals, 16 bits (--precision), fewer "
    "--workers; or use a machine or GPU with more. `maskline plan MODEL` tells what a training needs"
)
_SHOWN = 200


def as_user_error(error: Exception) -> UserError | None:
    """What the system says of a named file, of a full disk or of its memory, with the way out; None for all else, which may be the
    program's fault."""
    if isinstance(error, MemoryError) or any(kind.__name__ == _EXHAUSTED for kind in type(error).__mro__):
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        return UserError(f"out of memory: {first[:_SHOWN]}", _LESS_MEMORY)
    if not isinstance(error, OSError) or error.errno not in _WAYS_OUT:
        return None
    # A file that was open already has no name any more when the disk is full.
    if error.filename is None and error.errno not in _FULL:
        return None
    return UserError(f"{error.filename or 'a file that was written to'}: {error.strerror}", _WAYS_OUT[error.errno])


def keep_traceback(error: BaseException, folder: Path) -> Path | None:
    """The file, new in `folder` or else in the system's temporary folder, that has the error's traceback; None where none can be made."""
    text = without_secrets("".join(traceback.format_exception(error)))
    for place in (folder, Path(tempfile.gettempdir())):
        try:
            place.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=place, prefix=time.strftime("%Y-%m-%d-%H%M%S-"), suffix=".txt")
            with os.fdopen(descriptor, "w", errors="backslashreplace") as stream:
                stream.write(text)
        except OSError:
            continue
        return Path(name)
    return None
