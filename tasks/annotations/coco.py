"""COCO JSON, format `coco`.

A file is read as a stream and spooled by image to a temporary file, so that memory does not grow with it; masks are rasterized image by
image, later, where the images are written.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.annotations.coco_categories import CocoCategories
from tasks.annotations.folder import portable
from tasks.annotations.json_stream import top_level_lists
from tasks.annotations.numbers import as_numbers
from tasks.annotations.source import ListedImage, Listing, SourceObject, unopened
from tasks.records.checks import BadImageError, Check, DataError
from tasks.running.pointer_file import pointer_at

_LISTS = ("images", "annotations", "categories")
_EXPORT = "export the annotations as COCO JSON again"
_SCHEMA = """
    CREATE TABLE images (id TEXT PRIMARY KEY, file_name TEXT, height INTEGER, width INTEGER, findings TEXT);
    CREATE TABLE annotations (image TEXT, id TEXT, content TEXT);
"""
_NUMERIC = ("bbox", "area", "iscrowd", "category_id", "segmentation")
"""An annotation's keys whose values are numbers, at some depth."""


@dataclass(frozen=True)
class CocoSource:
    """A COCO instances JSON and the folder that its `file_name`s lie in."""

    images: Path
    annotations: Path

    def list(self) -> Listing:
        """The file's images in its order. DataError where it is no COCO JSON, an id is taken twice, or an annotation has no image.

        A category that no object has, and that another one names as its supercategory, is a root of Roboflow's exports, and left out.
        """
        if not self.images.is_dir():
            raise DataError(
                Check.SOURCE_MISSING, f"{self.images}: there is no such folder of images", "correct `images` in the dataset's YAML"
            )
        categories = CocoCategories(self.annotations)
        # SQLite's own temporary file: gone with its connection, however that ends.
        spool = sqlite3.connect("")
        spool.executescript(_SCHEMA)
        with self._readable():
            for key, values in self._lists():
                if key == "categories":
                    for value, _ in values:
                        categories.add(*self._category(value))
                elif key == "images":
                    for value, _ in values:
                        self._enter(spool, self._image(value))
                else:
                    own = (self._annotation(*value, categories.used) for value in values)
                    spool.executemany("INSERT INTO annotations VALUES (?, ?, ?)", own)
        spool.execute("CREATE INDEX annotations_by_image ON annotations (image)")
        for annotation, image in spool.execute("SELECT id, image FROM annotations WHERE image NOT IN (SELECT id FROM images)"):
            raise DataError(
                Check.IMAGE_UNLISTED,
                f"{self.annotations}: {annotation} has image id {image}, which is not among the file's images",
                "add the image to `images`, or remove the annotation",
            )
        return categories.listing(self._listed(spool))

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        for index, annotation in enumerate(json.loads(image.payload)):
            where = f"{self.annotations}: {_name(annotation, index)} of image {image.file_name}"
            values, had_text = _numeric_values(annotation)
            box = None
            if values.get("bbox") not in (None, []):
                x, y, width, height = _numbers(where, "bbox", values["bbox"], 4)
                box = (y, x, y + height, x + width)
            area = values.get("area")
            yield SourceObject(
                where,
                values["category_id"],
                _polygons(where, values.get("segmentation")),
                box,
                None if area is None else _numbers(where, "area", [area], 1)[0],
                _is_crowd(where, values.get("iscrowd", 0)),
                findings=(Check.NUMBER_AS_TEXT,) * had_text,
                id=_image_id(annotation.get("id"))[0],
            )

    def _listed(self, spool: sqlite3.Connection) -> Iterator[ListedImage]:
        for image, file_name, height, width, findings in spool.execute("SELECT * FROM images ORDER BY rowid"):
            own = spool.execute("SELECT content FROM annotations WHERE image = ? ORDER BY rowid", (image,))
            payload = "[" + ",".join(content for (content,) in own) + "]"
            yield ListedImage(str(json.loads(image)), file_name, self.images / file_name, (height, width), payload, (), _checks(findings))

    def _lists(self) -> Iterator[tuple[str, Iterator[tuple[Mapping[str, Any], str]]]]:
        """The file's lists of objects with their texts, each list by its key; DataError where one of the three is missing in the end."""
        missing = set(_LISTS)
        with self.annotations.open("rb") as stream:
            for key, values in top_level_lists(stream):
                if key in _LISTS:
                    missing.discard(key)
                    yield key, ((self._object(key, value), text) for value, text in values)
        for key in _LISTS:
            if key in missing:
                raise self._malformed(
                    f"there is no list {key!r}",
                    f"name a COCO instances JSON, with the lists {', '.join(f'`{name}`' for name in _LISTS)}",
                )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """DataError for a file that cannot be opened or is no JSON, wherever in its lists that is found."""
        try:
            yield
        except OSError as error:
            raise unopened(self.annotations, error) from error
        except ValueError as error:
            if pointer := pointer_at(self.annotations):
                raise self._malformed(pointer.problem, pointer.fix) from error
            raise self._malformed(f"not JSON: {error}", f"{_EXPORT}; JSON has no NaN and no infinite number") from error

    def _object(self, key: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._malformed(f"an entry of {key!r} is no object", _EXPORT)
        return value

    def _category(self, value: Mapping[str, Any]) -> tuple[int, str, object, bool]:
        """Its id, its name, its supercategory and whether the id was written as text."""
        (category_id, was_text), name = as_numbers(self._field("category", value, "id")), self._field("category", value, "name")
        if not _is_whole(category_id) or not isinstance(name, str):
            raise self._malformed(f"category {category_id!r} is named {name!r}", "number it and name it by a text")
        return int(category_id), name, value.get("supercategory"), was_text

    def _image(self, value: Mapping[str, Any]) -> tuple[str, str, int, int, str]:
        image_id, id_was_text = _image_id(self._field("image", value, "id"))
        if not isinstance(image_id, int | str):
            raise self._malformed(f"an image has the id {image_id!r}", "give it a number or a text")
        file_name, findings = self._file_name(image_id, value)
        sides = {}
        for key in ("height", "width"):
            size, was_text = as_numbers(self._field("image", value, key))
            if not _is_whole(size) or size < 1:
                raise self._malformed(f"image {image_id} has {key} {size!r}", "write the image's size in whole pixels")
            sides[key] = int(size)
            id_was_text |= was_text
        findings += (Check.NUMBER_AS_TEXT,) * id_was_text
        return json.dumps(image_id), file_name, sides["height"], sides["width"], json.dumps(findings)

    def _file_name(self, image_id: int | str, value: Mapping[str, Any]) -> tuple[str, tuple[Check, ...]]:
        """The image's path inside the folder of images; LVIS says it by `coco_url` alone, which ends as in `train2017/000000391895.jpg`."""
        url = value.get("coco_url")
        if "file_name" not in value and isinstance(url, str):
            folder, name = PurePosixPath(url).parts[-2:] if url.count("/") > 1 else ("", url)
            return (f"{folder}/{name}" if folder and (self.images / folder).is_dir() else name), ()
        file_name = self._field("image", value, "file_name")
        if not isinstance(file_name, str) or not file_name or "\0" in file_name:
            raise self._malformed(f"image {image_id} has file_name {file_name!r}", "write its path inside the folder of images")
        return portable(file_name, self.images)

    def _enter(self, spool: sqlite3.Connection, image: tuple[str, str, int, int, str]) -> None:
        try:
            spool.execute("INSERT INTO images VALUES (?, ?, ?, ?, ?)", image)
        except sqlite3.IntegrityError:
            ((other,),) = spool.execute("SELECT file_name FROM images WHERE id = ?", image[:1])
            raise DataError(
                Check.DUPLICATE_ID,
                f"{self.annotations}: image id {image[0]} is taken twice, by {other} and {image[1]}",
                "give each image an id of its own",
            ) from None

    def _annotation(self, value: Mapping[str, Any], text: str, used: set[object]) -> tuple[str, str, str]:
        if "segments_info" in value:
            raise self._malformed(
                "this is COCO's panoptic JSON, whose masks are in PNG files",
                "give `format: panoptic`, or name the instances JSON of the same images",
            )
        for key in ("category_id", "image_id"):
            self._field("annotation", value, key)
        category, _ = as_numbers(value["category_id"])
        if isinstance(category, int | float):
            used.add(category)
        return json.dumps(_image_id(value["image_id"])[0]), _name(value), text

    def _field(self, what: str, value: Mapping[str, Any], key: str) -> Any:
        if key not in value:
            raise self._malformed(f"{what} {value.get('id', '(without id)')} has no {key}", f"add its {key}")
        return value[key]

    def _malformed(self, what: str, fix: str) -> DataError:
        return DataError(Check.SOURCE_MALFORMED, f"{self.annotations}: {what}", fix)


def _name(annotation: Mapping[str, Any], index: int | None = None) -> str:
    """An annotation in words; without an id, which nothing needs, by its place among its image's."""
    if annotation.get("id") is not None:
        return f"annotation {annotation['id']}"
    return "an annotation without id" if index is None else f"annotation number {index + 1}"


def _numeric_values(annotation: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The values of an annotation's numeric keys, and whether a number in them was written as text."""
    values: dict[str, Any] = {"category_id": None}
    had_text = False
    for key in _NUMERIC:
        value = annotation.get(key)
        if value is not None:
            values[key], was_text = _numeric(value)
            had_text |= was_text
    return values, had_text


def _numeric(value: Any) -> tuple[Any, bool]:
    if not isinstance(value, Mapping):
        return as_numbers(value)
    # A run-length code's `counts` are text by right, and may be all digits.
    read = {key: as_numbers(one) if isinstance(one, list) else (one, False) for key, one in value.items()}
    return {key: one for key, (one, _) in read.items()}, any(was_text for _, was_text in read.values())


def _polygons(where: str, segmentation: Any) -> Any:
    """The segmentation as it is; BadImageError, saying what it looks like, for a list that lacks or has a level of brackets."""
    if isinstance(segmentation, list) and segmentation and all(isinstance(one, int | float) for one in segmentation):
        what, fix = "one list of numbers, and a list of polygons is expected", "put it into brackets: [[x, y, x, y, ...]]"
    elif isinstance(segmentation, list) and any(isinstance(part, list) and part and isinstance(part[0], list) for part in segmentation):
        what, fix = "points in pairs, and COCO has flat lists", "write each polygon as one list: [[x, y, x, y, ...]]"
    else:
        return segmentation
    raise BadImageError(Check.MASK_MALFORMED, f"{where}: its segmentation is {what}", fix)


def _image_id(value: Any) -> tuple[Any, bool]:
    """An id as a whole number where it is one, however it is written; texts such as `a1` stay."""
    number, was_text = as_numbers(value)
    if _is_whole(number) and (not was_text or str(int(number)) == value.strip()):
        return int(number), was_text
    return value, False


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value == int(value)


def _checks(text: str) -> tuple[Check, ...]:
    return tuple(map(Check.of, json.loads(text)))


def _is_crowd(where: str, value: object) -> bool:
    if value not in (0, 1):
        raise BadImageError(Check.ANNOTATION_MALFORMED, f"{where}: iscrowd is {value!r}", "write 0 or 1")
    return bool(value)


def _numbers(where: str, field: str, value: object, count: int) -> list[float]:
    """`count` finite numbers, or BadImageError."""
    if isinstance(value, Sequence) and len(value) == count and all(_is_finite(number) for number in value):
        return [float(number) for number in value]
    raise BadImageError(Check.ANNOTATION_MALFORMED, f"{where}: {field} is {value!r}", f"write {count} finite number{'s' * (count > 1)}")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
