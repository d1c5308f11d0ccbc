"""Sends a journal while something else runs, so that a tracker that is slow, hangs or is away costs that no time."""

from __future__ import annotations

import sys
import threading
import time

from tasks.tracking import store
from tasks.tracking.journal import BusyError
from tasks.tracking.outbox import Outbox

_SECONDS_BETWEEN_TRIES = 15.0
"""After a failure; each loop of steps asks again"""


class BackgroundSender:
    """A thread that sends whenever it is told that there is something; it never outlives the process."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._changed = threading.Condition()
        self._asked = self._answered = 0
        self._urgent = False
        self._failed_at: float | None = None
        # In this thread: two that import at once may meet modules that are half made.
        store.import_client()
        threading.Thread(target=self._run, name="mlflow", daemon=True).start()

    def wake(self) -> None:
        """Says that there is something to send; returns at once."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def flush(self, patience: float, longest: float) -> None:
        """Waits until all is sent; gives up where MLflow does not answer, takes nothing for `patience` seconds, or not all in `longest`."""
        with self._changed:
            self._asked += 1
            self._urgent, mine = True, self._asked
            self._changed.notify_all()
            start = moved = time.monotonic()
            sent = self._outbox.points_sent
            while self._answered < mine:
                self._changed.wait(0.5)
                now = time.monotonic()
                if sent != self._outbox.points_sent:
                    sent, moved = self._outbox.points_sent, now
                if now - moved > patience or now - start > longest:
                    return

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._answered == self._asked:
                    self._changed.wait()
                asked, urgent = self._asked, self._urgent
                self._urgent = False
            if urgent or self._failed_at is None or time.monotonic() - self._failed_at > _SECONDS_BETWEEN_TRIES:
                self._send()
            with self._changed:
                self._answered = asked
                self._changed.notify_all()

    def _send(self) -> None:
        try:
            self._outbox.send()
        except BusyError:
            return
        except Exception as error:  # Whatever ails the tracker, the step goes on.
            if self._failed_at is None:
                store.warn_waiting(self._outbox.journal.file, error)
            self._failed_at = time.monotonic()
            return
        if self._failed_at is not None:
            print("MLflow answers again; what it had missed is sent", file=sys.stderr, flush=True)
        self._failed_at = None
