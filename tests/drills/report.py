"""`python -m tests.drills.report [NAME...]`: faults done to real processes, and what came of them, as a table in docs/drills.md.

Fails when a promise was not kept. Each result is kept as soon as it is there, in the workspace's folder `drills`: with `--go-on`, drills
that have one are not performed again. The table is written when all drills have a result, whichever were performed now, or with `--write`.
What a drill has left stays in that folder where its promise was not kept. Runtime: two and a half hours in all on a busy machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.running.workspace import workspace_root, write_json, write_text
from tests.drills import database, disk, kills, orchestration, records, tracker, workers
from tests.drills.drill import Bench, Drill, Found
from tests.drills.processes import REPOSITORY

MODULES = (kills, tracker, disk, records, workers, orchestration, database)
DRILLS: Mapping[str, Drill] = {drill.name: drill for module in MODULES for drill in module.DRILLS}
TABLE = REPOSITORY / "docs" / "drills.md"
COMMAND = "make drills"
HEAD = """# Drills

Written by `make drills`: what goes wrong in practice, done to real processes of a small training, and what came of it.

The training is of Inception v2 at 64 pixels, {steps} steps of 2 images with `--deterministic`, evaluated every {every} steps; its
commands are those that anybody runs (`maskline train ...`), and its own code knows nothing of drills. What a disturbed training leaves is
held against an undisturbed one of the same command. `make drills ARGS=NAME` performs one drill, and `make drills ARGS=--go-on` those that
have no result yet, after a run that was stopped. Moments are drawn by chance, from a seed (`--seed`).

Drills whose names begin with `airflow-` strike a run of the DAG `mask_rcnn_zoo` while it trains one model: on the stack of `make up`, and
for the database on the cluster of `make cluster-test`, which also kills Celery's worker and the scheduler ([cluster.md](cluster.md)).

"""


@dataclass(frozen=True)
class Result:
    """One row of the table, and what stands below it."""

    name: str
    done: str
    promised: str
    happened: str
    kept: bool | None
    times: int
    moments: Sequence[str]
    performed: str
    """When, in UTC"""
    seconds: float
    command: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the drills to perform; by default all")
    parser.add_argument("--list", action="store_true", help="tell the names and what is done, and perform none")
    parser.add_argument("--go-on", action="store_true", help="leave out what has a result, from a run that was stopped")
    parser.add_argument("--write", action="store_true", help="write the table even where drills have no result yet, and say so there")
    parser.add_argument("--seed", type=int, default=0, help="of the moments that are drawn by chance")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{drill.name}: {drill.done}" for drill in DRILLS.values()))
        return
    if unknown := sorted(set(arguments.names) - set(DRILLS)):
        parser.error(f"there is no drill {', '.join(unknown)}; --list tells the names")
    # So that no process and no file system outlives a drill that is told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = workspace_root() / "drills"
    if not arguments.go_on and not arguments.names:
        shutil.rmtree(folder, ignore_errors=True)
    chosen = [DRILLS[name] for name in arguments.names or DRILLS]
    if arguments.go_on:
        chosen = [drill for drill in chosen if not _file(folder, drill).exists()]
    for number, drill in enumerate(chosen, start=1):
        print(f"{number}/{len(chosen)} {drill.name}: {drill.done}", flush=True)
        with _alone(folder, drill):
            result = perform(drill, folder, arguments.seed)
            write_json(_file(folder, drill), dataclasses.asdict(result))
        print(f"  {_KEPT[result.kept]}, {result.seconds:.0f} s: {result.happened}", flush=True)
    results = [Result(**json.loads(_file(folder, drill).read_text())) for drill in DRILLS.values() if _file(folder, drill).exists()]
    print(f"\n{table(results)}")
    lacking = [name for name in DRILLS if name not in {result.name for result in results}]
    if lacking and not arguments.write:
        print(f"{TABLE} is not written: {', '.join(lacking)} have no result yet (--go-on performs them)")
    else:
        write_text(TABLE, page(results, lacking))
    sys.exit(any(result.kept is False for result in results))


def perform(drill: Drill, folder: Path, seed: int) -> Result:
    """What came of one drill; one that breaks off itself has kept no promise."""
    own = folder / drill.name
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    bench = Bench(own, folder / "shared", random.Random(f"{seed} {drill.name}"))
    begun, performed = time.monotonic(), datetime.now(UTC)
    try:
        found = drill.perform(bench)
    except Exception as error:
        found = Found(f"the drill broke off: {type(error).__name__}: {error}", kept=False, times=0, moments=tuple(bench.told))
    if found.kept is not False:
        shutil.rmtree(own)
    return Result(
        name=drill.name,
        done=drill.done,
        promised=drill.promised,
        happened=found.happened.replace(str(own), "..."),
        kept=found.kept,
        times=found.times,
        moments=found.moments,
        performed=f"{performed:%Y-%m-%d %H:%M}",
        seconds=round(time.monotonic() - begun, 1),
        command=f"{COMMAND} ARGS={drill.name}" if seed == 0 else f'{COMMAND} ARGS="{drill.name} --seed {seed}"',
    )


@contextmanager
def _alone(folder: Path, drill: Drill) -> Iterator[None]:
    """Ends the command where another one performs the same drill, whose folder it would take away."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{drill.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"{drill.name} is being performed by another process, in {folder}")
        yield


def _file(folder: Path, drill: Drill) -> Path:
    return folder / f"{drill.name}.json"


def page(results: Sequence[Result], lacking: Sequence[str]) -> str:
    """docs/drills.md."""
    from tests.drills.training import EVALUATE_EVERY, STEPS

    kept = [result.kept for result in results]
    faults, minutes = sum(result.times for result in results), sum(result.seconds for result in results) / 60
    told = f"{len(results)} promises: {kept.count(True)} kept, {kept.count(False)} not kept, {kept.count(None)} not tried. "
    told += f"Not performed: {', '.join(lacking)}. " if lacking else ""
    told += f"{faults} faults, on {os.cpu_count()} CPU cores, in {minutes:.0f} minutes.\n\n"
    moments = "".join(
        f"\n## When `{result.name}` struck\n\n" + "".join(f"{number}. {one}\n" for number, one in enumerate(result.moments, start=1))
        for result in results
        if result.moments
    )
    return HEAD.format(steps=STEPS, every=EVALUATE_EVERY) + told + table(results) + moments


_KEPT = {True: "kept", False: "NOT KEPT", None: "not tried"}


def table(results: Iterable[Result]) -> str:
    """A Markdown table with a row for each drill."""
    lines = ["| drill | what was done | promised | what happened | kept | times | when (UTC), how long |", "|---|---|---|---|---|---|---|"]
    for result in results:
        kept = f"**{_KEPT[result.kept]}**" if result.kept is False else _KEPT[result.kept]
        when = f"{result.performed}, {result.seconds:.0f} s"
        cells = (f"`{result.command}`", result.done, result.promised, result.happened, kept, str(result.times), when)
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
