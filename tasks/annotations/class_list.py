"""The list of classes that tools put beside masks in Pascal VOC's folders: names in the order of their numbers, or with a colour each.

`class_names.txt` is LabelMe's, from `_background_` on; `labelmap.txt` is CVAT's and Datumaro's, `name:red,green,blue:parts:actions` a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.annotations.folder import listed_lines
from tasks.records.checks import Check, DataError

FILES = ("labelmap.txt", "class_names.txt", "labels.txt", "classes.txt")
_BACKGROUND = ("_background_", "background")
_NO_CLASSES = ("__ignore__", "ignored", "void")
_COLOURED = re.compile(r"(?P<name>[^:]+):\s*(?P<red>\d{1,3})\s*,\s*(?P<green>\d{1,3})\s*,\s*(?P<blue>\d{1,3})\s*(:.*)?")
_UNCOLOURED = re.compile(r"(?P<name>[^:]+):.*")


@dataclass(frozen=True)
class ClassList:
    """`names` are those of classes 1, 2, 3, ...

    `colours` has the class of a colour (red * 65536 + green * 256 + blue), empty where the file has none; `indices` has the class of a
    value in masks that hold numbers. Both have 0 for the background, and -1 for what is no class.
    """

    path: Path
    names: tuple[str, ...]
    colours: dict[int, int]
    indices: list[int]


def read_class_list(folder: Path, entries: Iterable[str]) -> ClassList | None:
    """The list that a folder of these `entries` has, None where it has none. DataError where two of its lists name other classes."""
    found = [_read(folder / name) for name in FILES if name in entries]
    for one in found[1:]:
        if one.names != found[0].names:
            raise DataError(
                Check.SOURCE_MALFORMED,
                f"{one.path} names the classes {', '.join(one.names)}, and {found[0].path.name} beside it {', '.join(found[0].names)}",
                "remove the one that is not of these masks",
            )
    return found[0] if found else None


def _read(path: Path) -> ClassList:
    names: list[str] = []
    colours: dict[int, int] = {}
    indices: list[int] = []
    for line in listed_lines(path, "folder"):
        match = _COLOURED.fullmatch(line) or _UNCOLOURED.fullmatch(line)
        name = match["name"].strip() if match else line
        number = 0 if name.casefold() in _BACKGROUND else -1 if name.casefold() in _NO_CLASSES else len(names) + 1
        if number > 0:
            names.append(name)
        # LabelMe's `__ignore__` stands before the number 0.
        if not (name == "__ignore__" and not indices):
            indices.append(number)
        if match and "red" in match.re.groupindex:
            colour = int(match["red"]) << 16 | int(match["green"]) << 8 | int(match["blue"])
            if colours.setdefault(colour, number) != number:
                raise DataError(Check.SOURCE_MALFORMED, f"{path}: the colour of {name!r} is another class's too", "give each its own")
    if not names:
        raise DataError(Check.SOURCE_MALFORMED, f"{path}: it names no class", "write one a line, or remove the file")
    if 0 not in indices:
        indices.insert(0, 0)
    return ClassList(path, tuple(names), colours, indices)
