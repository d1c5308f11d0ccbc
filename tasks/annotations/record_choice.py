"""What of a data set its records shall hold, as the dataset's YAML says it, or the command line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from tasks.annotations.categories import CategoryChoice
from tasks.annotations.formats import locate
from tasks.annotations.shard import Crowds
from tasks.annotations.split_names import TEST, TRAIN, VAL, split_meanings
from tasks.records.checks import Check, Outcome
from tasks.records.example import MASK_TYPES, PNG_MASKS
from tasks.running.errors import UserError

_SPLITS = (TRAIN, VAL, TEST)
_FRACTION_SUM_TOLERANCE = 1e-6
COMMAND_LINE = "command line"
"""The place of options that are no YAML's."""
_SHARES = "write shares of train, val and perhaps test above 0 that sum to 1"


class EmptyImages(StrEnum):
    """What becomes of images without objects."""

    INCLUDE = "include"
    """they stay: training learns from them what is no object"""
    DROP = "drop"


class WithoutMask(StrEnum):
    """What becomes of objects that have a box only."""

    REFUSE = "refuse"
    """their image is quarantined: the object would be taught to be background"""
    DROP = "drop"


class DuplicateImages(StrEnum):
    """What becomes of a second copy of an image in its split."""

    DROP = "drop"
    """left out where it has the same objects, else quarantined"""
    KEEP = "keep"


@dataclass(frozen=True)
class Choice:
    """What of the images and annotations the records hold, and in which form. The fields are the YAML's keys."""

    split: Mapping[str, float] | None = None
    """Shares by a hash of the image's content"""
    limit: int | None = None
    """Images of each split, the first ones"""
    only_categories: tuple[str, ...] = ()
    remap_categories: Mapping[str, str | None] = field(default_factory=dict)
    empty: EmptyImages = EmptyImages.INCLUDE
    crowds: Crowds = Crowds.KEEP
    mask_type: str = PNG_MASKS
    objects_without_mask: WithoutMask = WithoutMask.REFUSE
    duplicate_images: DuplicateImages = DuplicateImages.DROP
    corrections: tuple[Path, ...] = ()
    """COCO JSON files that are laid over the annotations, see `corrections.py`"""

    @property
    def categories(self) -> CategoryChoice:
        return CategoryChoice(self.remap_categories, self.only_categories)


def read_options(values: Mapping[str, Any], place: str, folder: Path) -> dict[str, Any]:
    """The values of fields of `Choice` in their types; UserError names the one that is wrong, after `place`.

    They come as a YAML has them, or as texts of the command line. A file of names is looked for in `folder`.
    """
    found = {}
    for key, value in values.items():
        try:
            found[key] = _READERS[key](value, folder)
        except _OptionError as error:
            name = f"--{key.replace('_', '-')}" if place == COMMAND_LINE else f"{place}: {key}"
            raise UserError(f"{name} {error}", error.fix) from error
    return found


def choose(described: Mapping[str, Any], given: Mapping[str, Any]) -> Choice:
    """The choice of what a YAML describes and the command line gives, both read; the command line's wins, and is told."""
    for key in OPTIONS:
        if key in described and key in given and described[key] != given[key]:
            said = f"--{key.replace('_', '-')} {_shown(given[key])}"
            print(f"{said} of the command line counts, not the YAML's {key}: {_shown(described[key])}", flush=True)
    return Choice(**{**described, **given})


def parse_range(text: str) -> tuple[int, int]:
    """The two numbers of `A:B`."""
    first, _, end = text.partition(":")
    if not (first.isdecimal() and end.isdecimal()):
        raise UserError(f"--shard-range is {text!r}", "write two numbers, like 0:4 for the first four shards")
    return int(first), int(end)


def parse_limits(text: str) -> tuple[int, dict[str, int]]:
    """The images that may be quarantined and the limits by code of `20`, `box-off-mask=5` or `20,box-off-mask=5,object-outside=0`."""
    max_bad, by_code = 0, {}
    codes = [check.value for check in Check if check.outcome != Outcome.FATAL]
    for part in text.split(","):
        code, separator, number = (word.strip() for word in part.rpartition("="))
        if not number.isdecimal():
            raise UserError(f"--max-bad is {text!r}", "give numbers of at least 0, such as 20, or 20,box-off-mask=5")
        if not separator:
            max_bad = int(number)
        elif code in codes:
            by_code[code] = int(number)
        else:
            nearest = difflib.get_close_matches(code, codes, n=1)
            hint = f"did you mean `{nearest[0]}`?" if nearest else "docs/checks.md lists the codes"
            raise UserError(f"--max-bad names {code!r}, which is no code of a fault that a run survives", hint)
    return max_bad, by_code


class _OptionError(Exception):
    """What is wrong with a value, after the option's name, and how to write it."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def _read_shares(value: Any, _: Path) -> dict[str, float]:
    """Of a mapping, or of a text such as `0.8/0.1/0.1`; under the names that the steps know."""
    shares: Any = value
    try:
        if isinstance(value, str):
            parts = value.split("/")
            if not 2 <= len(parts) <= len(_SPLITS):
                raise ValueError(f"there are {len(parts)} shares")
            shares = {name: float(part) for name, part in zip(_SPLITS, parts, strict=False)}
        if not isinstance(shares, dict) or not shares or not all(isinstance(name, str) for name in shares):
            raise ValueError("it names no splits")
        meanings = split_meanings(shares)
        for name, share in shares.items():
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
                raise ValueError(f"the share of {name} is {share!r}")
        if abs(sum(shares.values()) - 1) > _FRACTION_SUM_TOLERANCE:
            raise ValueError(f"the shares sum to {sum(shares.values()):g}")
    except ValueError as error:
        example = "like 0.8/0.1/0.1" if isinstance(value, str) else "like {train: 0.8, val: 0.2}"
        raise _OptionError(f"is {value!r}: {error}", f"{_SHARES}, {example}") from None
    return {meanings[name]: float(share) for name, share in shares.items()}


def _read_limit(value: Any, _: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _OptionError(f"is {value!r}", "give at least 1")
    return value


def _read_names(value: Any, _: Path) -> tuple[str, ...]:
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise _OptionError(f"is {value!r}", "list names of categories, those that look like numbers in quotes")
    return tuple(names)


def _read_new_names(value: Any, folder: Path) -> dict[str, str | None]:
    names, where = value, f"is {value!r}"
    if isinstance(value, str | Path):
        path = locate(str(value), folder)
        where = str(path)
        try:
            names = yaml.safe_load(path.read_bytes())
        except OSError as error:
            raise _OptionError(f"{path} cannot be opened: {error.strerror or error}", "correct the path") from error
        except yaml.YAMLError as error:
            raise _OptionError(f"{path}: not YAML: {error}", "correct the file") from error
    if not isinstance(names, dict) or not all(isinstance(old, str) and isinstance(new, str | None) for old, new in names.items()):
        raise _OptionError(f"{where}: no mapping of names to names", "write `old name: new name` lines; null leaves one out")
    return names


def _read_files(value: Any, folder: Path) -> tuple[Path, ...]:
    texts = [value] if isinstance(value, str | Path) else value
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(one, str | Path) and str(one) for one in texts):
        raise _OptionError(f"is {value!r}", "name a file, or list some")
    return tuple(locate(str(one), folder) for one in texts)


def _one_of(values: Mapping[str, Any]) -> Callable[[Any, Path], Any]:
    def read(value: Any, _: Path) -> Any:
        if not isinstance(value, str) or value not in values:
            raise _OptionError(f"is {value!r}", f"use one of {', '.join(values)}")
        return values[value]

    return read


_READERS: Mapping[str, Callable[[Any, Path], Any]] = {
    "split": _read_shares,
    "limit": _read_limit,
    "only_categories": _read_names,
    "remap_categories": _read_new_names,
    "empty": _one_of({one.value: one for one in EmptyImages}),
    "crowds": _one_of({one.value: one for one in Crowds}),
    "mask_type": _one_of(MASK_TYPES),
    "objects_without_mask": _one_of({one.value: one for one in WithoutMask}),
    "duplicate_images": _one_of({one.value: one for one in DuplicateImages}),
    "corrections": _read_files,
}
OPTIONS = tuple(_READERS)
"""The keys of a dataset's YAML, and with `-` for `_` the options of the command line, that choose."""


def _shown(value: Any) -> str:
    """An option's value as a person would write it."""
    if isinstance(value, str):
        return next((word for word, name in MASK_TYPES.items() if name == value), str(value))
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {one if one is not None else 'null'}" for key, one in value.items()) + "}"
    return str(value)
