"""Parts of an evaluation's images, or of its objects, each with figures of its own: by what records or a side file say, size, crowding."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.coco.matches import Matches
from tasks.coco.matching import AREAS
from tasks.running.errors import UserError
from tasks.running.workspace import decoded

ALL = "all"
OBJECT_SIZE, IMAGE_SIZE, CROWDING = "object_size", "image_size", "objects_in_image"
"""Attributes that every evaluation has."""
MOST_VALUES = 20
"""Of an attribute; one with more tells single images apart."""
NO_VALUE = "(none)"

_SIDES = ((640, "up to 640 pixels"), (1280, "641 to 1280 pixels"), (np.inf, "above 1280 pixels"))
_CROWDS = ((0, "no object"), (3, "1 to 3 objects"), (10, "4 to 10 objects"), (np.inf, "11 objects or more"))


@dataclass(frozen=True)
class Slice:
    """Some of the images, bool [N], and of their objects those of one of COCO's sizes."""

    name: str
    images: npt.NDArray[np.bool_]
    area: str = "all"


def whole(matches: Matches) -> Slice:
    return Slice(ALL, np.ones(len(matches.images), bool))


def slices_of(matches: Matches) -> dict[str, list[Slice]]:
    """The slices by each attribute that tells at least two apart: the built-in ones, and those of the images.

    Attributes with more than `MOST_VALUES` values are left out; `unsliced` names them.
    """
    everything = np.ones(len(matches.images), bool)
    found = {OBJECT_SIZE: [Slice(area, everything, area) for area in list(AREAS)[1:] if matches.objects.counted(area).any()]}
    longer = np.maximum(matches.images.heights, matches.images.widths)
    objects = np.bincount(matches.objects.image[matches.objects.counted()], minlength=len(matches.images))
    for attribute, values, bounds in ((IMAGE_SIZE, longer, _SIDES), (CROWDING, objects, _CROWDS)):
        places = np.searchsorted([bound for bound, _ in bounds], values)
        found[attribute] = [Slice(name, places == place) for place, (_, name) in enumerate(bounds) if (places == place).any()]
    for attribute, texts in matches.images.attributes.items():
        told = sorted(set(texts.tolist()))
        if len(told) <= MOST_VALUES:
            found[attribute] = [Slice(value or NO_VALUE, texts == value) for value in told]
    return {attribute: slices for attribute, slices in found.items() if len(slices) > 1}


def unsliced(matches: Matches) -> dict[str, int]:
    """The attributes with too many values, and how many they have."""
    counts = {attribute: len(set(texts.tolist())) for attribute, texts in matches.images.attributes.items()}
    return {attribute: count for attribute, count in counts.items() if count > MOST_VALUES}


def read_attributes(file: Path) -> dict[str, dict[str, str]]:
    """What a CSV file says of images, by attribute and image: the first column names the image, by its file's name or its id.

    UserError where the file is none, has no attribute, or names an image twice.
    """
    fix = "write a line of names, the first `image`, and a line for each image: its file's name or id, and a value for each name"
    try:
        rows = [row for row in csv.reader(decoded(file.read_bytes()).splitlines()) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as CSV: {error}", fix) from error
    if len(rows) < 2 or len(rows[0]) < 2:
        raise UserError(f"{file} holds no attribute of an image", fix)
    names = rows[0][1:]
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f"{file}: its columns are {', '.join(rows[0])}", "give each a name of its own")
    found: dict[str, dict[str, str]] = {name: {} for name in names}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]):
            raise UserError(f"{file}: line {number} has {len(row)} columns, the first {len(rows[0])}", fix)
        if row[0] in found[names[0]]:
            raise UserError(f"{file}: line {number} names {row[0]} again", "keep one of the lines")
        for name, value in zip(names, row[1:], strict=True):
            found[name][row[0]] = value
    return found


def with_attributes(matches: Matches, attributes: Mapping[str, Mapping[str, str]], file: Path) -> Matches:
    """The matches with more attributes of their images; images that `attributes` does not name have none. UserError where it names none."""
    ids, names = matches.images.ids.tolist(), matches.images.file_names.tolist()
    told = set().union(*attributes.values())
    if not told & {*ids, *names}:
        example = f"{names[0]} or {ids[0]}"
        raise UserError(
            f"{file} names none of the {len(ids)} images, but {sorted(told)[0]}", f"name them as the evaluation does: {example}"
        )
    if missing := sum(name not in told and number not in told for number, name in zip(ids, names, strict=True)):
        print(f"{file} says nothing of {missing} of {len(ids)} images", flush=True)
    added: dict[str, Any] = {
        attribute: np.array([values.get(name, values.get(number, "")) for number, name in zip(ids, names, strict=True)], str)
        for attribute, values in attributes.items()
    }
    return dataclasses.replace(matches, images=dataclasses.replace(matches.images, attributes={**matches.images.attributes, **added}))
