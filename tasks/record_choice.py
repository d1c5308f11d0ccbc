"""What of a data set its records shall hold, as the command line says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tasks.annotations.categories import CategoryChoice
from tasks.annotations.shard import Crowds
from tasks.dataset import confirm_shares
from tasks.errors import UserError
from tasks.records.example import MASK_TYPES, PNG_MASKS

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Choice:
    """What of the images and annotations the records hold, and in which form."""

    split: Mapping[str, float] | None = None
    """Shares by a hash of the image's content, instead of the YAML's"""
    limit: int | None = None
    """Images of each split, the first ones"""
    categories: CategoryChoice = field(default_factory=CategoryChoice)
    keep_empty: bool = True
    """Whether images without objects stay: training learns from them what is no object"""
    crowds: Crowds = Crowds.KEEP
    mask_type: str = PNG_MASKS


def parse_choice(
    split: str | None,
    limit: int | None,
    only_categories: str | None,
    remap_categories: Path | None,
    keep_empty: bool,
    crowds: str,
    mask_type: str,
) -> Choice:
    """The choice that options of the command line make; UserError names the option that is wrong."""
    only = tuple(name.strip() for name in only_categories.split(",")) if only_categories else ()
    categories = CategoryChoice(_read_names(remap_categories) if remap_categories else {}, only)
    if crowds not in tuple(Crowds):
        raise UserError(f"--crowds is {crowds!r}", f"use one of {', '.join(Crowds)}")
    if mask_type not in MASK_TYPES:
        raise UserError(f"--mask-type is {mask_type!r}", f"use one of {', '.join(MASK_TYPES)}")
    return Choice(_parse_shares(split) if split else None, limit, categories, keep_empty, Crowds(crowds), MASK_TYPES[mask_type])


def parse_range(text: str) -> tuple[int, int]:
    """The two numbers of `A:B`."""
    first, _, end = text.partition(":")
    if not (first.isdecimal() and end.isdecimal()):
        raise UserError(f"--shard-range is {text!r}", "write two numbers, like 0:4 for the first four shards")
    return int(first), int(end)


def _parse_shares(text: str) -> dict[str, float]:
    parts = text.split("/")
    try:
        if not 2 <= len(parts) <= len(_SPLITS):
            raise ValueError(f"there are {len(parts)} shares")
        shares = {name: float(part) for name, part in zip(_SPLITS, parts, strict=False)}
        confirm_shares(shares)
    except ValueError as error:
        raise UserError(f"--split is {text!r}: {error}", "write shares of train, val and perhaps test, like 0.8/0.1/0.1") from None
    return shares


def _read_names(path: Path) -> dict[str, str | None]:
    try:
        names = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UserError(f"--remap-categories {path} cannot be opened: {error.strerror}", "correct the path") from error
    except yaml.YAMLError as error:
        raise UserError(f"--remap-categories {path}: not YAML: {error}", "correct the file") from error
    if not isinstance(names, dict) or not all(isinstance(old, str) and isinstance(new, str | None) for old, new in names.items()):
        raise UserError(f"--remap-categories {path}: no mapping of names to names", "write `old name: new name` lines; null leaves one out")
    return names
