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
from pathlib import Path
from typing import Any

from tasks.annotations.json_stream import top_level_lists
from tasks.annotations.source import CategoryKey, ListedImage, Listing, SourceObject
from tasks.records.checks import BadImageError, Check, DataError

_LISTS = ("images", "annotations", "categories")
_EXPORT = "export the annotations as COCO JSON again"
_SCHEMA = """
    CREATE TABLE images (id TEXT PRIMARY KEY, file_name TEXT, height INTEGER, width INTEGER);
    CREATE TABLE annotations (image TEXT, id TEXT, content TEXT);
"""


@dataclass(frozen=True)
class CocoSource:
    """A COCO instances JSON and the folder that its `file_name`s lie in."""

    images: Path
    annotations: Path

    def list(self) -> Listing:
        """The file's images in its order. DataError where it is no COCO JSON, an id is taken twice, or an annotation has no image."""
        if not self.images.is_dir():
            raise DataError(
                Check.SOURCE_MISSING, f"{self.images}: there is no such folder of images", "correct `images` in the dataset's YAML"
            )
        categories: dict[CategoryKey, str] = {}
        # SQLite's own temporary file: gone with its connection, however that ends.
        spool = sqlite3.connect("")
        spool.executescript(_SCHEMA)
        with self._readable():
            for key, values in self._lists():
                if key == "categories":
                    self._add_categories((value for value, _ in values), categories)
                elif key == "images":
                    try:
                        spool.executemany("INSERT INTO images VALUES (?, ?, ?, ?)", (self._image(value) for value, _ in values))
                    except sqlite3.IntegrityError:
                        raise DataError(
                            Check.DUPLICATE_ID, f"{self.annotations}: an image id is taken twice", "give each image an id of its own"
                        ) from None
                else:
                    spool.executemany("INSERT INTO annotations VALUES (?, ?, ?)", (self._annotation(*value) for value in values))
        spool.execute("CREATE INDEX annotations_by_image ON annotations (image)")
        for annotation, image in spool.execute("SELECT id, image FROM annotations WHERE image NOT IN (SELECT id FROM images)"):
            raise DataError(
                Check.IMAGE_UNLISTED,
                f"{self.annotations}: annotation {annotation} has image id {image}, which is not among the file's images",
                "add the image to `images`, or remove the annotation",
            )
        return Listing(categories, self._listed(spool))

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        for annotation in json.loads(image.payload):
            where = f"{self.annotations}: annotation {annotation['id']} of image {image.file_name}"
            box = None
            if annotation.get("bbox") is not None:
                x, y, width, height = _numbers(where, "bbox", annotation["bbox"], 4)
                box = (y, x, y + height, x + width)
            area = annotation.get("area")
            yield SourceObject(
                where,
                annotation["category_id"],
                annotation.get("segmentation"),
                box,
                None if area is None else _numbers(where, "area", [area], 1)[0],
                _is_crowd(where, annotation.get("iscrowd", 0)),
            )

    def _listed(self, spool: sqlite3.Connection) -> Iterator[ListedImage]:
        for image, file_name, height, width in spool.execute("SELECT * FROM images ORDER BY rowid"):
            own = spool.execute("SELECT content FROM annotations WHERE image = ? ORDER BY rowid", (image,))
            payload = "[" + ",".join(content for (content,) in own) + "]"
            yield ListedImage(str(json.loads(image)), file_name, self.images / file_name, (height, width), payload)

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
            raise DataError(
                Check.SOURCE_MISSING,
                f"{self.annotations}: the annotations cannot be opened: {error.strerror or error}",
                "correct `annotations` in the dataset's YAML",
            ) from error
        except ValueError as error:
            raise self._malformed(f"not JSON: {error}", f"{_EXPORT}; JSON has no NaN and no infinite number") from error

    def _object(self, key: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._malformed(f"an entry of {key!r} is no object", _EXPORT)
        return value

    def _add_categories(self, values: Iterator[Mapping[str, Any]], categories: dict[CategoryKey, str]) -> None:
        for value in values:
            category_id, name = self._category(value)
            if category_id in categories:
                raise DataError(
                    Check.DUPLICATE_ID, f"{self.annotations}: a category id is taken twice", "give each category an id of its own"
                )
            categories[category_id] = name

    def _category(self, value: Mapping[str, Any]) -> tuple[int, str]:
        category_id, name = self._field("category", value, "id"), self._field("category", value, "name")
        if not isinstance(category_id, int) or isinstance(category_id, bool) or not isinstance(name, str):
            raise self._malformed(f"category {category_id!r} is named {name!r}", "number it and name it by a text")
        return category_id, name

    def _image(self, value: Mapping[str, Any]) -> tuple[str, str, int, int]:
        image_id, file_name = self._field("image", value, "id"), self._field("image", value, "file_name")
        if not isinstance(image_id, int | str):
            raise self._malformed(f"an image has the id {image_id!r}", "give it a number or a text")
        if not isinstance(file_name, str) or not file_name or "\0" in file_name:
            raise self._malformed(f"image {image_id} has file_name {file_name!r}", "write its path inside the folder of images")
        height, width = (self._field("image", value, key) for key in ("height", "width"))
        for key, size in (("height", height), ("width", width)):
            if not isinstance(size, int) or size < 1:
                raise self._malformed(f"image {image_id} has {key} {size!r}", "write the image's size in whole pixels")
        return json.dumps(image_id), file_name, height, width

    def _annotation(self, value: Mapping[str, Any], text: str) -> tuple[str, str, str]:
        for key in ("id", "category_id", "image_id"):
            self._field("annotation", value, key)
        return json.dumps(value["image_id"]), str(value["id"]), text

    def _field(self, what: str, value: Mapping[str, Any], key: str) -> Any:
        if key not in value:
            raise self._malformed(f"{what} {value.get('id', '(without id)')} has no {key}", f"add its {key}")
        return value[key]

    def _malformed(self, what: str, fix: str) -> DataError:
        return DataError(Check.SOURCE_MALFORMED, f"{self.annotations}: {what}", fix)


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
