"""The disk of a training's checkpoints fills up, or is too small from the start."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.drills.drill import Bench, Drill, Found, verdict
from tests.drills.left import differences, unfinished
from tests.drills.processes import Ended, small_disk
from tests.drills.training import EVALUATE_EVERY, FAILED, STEPS, Training, undisturbed

_MESSAGE = "error:"


def _fills_up(bench: Bench) -> Found:
    plain, training = undisturbed(bench), Training(bench.folder / "training")
    folder, one = training.model.train, plain.checkpoint_bytes
    try:
        # Two newest, the best and one that is being written, and some room for all else.
        with small_disk(folder, 5 * one):
            return _filled_three_times(bench, training, folder, one)
    except PermissionError as error:
        return Found(f"a small file system cannot be mounted here: {error}", None, 0)


def _filled_three_times(bench: Bench, training: Training, folder: Path, one: int) -> Found:
    plain = undisturbed(bench)
    ballast = folder / "ballast"
    problems: list[str] = []
    told: list[str] = []

    def stopped(what: str, done: Ended, before: list[int]) -> None:
        ballast.unlink()
        line = done.line(_MESSAGE) or done.output[-200:]
        told.append(f"{what}, after step {training.step()}: code {done.code}, kept {', '.join(map(str, training.checkpoints()))}")
        bench.say(f"{told[-1]}: {line}")
        if done.code != FAILED or _MESSAGE not in done.output or not _is_about_room(line):
            problems.append(f"{what}: ended with {done.code}: {line}")
        lost = [step for step in before[-1:] if step not in training.checkpoints()]
        problems.extend(f"{what}: the checkpoint of step {step} was lost" for step in lost)

    def reached(step: int) -> bool:
        return step in training.checkpoints() and step in training.evaluated()

    with training.running() as process:
        process.until(lambda: reached(EVALUATE_EVERY), every=0.002)
        before = training.checkpoints()
        fill(ballast, leave=one // 2)
        stopped("filled up to half a checkpoint", process.end(), before)
    with training.running() as process:
        lines = training.lines()
        process.until(lambda: training.lines() > lines, every=0.002)
        before = training.checkpoints()
        fill(ballast, leave=0)
        stopped("filled up to the last byte among the steps", process.end(), before)
    with training.running() as process:
        there = unfinished(folder)
        before = training.checkpoints()
        # Training has found the room that it asks for. The next checkpoint has some when its writing begins, and then has not.
        process.until(lambda: process.says("training from step"))
        fill(ballast, leave=one * 6 // 5)
        process.until(lambda: any(name.startswith("ckpt-") for name in unfinished(folder) - there), every=0.0005)
        fill(ballast, leave=0)
        stopped("filled up while a checkpoint was written", process.end(), before)
    done = training.run()
    if done.code:
        problems.append(f"with room again training ended with {done.code}: {done.output[-300:]}")
    else:
        problems += differences(plain.left, training.left())
    said, kept = verdict(*problems)
    return Found(said or f"{'; '.join(told)}. Then to step {STEPS}, to the bit as an undisturbed one", kept, len(told))


def fill(ballast: Path, leave: int) -> None:
    """Takes all room but so many bytes."""
    with ballast.open("ab") as stream:
        # What others write meanwhile takes some of the room that was free.
        while (room := shutil.disk_usage(ballast.parent).free - leave) > 0:
            try:
                os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size + room)
            except OSError:
                continue


def _is_about_room(line: str) -> bool:
    return any(words in line.lower() for words in ("no space left", "disk has", "disk is full"))


def _too_small(bench: Bench) -> Found:
    plain, training = undisturbed(bench), Training(bench.folder / "training")
    try:
        with small_disk(training.model.train, 3 * plain.checkpoint_bytes):
            done = training.run()
            line = done.line(_MESSAGE)
            told, kept = verdict(
                f"ended with {done.code}: {done.output[-300:]}" if done.code != FAILED else None,
                None if "checkpoints will take" in line and "--keep" in done.output else f"said: {line}",
                f"{training.step()} steps were taken" if training.step() else None,
            )
    except PermissionError as error:
        return Found(f"a small file system cannot be mounted here: {error}", None, 0)
    return Found(told or f"code {done.code} before the first step: {line.replace(str(bench.folder), '...')}", kept)


DRILLS = [
    Drill(
        "disk-full",
        "a file system of five checkpoints is filled up three times during a training: to less than a checkpoint, to the last byte among "
        "the steps, and while a checkpoint is being written; each time room is made and the same command run again",
        "code 2 and a message that says so; no earlier checkpoint is lost; with room, training goes on to what an undisturbed one leaves",
        _fills_up,
    ),
    Drill(
        "disk-small",
        "a training on a file system of three checkpoints, which needs four at once",
        "refused before the first step, with what it needs and what there is",
        _too_small,
    ),
]
