"""Paths of another machine: which files below a folder they mean, by their names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tasks.records.tfrecord import shard_family

_PARTS = re.compile(r"[\\/]+")


class Place(NamedTuple):
    """The files that a written path means, all of one folder, and other folders that have them too."""

    files: tuple[Path, ...]
    others: tuple[Path, ...]


def place_of(written: str, files: Iterable[Path], least: int = 1) -> Place | None:
    """The files that are called as the end of a written path, which may be a pattern, as Windows or others write it; None for none.

    Of several folders it is the one whose own path is alike farthest up, then the one nearest to the root. At least `least` parts have
    to be alike.
    """
    parts = parts_of(written)
    if not parts:
        return None
    files = list(files)
    found: dict[Path, list[Path]] = {}
    for is_called in (_exactly, _of_its_shards):
        for file in files:
            if is_called(file.name, parts[-1]):
                found.setdefault(file.parent, []).append(file)
        if found:
            break
    alike = {folder: 1 + _alike_upwards(folder.parts, parts[:-1]) for folder in found}
    ranked = sorted((folder for folder in found if alike[folder] >= least), key=lambda one: (-alike[one], len(one.parts), one))
    if not ranked:
        return None
    best, *others = ranked
    return Place(tuple(sorted(found[best])), tuple(one for one in others if alike[one] == alike[best]))


def parts_of(written: str) -> list[str]:
    """The names in a path of any system, without its drive."""
    parts = [part for part in _PARTS.split(written.strip()) if part not in ("", ".", "..")]
    return parts[1:] if parts and re.fullmatch(r"[A-Za-z]:", parts[0]) else parts


def _exactly(name: str, written: str) -> bool:
    return fnmatch.fnmatchcase(name.casefold(), written.casefold())


def _of_its_shards(name: str, written: str) -> bool:
    return shard_family(name).casefold() == shard_family(written).casefold() != ""


def _alike_upwards(folder: Sequence[str], written: Sequence[str]) -> int:
    """How many parts are the same, counted from the ends."""
    count = 0
    for one, other in zip(reversed(folder), reversed(written), strict=False):
        if one.casefold() != other.casefold():
            break
        count += 1
    return count
