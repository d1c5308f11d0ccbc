"""The YAML file that describes a dataset: where its images and annotations are, and how they are split."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.annotations.formats import FORMATS, fields_of, make_source
from tasks.annotations.source import Source
from tasks.errors import UserError
from tasks.shapes.dataset import ShapesConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_FRACTION_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class GivenSplits:
    """A source for each split."""

    splits: Mapping[str, Source]


@dataclass(frozen=True)
class HashedSplits:
    """One source, each image assigned by a hash of its content; the fractions sum to 1, or are still to be given."""

    source: Source
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
        raise UserError(f"{path}: the dataset's YAML cannot be opened: {error.strerror or error}", "correct the path") from error
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
    if "split" in values and kinds != ["source"]:
        raise UserError(f"{path}: `split` divides a `source`", "give both, or `splits` with a source each")
    if kinds == ["shapes"]:
        fields = [field.name for field in dataclasses.fields(ShapesConfig)]
        return DatasetConfig(name, ShapesConfig(**_mapping(path, "shapes", values["shapes"], fields)))
    if kinds == ["source"]:
        fractions = _fractions(path, values["split"]) if "split" in values else {}
        return DatasetConfig(name, HashedSplits(_source(path, "source", values["source"]), fractions))
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
    try:
        confirm_shares(fractions)
    except ValueError as error:
        raise UserError(f"{path}: split: {error}", "make the shares numbers above 0 that sum to 1") from None
    return fractions


def confirm_shares(fractions: Mapping[str, object]) -> None:
    """ValueError, saying which, unless all shares are above 0 and they sum to 1."""
    total = 0.0
    for split, fraction in fractions.items():
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise ValueError(f"the share of {split} is {fraction!r}")
        total += fraction
    if abs(total - 1) > _FRACTION_SUM_TOLERANCE:
        raise ValueError(f"the shares sum to {total:g}")


def _source(path: Path, where: str, value: object) -> Source:
    kind = value.get("format", "coco") if isinstance(value, dict) else "coco"
    if kind not in FORMATS:
        nearest = difflib.get_close_matches(str(kind), FORMATS, n=1)
        raise UserError(
            f"{path}: {where}.format is {kind!r}",
            f"did you mean `{nearest[0]}`?" if nearest else f"the formats are {', '.join(FORMATS)}",
        )
    fields = fields_of(kind)
    values = _mapping(path, where, value, ["format", *fields], required=[name for name, required in fields.items() if required])
    try:
        return make_source(kind, {name: values[name] for name in fields if name in values}, path.absolute().parent)
    except ValueError as error:
        raise UserError(f"{path}: {where}.{error}", "correct the value") from error
