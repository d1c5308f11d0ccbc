"""What a schedule remembers: the last run that ended well, and what it was made of. One file each, `<workspace>/schedules/NAME.json`.

It lies beside the runs that it points to: with the workspace gone, both are, and the schedule starts anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tasks
from tasks.running.errors import UserError
from tasks.running.workspace import RunDir, read_json, schedule_file, write_json

_TENSORFLOW_BUILDS = ("tensorflow", "tensorflow-cpu")


@dataclass(frozen=True)
class Ingredients:
    """All that decides what a run of a schedule trains; equal ones train the same again."""

    data: Mapping[str, str]
    """`digest` of the records, and the dataset's `name`"""
    configs: Mapping[str, str]
    """SHA-256 of each config's text, by name"""
    settings: Mapping[str, str]
    """The form's fields that are filled, by name"""
    code: Mapping[str, str]
    """Versions of this program and of TensorFlow, and the SHA-256 of the program's sources"""

    def differences(self, earlier: Ingredients) -> list[str]:
        """A line for each thing that was another one then."""
        now, then = (dict(_named_values(one)) for one in (self, earlier))
        names = [*now, *(name for name in then if name not in now)]
        return [f"{name}: {then.get(name, 'none')} -> {now.get(name, 'none')}" for name in names if now.get(name) != then.get(name)]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Ingredients:
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


@dataclass(frozen=True)
class LastGoodRun:
    run: RunDir
    ingredients: Ingredients


def last_good_run(schedule: str) -> LastGoodRun | None:
    """None where no run ended well yet, or the folder of the last one is gone, which is said."""
    file = schedule_file(schedule)
    if not file.exists():
        return None
    try:
        kept = read_json(file)
        found = LastGoodRun(RunDir(Path(kept["run"])), Ingredients.from_json(kept["ingredients"]))
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} is not what `maskline remember` writes", "remove the file; the schedule then trains anew") from error
    if not found.run.root.is_dir():
        print(f"the last good run was {found.run.root}, which is gone", flush=True)
        return None
    return found


def keep_ingredients(run: RunDir, ingredients: Ingredients) -> None:
    """Writes into the run's folder what it is made of."""
    write_json(run.ingredients, dataclasses.asdict(ingredients))


def remember_run(schedule: str, run: RunDir) -> None:
    """Makes `run` the schedule's last good one, of what `keep_ingredients` wrote."""
    write_json(schedule_file(schedule), {"run": str(run.root), "ingredients": read_json(run.ingredients)})


def code() -> dict[str, str]:
    """The program as it is: a checkout that somebody has changed is another one than its version and commit say."""
    root = Path(tasks.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return {"maskline": _version("maskline"), "tensorflow": _version(*_TENSORFLOW_BUILDS), "sources": digest.hexdigest()}


def _version(*distributions: str) -> str:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _named_values(ingredients: Ingredients) -> Iterator[tuple[str, str]]:
    for group, values in dataclasses.asdict(ingredients).items():
        for name, value in values.items():
            yield f"{group} {name}", value[:12] if len(value) == hashlib.sha256().digest_size * 2 else value
