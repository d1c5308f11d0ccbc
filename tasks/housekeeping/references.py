"""What refers to the runs and data sets of a workspace: registry, schedules, people, time, and other runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.running.errors import UserError
from tasks.running.lease import is_leased
from tasks.running.schedule_memory import last_good_run
from tasks.running.workspace import ModelDir, RunDir, at, read_json, read_settings
from tasks.tracking import ModelOutbox, PipelineOutbox
from tasks.tracking.registry import aliased_versions


@dataclass(frozen=True)
class Clock:
    """What counts as old."""

    now: float
    """Seconds since 1970"""
    age: float
    """Seconds after which what nobody has written to may go"""

    def is_young(self, moment: float) -> bool:
        return self.now - moment < self.age


@dataclass
class References:
    """Runs and data sets that stay, each with the first reason that was found."""

    kept: dict[Path, str] = field(default_factory=dict)

    def add(self, folder: Path, why: str) -> None:
        self.kept.setdefault(folder, why)


def newest(folder: Path) -> float:
    """When something in a folder, or a file, was last written, seconds since 1970."""
    moments = [folder.lstat().st_mtime]
    for parent, _, files in os.walk(folder):
        moments += [Path(parent, name).lstat().st_mtime for name in files]
    return max(moments)


def models_of(run: Path) -> list[ModelDir]:
    """The folders in a run's folder: models, whatever became of them, and what is none and has nothing of one."""
    return [ModelDir(folder) for folder in sorted(run.iterdir()) if folder.is_dir()]


def references(workspace: Path, runs: Sequence[Path], datasets: Sequence[Path], named: Iterable[str], clock: Clock) -> References:
    """Why each run or data set stays that does.

    UserError where MLflow does not answer, or a file that refers to others cannot be read: who does not know, keeps all.
    """
    found = References()
    for name in named:
        folder = workspace / "runs" / name
        if folder not in runs:
            raise UserError(f"--keep is {name}, and {workspace / 'runs'} has no such run", "correct the name")
        found.add(folder, "named by --keep")
    for alias, version in aliased_versions():
        found.add(at(version.tags.get("model_dir", "")).parent, f"{alias} of {version.name}")
    for file in sorted((workspace / "schedules").glob("*.json")):
        if last := last_good_run(file.stem):
            found.add(last.run.root, f"last good run of the schedule {file.stem}")
    for run in runs:
        if why := _needs_itself(run, clock):
            found.add(run, why)
    for dataset in datasets:
        if why := _young(dataset, clock):
            found.add(dataset, why)
    _follow(found, runs, datasets)
    return found


def _needs_itself(run: Path, clock: Clock) -> str | None:
    for model in models_of(run):
        if is_leased(model.training_lock):
            return f"{model.name} is being trained"
    if why := _young(run, clock):
        return why
    of_run = PipelineOutbox(RunDir(run))
    outboxes = [of_run, *map(ModelOutbox, of_run.models())]
    if any(outbox.journal.file.exists() and outbox.journal.left() for outbox in outboxes):
        return "MLflow does not have all of it: maskline sync"
    return None


def _young(folder: Path, clock: Clock) -> str | None:
    written = newest(folder)
    return f"written to {days(clock.now - written)} ago" if clock.is_young(written) else None


def _follow(found: References, runs: Sequence[Path], datasets: Sequence[Path]) -> None:
    """Adds what the models of the runs that stay were trained and evaluated on, and started from."""
    left = [run for run in runs if run in found.kept]
    while left:
        run = left.pop()
        for model in models_of(run):
            for path in _paths(_settings(model)):
                for folder in (*runs, *datasets):
                    if folder != run and folder in path.parents and folder not in found.kept:
                        found.add(folder, f"{model.name} of the run {run.name} was made of it")
                        left += [folder] if folder in runs else []


def _settings(model: ModelDir) -> list[Any]:
    """What tells of the records and checkpoints of a model: its experiment, and on which records it was evaluated."""
    evaluations = [folder / "metrics.json" for folder in (model.evaluation, model.test_evaluation)]
    evaluated = [read_json(file).get("records", []) for file in evaluations if file.is_file()]
    return [read_settings(model.experiment), *evaluated] if model.experiment.is_file() else evaluated


def _paths(values: Any) -> Iterator[Path]:
    """Everything in a mapping that reads like a path of this machine."""
    if isinstance(values, str):
        if values.startswith("/"):
            # Model Garden takes several patterns with commas between.
            yield from (Path(part.strip()) for part in values.split(","))
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _paths(value)
    elif isinstance(values, Sequence):
        for value in values:
            yield from _paths(value)


def days(seconds: float) -> str:
    """A length of time, for people."""
    if seconds < 0:
        return "0 hours"
    return f"{seconds / 86400:.0f} days" if seconds >= 2 * 86400 else f"{seconds / 3600:.0f} hours"
