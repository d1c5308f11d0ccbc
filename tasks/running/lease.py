"""A folder that one process at a time may write to; a holder that dies, however it dies, has lost it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TextIO

from tasks.running.errors import UserError
from tasks.running.store_lease import is_leased_in_store, leased_in_store
from tasks.running.workspace import working_copy

# A training that has been told to end writes a checkpoint first; Airflow gives it a minute.
_SECONDS_TO_WAIT = 90.0
_SECONDS_BETWEEN_TRIES = 0.5
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def leased(lock: Path, doing: str) -> Iterator[None]:
    """Within the block no other process has the folder of the file `lock`; UserError, naming the holder, where one keeps it.

    `doing` says what the holder does with the folder, such as "is trained". It is a lock of the system, which ends with its process; over
    NFS it is the server's, and holds between machines. Of a workspace under a URL, the store has a lease beside it. A folder that is not
    there is left to whoever needs it.
    """
    if not lock.parent.is_dir():
        yield
        return
    with lock.open("a+") as stream:
        _take(stream, lock.parent, doing)
        stream.truncate(0)
        stream.write(f"by process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}{_task()}\n")
        stream.flush()
        copy = working_copy()
        place = copy and copy.place(lock.parent.absolute())
        with leased_in_store(copy, place, doing) if copy and place else nullcontext():
            yield


def is_leased(lock: Path) -> bool:
    """Whether a process that lives has the folder of the file `lock`."""
    copy = working_copy()
    if copy and (place := copy.place(lock.parent.absolute())):
        return is_leased_in_store(copy, place)
    if not lock.exists():
        return False
    with lock.open("r+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
    return False


def _take(stream: TextIO, folder: Path, doing: str) -> None:
    deadline, waited = time.monotonic() + _SECONDS_TO_WAIT, False
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            stream.seek(0)
            told = f"{folder} {doing} {stream.read().strip() or 'by another process'}"
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            print(f"WARNING: {folder} {doing}, and its file system has no locks: nothing keeps another process out", flush=True)
            return
        if time.monotonic() > deadline:
            raise UserError(told, "wait until that has ended, or stop it, or name another folder")
        if not waited:
            print(f"{told}; waiting up to {_SECONDS_TO_WAIT:.0f} s for it to end", flush=True)
            waited = True
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _task() -> str:
    run = os.environ.get("MASKLINE_AIRFLOW_RUN_ID")
    return f", for the Airflow run {run}" if run else ""
