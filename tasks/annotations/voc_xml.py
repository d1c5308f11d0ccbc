"""The XML of Pascal VOC: the boxes of an image's objects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from tasks.annotations.source import Box
from tasks.records.checks import BadImageError, Check
from tasks.running.pointer_file import pointer_in


@dataclass(frozen=True)
class VocObject:
    """The box is (ymin, xmin, ymax, xmax) in pixels, between their edges: the XML counts pixels from 1 and includes the last one."""

    name: str
    box_yxyx: Box
    is_difficult: bool


def read_voc_xml(path: Path) -> tuple[VocObject, ...]:
    """The objects in the file's order; BadImageError where it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _malformed(path, f"it cannot be opened: {error.strerror or error}") from error
    if pointer := pointer_in(content):
        raise BadImageError(Check.ANNOTATION_MALFORMED, f"{path}: {pointer.problem}", pointer.fix)
    try:
        root = fromstring(content)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise _malformed(path, f"it is no XML, or none to trust: {error}") from error
    return tuple(_object(path, element) for element in root.iter("object"))


def _object(path: Path, element: Element) -> VocObject:
    ymin, xmin, ymax, xmax = (_pixel(path, element, key) for key in ("ymin", "xmin", "ymax", "xmax"))
    return VocObject(
        element.findtext("name", "").strip(), (ymin - 1, xmin - 1, ymax, xmax), element.findtext("difficult", "").strip() == "1"
    )


def _pixel(path: Path, element: Element, key: str) -> float:
    text = element.findtext(f"bndbox/{key}")
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _malformed(path, f"an object's {key} is {text!r}")
    return value


def _malformed(path: Path, what: str) -> BadImageError:
    return BadImageError(Check.ANNOTATION_MALFORMED, f"{path}: {what}", "correct the file, or remove the image")
