"""The YAML file that describes a dataset: where its images and annotations are, how they are split, and what of them is wanted."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tasks.annotations.formats import FORMATS, fields_of, make_source
from tasks.annotations.record_choice import OPTIONS, Choice, read_options
from tasks.annotations.source import Source
from tasks.annotations.split_names import TRAIN, VAL, split_meanings
from tasks.running.errors import UserError
from tasks.running.pointer_file import pointer_in
from tasks.shapes.dataset import ShapesConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_IMAGES = ("source", "splits", "shapes")


@dataclass(frozen=True)
class GivenSplits:
    """A source for each split, by the names `train`, `val` and `test`."""

    splits: Mapping[str, Source]


@dataclass(frozen=True)
class HashedSplits:
    """One source, each image assigned by a hash of its content, in shares that the options have."""

    source: Source


@dataclass(frozen=True)
class DatasetConfig:
    """`images` is one of: splits given, one source to split, or scenes to generate.

    `options` are the fields of `record_choice.Choice` that the YAML gives; `split_words` are its own words for splits, by their names.
    """

    name: str
    images: GivenSplits | HashedSplits | ShapesConfig
    options: Mapping[str, Any] = field(default_factory=dict)
    split_words: Mapping[str, str] = field(default_factory=dict)


def read_dataset_config(path: Path) -> DatasetConfig:
    """The description in a YAML file, with its relative paths taken from the file's own folder.

    UserError, naming the key, where the file is missing or no YAML, a key is unknown, missing or contradicts another, or a value is wrong.
    """
    try:
        read = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the dataset's YAML cannot be opened: {error.strerror or error}", "correct the path") from error
    if pointer := pointer_in(read):
        raise UserError(f"{path}: {pointer.problem}", pointer.fix)
    try:
        content = yaml.safe_load(read)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}", "correct the file") from error
    values = _mapping(path, "the file", content, ("name", *_IMAGES, *OPTIONS), required=("name",))
    name = values["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{path}: name is {name!r}", "use letters, digits, '_', '-' and '.': it names a folder")
    kinds = [key for key in _IMAGES if key in values]
    if len(kinds) != 1:
        raise UserError(
            f"{path}: it has {' and '.join(kinds) or 'no images'}", "give one of `source` (with `split`), `splits` and `shapes`"
        )
    if "split" in values and kinds != ["source"]:
        raise UserError(f"{path}: `split` divides a `source`", "give both, or `splits` with a source each")
    divided = kinds == ["source"] and isinstance(values.get("split"), dict)
    words = _split_words(path, "split", values["split"]) if divided else {}
    options = read_options({key: values[key] for key in OPTIONS if key in values}, str(path), path.absolute().parent)
    if kinds == ["shapes"]:
        fields = [one.name for one in dataclasses.fields(ShapesConfig)]
        return DatasetConfig(name, ShapesConfig(**_mapping(path, "shapes", values["shapes"], fields)), options)
    if kinds == ["source"]:
        return DatasetConfig(name, HashedSplits(_source(path, "source", values["source"])), options, words)
    words = _split_words(path, "splits", values["splits"])
    sources = {split: _source(path, f"splits.{word}", values["splits"][word]) for split, word in words.items()}
    return DatasetConfig(name, GivenSplits(sources), options, words)


def confirm_trainable(config: DatasetConfig, choice: Choice) -> None:
    """UserError where a split is missing without which no model can be made of the dataset."""
    if isinstance(config.images, ShapesConfig):
        return
    splits = config.images.splits if isinstance(config.images, GivenSplits) else choice.split
    if not splits:
        raise UserError(f"{config.name}: nothing says how to split it", "give --split 0.8/0.1/0.1, or `split` in the dataset's YAML")
    for split in (TRAIN, VAL):
        if split not in splits:
            raise UserError(
                f"{config.name}: there is no split `{split}`",
                "training reads `train` and `val`: add it to `splits`, or divide one `source` by `split: {train: 0.8, val: 0.2}`",
            )


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


def _split_words(path: Path, where: str, value: object) -> dict[str, str]:
    """The file's own words for its splits, by what they mean; UserError where one means nothing, or two the same."""
    if not isinstance(value, dict) or not value or not all(isinstance(key, str) and _NAME.fullmatch(key) for key in value):
        raise UserError(f"{path}: {where} names no splits", "name them like `train` and `val`")
    try:
        return {split: word for word, split in split_meanings(value).items()}
    except ValueError as error:
        raise UserError(
            f"{path}: {where}: {error}",
            "call them `train` and `val`, which training reads, and `test`, which is kept for `maskline evaluate --split test`",
        ) from None


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
