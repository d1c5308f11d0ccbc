"""Processes that share a step's work. They are started before there is any, since each takes a while to import what it needs."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from types import TracebackType
from typing import Self, TypeVar

from tasks.running.errors import UserError
from tasks.running.progress import Progress

_SECONDS_BETWEEN_LOOKS = 0.5
_SHARES = 4  # of what is mapped, for each process: one by one, handing over would take longer than the work

_Value = TypeVar("_Value")
_Result = TypeVar("_Result")

_images_done: Synchronized[int]


class Workers:
    """`count` processes that have imported `module`; a count of 1 is the calling process alone."""

    def __init__(self, count: int, module: str) -> None:
        self.count = count
        self._pool = None
        if count > 1:
            context = multiprocessing.get_context("spawn")
            self._done = context.Value("Q")
            self._pool = ProcessPoolExecutor(count, context, _begin, (self._done, module))

    def __enter__(self) -> Self:
        _keep_imports()
        if self._pool is not None:
            with _told():
                for _ in range(self.count):
                    self._pool.submit(int)  # it starts a process for work that none is free for
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        gc.unfreeze()

    def stop(self) -> None:
        """Waits for the jobs that are begun, and drops the others; after that nothing can be done here."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[_Value], _Result], values: Sequence[_Value]) -> Iterator[_Result]:
        """The results in the values' order. UserError where a process ends before."""
        if self._pool is None:
            return map(work, values)
        with _told():
            results = self._pool.map(work, values, chunksize=max(1, len(values) // (self.count * _SHARES)))
        return _each_told(results)

    def stream(self, work: Callable[[_Value], _Result], values: Iterable[_Value], ahead: int) -> Iterator[_Result]:
        """The results in the values' order, which are taken one by one: `ahead` of them for each process are under way or done, no more.

        So neither values nor results pile up. UserError as `map`.
        """
        if self._pool is None:
            return map(work, values)
        return _each_told(self._streamed(work, values, ahead * self.count))

    def _streamed(self, work: Callable[[_Value], _Result], values: Iterable[_Value], most: int) -> Iterator[_Result]:
        assert self._pool is not None
        under_way: deque[Future[_Result]] = deque()
        for value in values:
            under_way.append(self._pool.submit(work, value))
            while under_way and (len(under_way) >= most or under_way[0].done()):
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()

    def run(
        self, work: Callable[[_Value, Callable[[], None]], _Result], jobs: Sequence[_Value], progress: Progress
    ) -> Iterator[tuple[_Value, _Result]]:
        """Each job with its result, as they are done. `work` calls what it is given after each image. UserError as `map`."""
        if self._pool is None:
            return ((job, work(job, progress.advance)) for job in jobs)
        with _told():
            futures = {self._pool.submit(partial(work, job, _count)): job for job in jobs}
        return _each_told(self._as_done(futures, progress))

    def _as_done(self, waiting: dict[Future[_Result], _Value], progress: Progress) -> Iterator[tuple[_Value, _Result]]:
        while waiting:
            for future in wait(waiting, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
            progress.reach(self._done.value)


@contextmanager
def _told() -> Iterator[None]:
    """UserError where a process that owes results is gone."""
    try:
        yield
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process ended before its work was done; mostly the system has killed it for want of memory",
            "give fewer --workers, and run again; --workers 1 shows any other reason",
        ) from error


def _each_told(results: Iterator[_Result]) -> Iterator[_Result]:
    with _told():
        yield from results


def _begin(done: Synchronized[int], module: str) -> None:
    """In a worker process: where it counts its images for the one that prints, and its end with that one, however that ends."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt is for the one that prints to tell
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _images_done
    _images_done = done
    importlib.import_module(module)
    _keep_imports()


def _end_with_parent() -> None:
    # A worker that waits for work would wait for ever, since the others hold the queue open.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _keep_imports() -> None:
    """Spares the garbage collector what is there by now: to look through it again and again takes time, and frees nothing."""
    gc.freeze()


def _count() -> None:
    with _images_done.get_lock():
        _images_done.value += 1
