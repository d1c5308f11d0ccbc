"""Parts of Airflow, the step that it runs, MLflow and the whole machine die while a run trains."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence

import psutil

from tests.drills.disk import fill
from tests.drills.drill import Bench, Drill, Found, verdict
from tests.drills.laptop import EVERY, STEPS, TRAIN, Laptop
from tests.drills.processes import small_disk

_PROMISE = (
    "the run ends well by itself; training goes on where it was, each step counts once and is once in MLflow, nothing is left running"
)


def _struck(bench: Bench, whom: Callable[[Laptop], Sequence[psutil.Process]], *, most_trainers: int) -> Found:
    """SIGKILL to processes at one moment in the middle of a training; `make up` again where supervisord is among them."""
    laptop = Laptop(bench.folder, bench.say)
    with laptop.serving():
        laptop.begin()
        laptop.until(laptop.in_the_middle)
        laptop.look()
        struck = whom(laptop)
        step = laptop.step()
        machine = any("supervisord" in f"{process.cmdline()}" for process in struck)
        kill(struck)
        bench.say(f"SIGKILL to {len(struck)} process{'es' if len(struck) > 1 else ''} after step {step}")
        if machine:
            laptop.up()
            bench.say("`make up` again")
        laptop.until(laptop.ended)
        too_many = f"{len(laptop.trainers)} processes trained" if len(laptop.trainers) > most_trainers else None
        told, kept = verdict(*laptop.problems(), too_many)
        return Found(told or f"struck after step {step}; {laptop.kept()}", kept)


def kill(processes: Sequence[psutil.Process]) -> None:
    """At one moment: nobody is left to tell of the others' end."""
    for act in (psutil.Process.suspend, psutil.Process.kill):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                act(process)


def _disk_full(bench: Bench) -> Found:
    """The disk of the workspace's runs fills up while a model trains; a person makes room and clears the task."""
    laptop = Laptop(bench.folder, bench.say)
    runs = laptop.workspace / "runs"
    runs.mkdir(parents=True)
    try:
        with small_disk(runs, _ENOUGH_BYTES), laptop.serving():
            return _filled(bench, laptop)
    except PermissionError as error:
        return Found(f"a small file system cannot be mounted here: {error}", None, 0)


def _filled(bench: Bench, laptop: Laptop) -> Found:
    ballast = laptop.workspace / "runs" / "ballast"
    laptop.begin()
    laptop.until(laptop.in_the_middle)
    step = laptop.step()
    fill(ballast, leave=0)
    bench.say(f"no room is left after step {step}: {shutil.disk_usage(ballast.parent).free} bytes")
    laptop.until(laptop.ended)
    state, tries, words = laptop.state(), laptop.tries()[TRAIN], laptop.last_words(TRAIN)
    bench.say(f"the run ended {state}: {words}")
    ballast.unlink()
    laptop.clear(TRAIN)
    laptop.until(lambda: not laptop.ended())
    laptop.until(laptop.ended)
    told, kept = verdict(
        f"with a full disk the run ended {state}" if state != "failed" else None,
        f"with a full disk the task was tried {tries} times" if tries > 1 else None,
        None if "disk" in words or "space" in words else f"the task's error is {words!r}",
        *laptop.problems(),
    )
    happened = f"filled up after step {step}: the task failed at its first try, saying {words!r}; cleared with room: {laptop.kept()}"
    return Found(told or happened, kept)


_ENOUGH_BYTES = 5 << 28
"""For a run that nothing disturbs"""

DRILLS = [
    Drill(
        "airflow-step",
        f"SIGKILL to the process that trains, among the steps of a run of {STEPS}, evaluated every {EVERY}, on the stack of `make up`",
        f"{_PROMISE}: the task is tried again and goes on from its checkpoint",
        lambda bench: _struck(bench, lambda laptop: [laptop.trainer()], most_trainers=2),
    ),
    Drill(
        "airflow-task",
        "SIGKILL to the process of the Airflow task, in the same place",
        f"{_PROMISE}: the next try joins the training that runs",
        lambda bench: _struck(bench, lambda laptop: [laptop.task()], most_trainers=1),
    ),
    Drill(
        "airflow-worker",
        "SIGKILL to the executor's worker, which supervises the task, and to the task",
        f"{_PROMISE}: the next try joins the training that runs, or takes its result",
        lambda bench: _struck(bench, lambda laptop: [laptop.worker(), laptop.task()], most_trainers=1),
    ),
    Drill(
        "airflow-scheduler",
        "SIGKILL to the scheduler, which supervisord starts again",
        _PROMISE,
        lambda bench: _struck(bench, lambda laptop: [laptop.scheduler()], most_trainers=2),
    ),
    Drill(
        "airflow-mlflow",
        "SIGKILL to the MLflow server under a run of Airflow, which supervisord starts again",
        f"{_PROMISE}: no task notices",
        lambda bench: _struck(bench, lambda laptop: _with_children(laptop.mlflow()), most_trainers=1),
    ),
    Drill(
        "airflow-machine",
        "SIGKILL to everything at one moment, steps and supervisord too, as when a machine loses its power; then `make up`",
        f"{_PROMISE}: without anybody's help, from the checkpoint",
        lambda bench: _struck(bench, lambda laptop: laptop.everything(), most_trainers=2),
    ),
    Drill(
        "airflow-disk-full",
        "the file system of the workspace's runs is filled up to the last byte while a run trains; room is made, and the task cleared",
        "the task fails at its first try, with a message about the disk; cleared, it goes on from its checkpoint, and the run ends well",
        _disk_full,
    ),
]


def _with_children(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]
