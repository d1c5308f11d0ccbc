"""From a folder that nobody has described to a dataset's YAML beside what it describes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.annotations.folder_tree import DESCRIBE, FolderTree
from tasks.annotations.format_signs import LOOKED_FOR, LOOKS, VALUES_UNKNOWN, Found, by_library
from tasks.running.errors import UserError
from tasks.running.workspace import write_text

_OWN_NAME = "maskline.yaml"
_NAMES = (_OWN_NAME, "dataset.yaml")
_KEYS = {"source", "splits", "shapes"}
_FEW = 3
_SHARES = {"train": 0.8, "val": 0.2}


@dataclass(frozen=True)
class Recognised:
    """What a dataset's YAML says of a folder's images, and what a person should know of how that was found."""

    description: Mapping[str, Any]
    notes: tuple[str, ...]


def recognise(folder: Path) -> Recognised:
    """What is in a folder on a disk. UserError where it is nothing that is known, several things, or not to be divided."""
    tree = FolderTree(folder)
    found = [one for look in LOOKS for one in look(tree)] or list(by_library(tree))
    kinds = list(dict.fromkeys(one.kind for one in found))
    if not kinds:
        raise UserError(f"{folder}: there are no annotations that are known; looked for {'; '.join(LOOKED_FOR)}", DESCRIBE)
    where = {kind: _where(list(dict.fromkeys(one.where for one in found if one.kind == kind))) for kind in kinds}
    if len(kinds) > 1:
        raise UserError(
            f"{folder}: it may be {' or '.join(f'{kind} ({where[kind]})' for kind in kinds)}",
            f"give the folder of the one that is meant, or {DESCRIBE}",
        )
    (kind,) = kinds
    if all(VALUES_UNKNOWN in one.notes for one in found):
        raise UserError(
            f"{folder}: {where[kind]} {VALUES_UNKNOWN}", f"if they are objects, describe it with `format: {kind}`: docs/sources.md"
        )
    description, notes = _description(folder, found)
    return Recognised(description, (f"{folder} is {kind}, by {where[kind]}", *notes))


def _where(names: Sequence[str]) -> str:
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def _description(folder: Path, found: Sequence[Found]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`source` with `split`, or `splits`; UserError where two sources are of one split, or one is missing."""
    notes = tuple(dict.fromkeys(note for one in found for note in one.notes))
    splits: dict[str, Found] = {}
    for one in found:
        other = splits.setdefault(one.split or "", one)
        if other is not one:
            raise UserError(
                f"{folder}: {other.where} and {one.where} are both of {f'split {one.split!r}' if one.split else 'no split that is named'}",
                f"give the folder of one of the two, or {DESCRIBE}",
            )
    if len(splits) == 1:
        (one,) = splits.values()
        divided = "no validation images are named; `split` gives 0.8 to train and 0.2 to val, by the images' content"
        return {"source": {"format": one.kind, **one.values}, "split": dict(_SHARES)}, (*notes, divided)
    if "" in splits or not {"train", "val"} <= set(splits):
        told = ", ".join(f"{name or 'no split'} ({one.where})" for name, one in splits.items())
        raise UserError(f"{folder}: there are images of {told}, and training reads train and val", DESCRIBE)
    ordered = [name for name in ("train", "val", "test") if name in splits]
    return {"splits": {name: {"format": splits[name].kind, **splits[name].values} for name in ordered}}, notes


def description_of(dataset: Path) -> Path:
    """The YAML of a dataset: `dataset` itself, or where that is a folder on a disk the YAML in it, written there if there is none.

    Says by which file it goes. A file that is there is never written anew.
    """
    if not isinstance(dataset, Path) or not dataset.is_dir():
        return dataset
    for name in _NAMES:
        if _is_description(dataset / name):
            print(f"{dataset} is described by {dataset / name}", flush=True)
            return dataset / name
    recognised = recognise(dataset)
    name = re.sub("[^A-Za-z0-9_.-]+", "_", dataset.resolve().name).lstrip("._-") or "dataset"
    text = yaml.safe_dump({"name": name, **recognised.description}, sort_keys=False, allow_unicode=True)
    for note in recognised.notes:
        print(note, flush=True)
    path = dataset / _OWN_NAME
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}", f"write it elsewhere, with paths from there on, and give that:\n{text}"
        ) from error
    print(f"written to {path}: correct it there, and run again, where it is wrong", flush=True)
    return path


def _is_description(path: Path) -> bool:
    """Whether a file is of ours by its name, or by its keys."""
    if not path.is_file():
        return False
    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError):
        content = None
    return path.name == _OWN_NAME or (isinstance(content, dict) and "name" in content and bool(_KEYS & content.keys()))
