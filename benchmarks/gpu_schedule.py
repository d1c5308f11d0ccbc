"""Cells of a table, each measured by a process of its own, and what became of each, written down as soon as it is known.

Processes build and trace side by side, and take the device one after the other: a cell says when it is ready and waits until it may go.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

COUNT, STEP, PARITY = "count", "step", "parity"
DONE, OUT_OF_MEMORY, FAILED = "done", "out of memory", "failed"
READY = "ready"

_SECONDS_BETWEEN_LOOKS = 0.2
# The largest batch is foreseen from what one and two images took; other processes wait beside it with their weights.
_SHARE_OF_MEMORY = 0.93
_WAITING_BYTES = 1.5e9
_MOST_TRIES = 3
_SMALLER = 0.88


@dataclass(frozen=True)
class Cell:
    """One measurement: a model's operations (`COUNT`), its training step, or its agreement with the original (`PARITY`)."""

    kind: str
    config: str
    precision: str = ""
    xla: bool = False
    images: int = 0

    def __str__(self) -> str:
        if self.kind != STEP:
            return f"{self.config}: {self.kind}"
        return f"{self.config}, {self.precision}{', XLA' if self.xla else ''}, batch {self.images}"


@dataclass(frozen=True)
class Result:
    status: str
    values: dict[str, Any]
    """What was measured of a cell that is `DONE`"""
    why: str = ""
    """Of one that is not"""
    seconds: float = 0.0
    """Of its process, start and waiting included"""


Results = dict[Cell, Result]


@dataclass(frozen=True)
class Plan:
    """Which cells make the table."""

    configs: tuple[str, ...]
    precisions: tuple[str, ...]
    xla: tuple[bool, ...]
    batches: tuple[int, ...]
    largest: bool
    """Whether the largest batch that fits is looked for, which needs batches of 1 and 2"""
    parity: bool
    memory_bytes: int
    """Of the device"""


def to_do(plan: Plan, results: Mapping[Cell, Result], waiting: int = 0) -> list[Cell]:
    """The cells that are left, as far as they are known by now, the most telling first; `waiting` processes hold their weights meanwhile.

    All of one compilation come before the next: without XLA there is a table long before XLA has compiled each model for each size.
    """
    wanted = [Cell(COUNT, config) for config in plan.configs]
    for xla in plan.xla:
        wanted += [
            Cell(STEP, config, precision, xla, images)
            for images in plan.batches
            for precision in plan.precisions
            for config in plan.configs
        ]
        if plan.largest:
            found = (
                largest_to_try(results, config, precision, xla, plan.memory_bytes - waiting * _WAITING_BYTES)
                for precision in plan.precisions
                for config in plan.configs
            )
            wanted += [cell for cell in found if cell]
        if plan.parity and xla == plan.xla[0]:
            wanted += [Cell(PARITY, config) for config in plan.configs]
    return [cell for cell in wanted if cell not in results]


def largest_to_try(results: Mapping[Cell, Result], config: str, precision: str, xla: bool, memory_bytes: float) -> Cell | None:
    """The next number of images to try for the largest batch; None where it is found, or not yet to be foreseen."""
    cells = {cell.images: result for cell, result in results.items() if cell == Cell(STEP, config, precision, xla, cell.images)}
    if any(images > 2 and result.status == DONE for images, result in cells.items()):
        return None
    if any(images not in cells or cells[images].status != DONE for images in (1, 2)):
        return None
    tried = [images for images in cells if images > 2]
    if len(tried) >= _MOST_TRIES:
        return None
    if tried:
        images = math.floor(min(tried) * _SMALLER)
    else:
        one, two = (cells[images].values["peak_bytes"] for images in (1, 2))
        each = max(two - one, 0.2 * one)
        images = math.floor((_SHARE_OF_MEMORY * memory_bytes - (one - each)) / each)
    return Cell(STEP, config, precision, xla, images) if images > 2 else None


def read_results(file: Path) -> Results:
    """What was written of earlier calls; cells that failed are to be tried again, and a line that a kill has cut off is none."""
    if not file.exists():
        return {}
    results: Results = {}
    for line in file.read_text().splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        cell, result = Cell(**values["cell"]), Result(**values["result"])
        results.pop(cell, None)
        if result.status != FAILED:
            results[cell] = result
    return results


def add_result(file: Path, cell: Cell, result: Result) -> None:
    """Appends it, on the disk before anything else is begun."""
    cut_off = file.exists() and file.stat().st_size and not file.read_bytes().endswith(b"\n")
    with file.open("a") as stream:
        line = json.dumps({"cell": dataclasses.asdict(cell), "result": dataclasses.asdict(result)})
        stream.write(("\n" if cut_off else "") + line + "\n")
        stream.flush()
        os.fsync(stream.fileno())


@dataclass
class _Process:
    cell: Cell
    popen: subprocess.Popen[str]
    log: Path
    started: float
    worked: float = 0.0
    """Seconds before it was ready"""
    went: float | None = None
    """When it took the device"""
    is_ready: bool = False
    answer: dict[str, Any] | None = None

    def seconds(self) -> float:
        """That it has worked, without its wait for the device."""
        now = time.monotonic()
        if self.is_ready:
            return self.worked + (now - self.went if self.went else 0.0)
        return now - self.started


class Processes:
    """Measures cells in processes of `command` with two arguments, the cell and `settings` as JSON; `logs` is a folder.

    A process prints a JSON object a line: {"ready": true} when it wants the device, which it has once it reads a line, and at the end
    {"status": ..., "values": {...}, "why": ...}. One that ends without is a cell that has failed, and so is one that works for longer than
    `cell_seconds`.
    """

    def __init__(self, command: Sequence[str], settings: Mapping[str, Any], logs: Path, most: int, cell_seconds: float) -> None:
        self._command, self._settings, self._logs = list(command), json.dumps(settings), logs
        self._most, self._cell_seconds = most, cell_seconds
        self._lines: queue.Queue[tuple[Cell, str | None]] = queue.Queue()
        self._running: dict[Cell, _Process] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def results(self, following: Callable[[], Sequence[Cell]], end: float) -> Iterator[tuple[Cell, Result]]:
        """What becomes of the cells that `following` names, asked again after each, until none is left or the clock says `end`.

        Processes that run then are ended, and their cells remain as they were.
        """
        try:
            while time.monotonic() < end:
                for cell in [cell for cell in following() if cell not in self._running]:
                    if len(self._running) < self._most:
                        self._start(cell)
                if not self._running:
                    return
                self._let_one_go()
                yield from self._ended()
        finally:
            for process in self._running.values():
                process.popen.kill()
                process.popen.wait()
            self._running.clear()

    def _start(self, cell: Cell) -> None:
        name = f"{cell.kind}-{cell.config}-{cell.precision}-{'xla' if cell.xla else 'plain'}-{cell.images}"
        log = self._logs / f"{name}.log"
        arguments = [*self._command, json.dumps(dataclasses.asdict(cell)), self._settings]
        with log.open("w") as stream:
            popen = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, text=True)
        self._running[cell] = _Process(cell, popen, log, time.monotonic())
        threading.Thread(target=self._listen, args=(cell, popen.stdout), daemon=True).start()

    def _listen(self, cell: Cell, stdout: IO[str]) -> None:
        for line in stdout:
            self._lines.put((cell, line))
        self._lines.put((cell, None))

    def _let_one_go(self) -> None:
        if any(process.went for process in self._running.values()):
            return
        process = next((process for process in self._running.values() if process.is_ready), None)
        if process is not None and process.popen.stdin:
            process.went = time.monotonic()
            try:
                process.popen.stdin.write("go\n")
                process.popen.stdin.flush()
            except BrokenPipeError:
                # It has just died, which its end will tell.
                pass

    def _ended(self) -> Iterator[tuple[Cell, Result]]:
        """Those that end, or have worked for too long, within a moment."""
        try:
            cell, line = self._lines.get(timeout=_SECONDS_BETWEEN_LOOKS)
        except queue.Empty:
            yield from self._too_late()
            return
        process = self._running.get(cell)
        if process is None:
            return
        if line is None:
            yield cell, self._result_of(self._running.pop(cell))
            return
        told = json.loads(line)
        if told.get(READY):
            process.is_ready, process.worked = True, time.monotonic() - process.started
        else:
            process.answer = told

    def _result_of(self, process: _Process) -> Result:
        code, seconds = process.popen.wait(), round(time.monotonic() - process.started, 1)
        if process.answer is not None:
            return Result(**process.answer, seconds=seconds)
        if code == -9:
            return Result(FAILED, {}, "its process was killed, perhaps because the machine's memory was full", seconds)
        lines = [line for line in process.log.read_text(errors="replace").splitlines() if line.strip()]
        return Result(FAILED, {}, f"its process ended with code {code}: {lines[-1][:200] if lines else 'it said nothing'}", seconds)

    def _too_late(self) -> Iterator[tuple[Cell, Result]]:
        for cell, process in list(self._running.items()):
            if process.seconds() > self._cell_seconds:
                del self._running[cell]
                process.popen.kill()
                process.popen.wait()
                yield cell, Result(FAILED, {}, f"it took longer than {self._cell_seconds:g} s", round(process.seconds(), 1))


def this_python(module: str) -> list[str]:
    """The command that runs a module of this project in a process of its own."""
    return [sys.executable, "-m", module]
