"""The annotation formats by the names that a data set's YAML gives them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

from tasks.annotations.coco import CocoSource
from tasks.annotations.cvat import CvatSource
from tasks.annotations.datumaro import DatumaroSource
from tasks.annotations.folder import portable
from tasks.annotations.id_png import IdPngSource
from tasks.annotations.instance_png import InstancePngSource
from tasks.annotations.labelme import LabelMeSource
from tasks.annotations.lvis import LvisSource
from tasks.annotations.panoptic import PanopticSource
from tasks.annotations.pets import PetsSource
from tasks.annotations.source import Source
from tasks.annotations.supervisely import SuperviselySource
from tasks.annotations.tfrecord import TfRecordSource
from tasks.annotations.via import ViaSource
from tasks.annotations.voc import VocSource
from tasks.annotations.yolo import YoloSource
from tasks.running.workspace import located

FORMATS: Mapping[str, type[Source]] = {
    "coco": CocoSource,
    "cvat": CvatSource,
    "datumaro": DatumaroSource,
    "id_png": IdPngSource,
    "instance_png": InstancePngSource,
    "labelme": LabelMeSource,
    "lvis": LvisSource,
    "panoptic": PanopticSource,
    "pets": PetsSource,
    "supervisely": SuperviselySource,
    "tfrecord": TfRecordSource,
    "via": ViaSource,
    "voc": VocSource,
    "yolo": YoloSource,
}


def fields_of(name: str) -> dict[str, bool]:
    """The keys that a format's sources are described by, and whether each must be given."""
    return {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(FORMATS[name])}  # type: ignore[arg-type]


def make_source(name: str, values: Mapping[str, Any], folder: Path) -> Source:
    """The source that YAML `values` describe, relative paths taken from `folder`; ValueError names the key of a value of a wrong type."""
    hints = typing.get_type_hints(FORMATS[name])
    return FORMATS[name](**{key: _value(key, value, hints[key], folder) for key, value in values.items()})


def _value(key: str, value: Any, hint: Any, folder: Path) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return None
    for kind in kinds:
        if kind is Path and isinstance(value, str):
            return locate(value, folder)
        if typing.get_origin(kind) is tuple and isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
        if typing.get_origin(kind) is Mapping and isinstance(value, dict) and all(type(one) is int for one in value):
            return {number: str(name) for number, name in value.items()}
        if isinstance(kind, type) and isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
            return value
    expected = " or ".join("path" if kind is Path else getattr(kind, "__name__", str(kind)) for kind in kinds if kind is not NoneType)
    raise ValueError(f"{key} is {value!r}, and a {expected} is expected")


def locate(text: str, folder: Path) -> Path:
    """A path or an fsspec URL such as `s3://bucket/images`; a relative path starts at `folder`, and may have Windows' separators."""
    if "://" in text:
        return located(text)
    text, _ = portable(text, folder)
    path = folder / Path(text).expanduser() if isinstance(folder, Path) else folder / text
    return path.resolve()
