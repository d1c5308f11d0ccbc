"""A folder of an object store that one process at a time may write to, whichever machine it runs on.

A store knows no locks that end with their process. So the holder writes a small file into the folder and changes it every few seconds;
whoever waits watches it, by its own clock alone, and takes it away once it has stood still for long enough. A holder whose file is
another's has lost it: it sends nothing more, and ends.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.running.errors import UserError
from tasks.running.working_copy import WorkingCopy

STANDS_STILL_SECONDS = 45.0
"""More than four sendings of a working copy, each of which changes the file"""
_SECONDS_TO_WAIT = 120.0
_SURELY_STANDS_STILL_SECONDS = 600.0
"""Where the clocks of two machines are compared"""
_SECONDS_BETWEEN_LOOKS = 2.0


class StoreLease:
    """The file `name` of a workspace's store, held by this process."""

    def __init__(self, copy: WorkingCopy, name: str) -> None:
        self._copy, self._name = copy, name
        self._content: dict[str, Any] = {
            "holder": secrets.token_hex(8),
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "changed": 0,
        }

    def take(self) -> bool:
        """Whether it was free. A store that knows no condition for writing overwrites what is there: so that is looked at first."""
        if self._copy.store.read(self._name) is not None:
            return False
        return self._copy.store.write(self._name, self._encoded(), new=True) and self._is_mine()

    def confirm(self) -> None:
        """Changes the file, by which others see that its holder lives. Where another process has taken it, this one is ended."""
        if not self._is_mine():
            if not self._copy.abandoned:
                self._copy.abandoned = True
                print(
                    f"WARNING: {self._copy.url}/{self._name} is another process's by now, which took this one for dead: "
                    "nothing more is sent, and this one ends",
                    file=sys.stderr,
                    flush=True,
                )
                os.kill(os.getpid(), signal.SIGTERM)
            return
        self._content["changed"] += 1
        self._copy.store.write(self._name, self._encoded())

    def give_back(self) -> None:
        if self._is_mine():
            self._copy.store.remove(self._name)

    def _is_mine(self) -> bool:
        return bool(_holder(self._copy.store.read(self._name)).get("holder") == self._content["holder"])

    def _encoded(self) -> bytes:
        return json.dumps(self._content).encode()


@contextmanager
def leased_in_store(copy: WorkingCopy, place: str, doing: str) -> Iterator[None]:
    """Within the block no process of any machine but this one has the folder `place` of the workspace.

    At its end all that was written there is in the store. UserError, naming the holder, where one keeps it.
    """
    name = _lease_file(place)
    lease = StoreLease(copy, name)
    deadline = time.monotonic() + _SECONDS_TO_WAIT
    seen, since = copy.store.read(name), time.monotonic()
    waited = False
    while not lease.take():
        now = copy.store.read(name)
        if now != seen:
            seen, since = now, time.monotonic()
        holder = _holder(seen)
        told = f"{copy.url}/{place} {doing} by process {holder.get('process')} on {holder.get('host')} since {holder.get('since')}"
        if time.monotonic() - since > STANDS_STILL_SECONDS:
            print(f"{told}, of which nothing was heard for {STANDS_STILL_SECONDS:.0f} s: it is taken over", flush=True)
            copy.store.remove(name)
            continue
        if time.monotonic() > deadline:
            raise UserError(told, "wait until that has ended, or stop it, or name another folder")
        if not waited:
            print(f"{told}; waiting up to {_SECONDS_TO_WAIT:.0f} s for it to end", flush=True)
            waited = True
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    # What whoever had it before has done there until then.
    copy.refresh(place)
    copy.leases.append(lease)
    try:
        yield
    finally:
        # A store that is away is waited for at the step's end, and the lease stands still until then.
        try:
            copy.send()
        except Exception as error:  # each store's client has errors of its own
            told = f"{copy.url} does not answer: {error}; the lease of {place} is free when it has stood still for long enough"
            print(f"WARNING: {told}", file=sys.stderr, flush=True)
        copy.give_back(lease)


def is_leased_in_store(copy: WorkingCopy, place: str) -> bool:
    """Whether a process that lives, on whichever machine, has the folder `place` of the workspace."""
    age = copy.store.age(_lease_file(place))
    return age is not None and age < _SURELY_STANDS_STILL_SECONDS


def _lease_file(place: str) -> str:
    return f"{place}/.lease.json"


def _holder(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
