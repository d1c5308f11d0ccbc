"""The YAML file that describes a dataset: where its images and annotations are, and how they are split."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import UserError
from tasks.shapes.dataset import ShapesConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_FRACTION_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class CocoSource:
    """A COCO JSON file and the folder of its images; absolute paths."""

    images: Path
    annotations: Path


@dataclass(frozen=True)
class GivenSplits:
    """A source for each split."""

    splits: Mapping[str, CocoSource]


@dataclass(frozen=True)
class HashedSplits:
    """One source, each image assigned by a hash of its content; the fractions sum to 1."""

    source: CocoSource
    fractions: Mapping[str, float]


@dataclass(frozen=True)
class DatasetConfig:
    """`images` is one of: splits given, one source to split, or scenes to generate."""

    name: str
    images: GivenSplits | HashedSplits | ShapesConfig


def read_dataset_config(path: Path) -> DatasetConfig:
    """The description in a YAML file, with its relative paths taken from the file's own folder.

    UserError, naming the key, where the file is missing or no YAML, a key is unknown, missing or contradicts another, or a value is wrong.
    """
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: the dataset's YAML cannot be opened: {error.strerror}", "correct the path") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}", "correct the file") from error
    values = _mapping(path, "the file", content, ("name", "source", "split", "splits", "shapes"), required=("name",))
    name = values["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{path}: name is {name!r}", "use letters, digits, '_', '-' and '.': it names a folder")
    kinds = [key for key in ("source", "splits", "shapes") if key in values]
    if len(kinds) != 1:
        raise UserError(
            f"{path}: it has {' and '.join(kinds) or 'no images'}", "give one of `source` (with `split`), `splits` and `shapes`"
        )
    if ("split" in values) != (kinds == ["source"]):
        raise UserError(f"{path}: `split` and `source` belong together", "give both, or `splits` with a source each")
    if kinds == ["shapes"]:
        fields = [field.name for field in dataclasses.fields(ShapesConfig)]
        return DatasetConfig(name, ShapesConfig(**_mapping(path, "shapes", values["shapes"], fields)))
    if kinds == ["source"]:
        return DatasetConfig(name, HashedSplits(_source(path, "source", values["source"]), _fractions(path, values["split"])))
    splits = _split_mapping(path, "splits", values["splits"])
    return DatasetConfig(name, GivenSplits({split: _source(path, f"splits.{split}", value) for split, value in splits.items()}))


def _mapping(path: Path, where: str, value: object, known: Iterable[str], required: Iterable[str] = ()) -> dict[str, Any]:
    """A mapping of known keys, or UserError that offers the nearest one."""
    if not isinstance(value, dict):
        raise UserError(f"{path}: {where} is no mapping of keys to values", f"give the keys {', '.join(known)}")
    known = list(known)
    for key in value:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean `{nearest[0]}`?" if nearest else f"the keys are {', '.join(known)}"
            raise UserError(f"{path}: {where} has an unknown key `{key}`", hint)
    for key in required:
        if key not in value:
            raise UserError(f"{path}: {where} has no `{key}`", f"add `{key}`")
    return value


def _split_mapping(path: Path, where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not value or not all(isinstance(key, str) and _NAME.fullmatch(key) for key in value):
        raise UserError(f"{path}: {where} names no splits", "name them like `train` and `val`")
    return value


def _fractions(path: Path, value: object) -> dict[str, float]:
    fractions = _split_mapping(path, "split", value)
    for split, fraction in fractions.items():
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise UserError(f"{path}: split.{split} is {fraction!r}", "write a share above 0 and up to 1")
    total = math.fsum(fractions.values())
    if abs(total - 1) > _FRACTION_SUM_TOLERANCE:
        raise UserError(f"{path}: the shares under split sum to {total:g}", "make them sum to 1")
    return fractions


def _source(path: Path, where: str, value: object) -> CocoSource:
    source = _mapping(path, where, value, ("images", "annotations"), required=("images", "annotations"))
    for key, entry in source.items():
        if not isinstance(entry, str):
            raise UserError(f"{path}: {where}.{key} is {entry!r}", "write a path")
    folder = path.absolute().parent
    return CocoSource(
        images=(folder / Path(source["images"]).expanduser()).resolve(),
        annotations=(folder / Path(source["annotations"]).expanduser()).resolve(),
    )
