"""Corrections of a data set's annotations: COCO instances JSON, of some of its images, laid over whatever its sources say of them.

Of an image that such a file has, it has all objects: those that are not in it any more are gone. Images are told by their `file_name`.
Objects are told by their ids where the file says in `info.maskline` that it has the source's own; then an id that the source does not have
is refused, and objects from `first_new_id` on are new. Label tools write `info` and ids anew: then objects are told by their shapes, and
one that the tool has hardly moved stays as the source has it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.annotations.catalog import image_bytes
from tasks.annotations.categories import LabelIds
from tasks.annotations.coco import CocoSource
from tasks.annotations.source import CategoryKey, ListedImage, Listing, Source, SourceObject
from tasks.coco.masks import MalformedSegmentationError, Rle, rle_from_mask, rle_from_segmentation
from tasks.coco.matching import box_overlaps, mask_overlaps
from tasks.records.checks import BadImageError
from tasks.records.label_map import LabelMap
from tasks.running.errors import UserError
from tasks.running.workspace import decoded, read_bytes

INFO, SOURCE_IDS, FIRST_NEW_ID, SOURCE = "maskline", "source_ids", "first_new_id", "source"
"""Keys of `info`, and in it: whether annotation ids are the source's, the first that is none's, and the source that the images are of."""
_OWN, _KEPT, _CORRECTED = "listed", "kept", "corrected"
_ANNOTATION = ("id", "segmentation", "bbox", "area", "iscrowd")
_SAME_OBJECT, _UNMOVED = 0.5, 0.95  # overlaps of shapes


@dataclass
class CorrectionCounts:
    """What corrections did, in images and objects."""

    images: int = 0
    replaced: int = 0
    added: int = 0
    removed: int = 0
    unchanged: int = 0

    def __str__(self) -> str:
        return (
            f"{self.images} image{'s' * (self.images != 1)}; objects: {self.replaced} replaced, {self.added} added, "
            f"{self.removed} removed, {self.unchanged} as they were"
        )


@dataclass
class _CorrectedImage:
    file: Path
    file_name: str
    size: tuple[int, int]
    categories: Mapping[Any, str]
    first_new_id: int | None
    """Where ids are the source's"""
    source: str | None
    annotations: list[dict[str, Any]] = field(default_factory=list)
    met_in: str | None = None


@dataclass(frozen=True)
class CorrectedSource:
    """A source whose images may have been through `Corrections.laid_over`."""

    source: Source

    def list(self) -> Listing:
        return self.source.list()

    def image_bytes(self, image: ListedImage) -> bytes:
        return image_bytes(self.source, _as_listed(image))

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        own = self.source.objects(_as_listed(image), size)
        if not _is_corrected(image):
            yield from own
            return
        kept = set(image.payload[_KEPT])
        if kept:
            yield from (one for index, one in enumerate(own) if index in kept)
        yield from _objects(image, image.payload[_CORRECTED], size)


def _is_corrected(image: ListedImage) -> bool:
    return isinstance(image.payload, dict) and set(image.payload) == {_OWN, _KEPT, _CORRECTED}


def _as_listed(image: ListedImage) -> ListedImage:
    """The image as its source has listed it."""
    return dataclasses.replace(image, payload=image.payload[_OWN]) if _is_corrected(image) else image


def category_keys(categories: Mapping[CategoryKey, str], ids: LabelIds, labels: LabelMap) -> dict[str, CategoryKey]:
    """A source's category keys by its names, and by the label map's where one stands for one of the source's."""
    counts = Counter(ids.values())
    renamed = {labels.names[number]: key for key, number in ids.items() if number is not None and counts[number] == 1}
    return renamed | {name: key for key, name in categories.items()}


def source_annotations(image: ListedImage) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of an image of COCO JSON its annotations, and those that it has with corrections, in the order of `CorrectedSource.objects`."""
    own = json.loads(_as_listed(image).payload)
    if not _is_corrected(image):
        return own, own
    kept = [own[place] for place in image.payload[_KEPT]]
    return own, kept + [one | {"category_id": key} for key, one in image.payload[_CORRECTED]]


def _objects(
    image: ListedImage, annotations: Sequence[tuple[CategoryKey, Mapping[str, Any]]], size: tuple[int, int]
) -> Iterator[SourceObject]:
    """Annotations of a file of corrections, each after its category's key in the source."""
    values = [one for _, one in annotations]
    # Not under the file's own name: by that equal records would have different digests.
    found = CocoSource(Path(), Path("corrections")).objects(dataclasses.replace(image, payload=json.dumps(values)), size)
    for (key, _), one in zip(annotations, found, strict=True):
        yield dataclasses.replace(one, category=key)


class Corrections:
    """The corrections in some files; of an image that several have, the last one's. UserError for a file that is none."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.counts = CorrectionCounts()
        self._images: dict[str, _CorrectedImage] = {}
        for file in files:
            self._images |= _read(file)

    def laid_over(self, name: str, source: Source, images: Iterator[ListedImage], keys: Mapping[str, CategoryKey]) -> Iterator[ListedImage]:
        """The images of the source called `name`, those with corrections as `CorrectedSource` reads them.

        `keys`: the source's own, by the categories' names. UserError where a correction is of no object or category of the source.
        """
        for image in images:
            found = self._images.get(image.file_name)
            if found is None or found.source not in (None, name):
                yield image
                continue
            if found.met_in is not None:
                raise UserError(
                    f"{found.file}: {found.file_name} is in {found.met_in} and in {name}, and nothing says which of them is corrected",
                    f"say it in the file: `info: {{{INFO}: {{{SOURCE}: {name}}}}}`",
                )
            found.met_in = name
            yield self._corrected(found, source, image, keys)

    def confirm_all_met(self) -> None:
        """UserError where an image that is corrected is in no source."""
        missing = [one for one in self._images.values() if one.met_in is None]
        if missing:
            first, met = missing[0], [one.file_name for one in self._images.values() if one.met_in]
            of = f" of {first.source}" if first.source else ""
            near = difflib.get_close_matches(first.file_name, met, n=1)
            example = f"; others are there, such as {near[0] if near else met[0]}" if met else ""
            raise UserError(
                f"{first.file}: {len(missing)} of {len(self._images)} images are not in the dataset{of}, {first.file_name} first{example}",
                "name the images by the `file_name` that the dataset has: a label tool may have put a folder or a number before it",
            )

    def _corrected(self, found: _CorrectedImage, source: Source, image: ListedImage, keys: Mapping[str, CategoryKey]) -> ListedImage:
        if image.size is not None and image.size != found.size:
            raise UserError(
                f"{found.file}: {found.file_name} is {_told(found.size)} there, and {_told(image.size)} in the dataset",
                "the file is of another version of this image: correct the images that the dataset has",
            )
        annotations = [(_key(found, one, keys), {key: one[key] for key in _ANNOTATION if key in one}) for one in found.annotations]
        try:
            before = list(source.objects(image, found.size))
        except BadImageError:
            before = []  # that may be what is corrected
        after = list(_objects(image, annotations, found.size))
        same = _by_shape(before, after, found.size) if found.first_new_id is None else _by_id(found, before, after)
        kept = {index: place for place, index in enumerate(same) if index is not None and _is_unmoved(before[index], after[place], found)}
        self.counts.images += 1
        self.counts.unchanged += len(kept)
        self.counts.replaced += sum(index is not None for index in same) - len(kept)
        self.counts.added += sum(index is None for index in same)
        self.counts.removed += len(before) - sum(index is not None for index in same)
        unmoved = set(kept.values())
        corrected = [one for place, one in enumerate(annotations) if place not in unmoved]
        if not corrected and len(kept) == len(before):
            return image
        payload = {_OWN: image.payload, _KEPT: sorted(kept), _CORRECTED: corrected}
        return dataclasses.replace(image, payload=payload)


def _by_id(found: _CorrectedImage, before: Sequence[SourceObject], after: Sequence[SourceObject]) -> list[int | None]:
    """For each object in the file its place in the source, None for a new one."""
    places = {one.id: place for place, one in enumerate(before) if one.id is not None}
    same: list[int | None] = []
    for one in after:
        if one.id in places:
            same.append(places[one.id])
        elif isinstance(one.id, int) and found.first_new_id is not None and one.id >= found.first_new_id:
            same.append(None)
        else:
            raise UserError(
                f"{found.file}: annotation {one.id} is none of the image {found.file_name} in the dataset",
                f"give a new object an id from {found.first_new_id} on; where a tool has written the ids anew, remove `{INFO}` from the "
                "file's `info`: objects are told by their shapes then",
            )
    repeated = [place for place in same if place is not None and same.count(place) > 1]
    if repeated:
        raise UserError(f"{found.file}: annotation {before[repeated[0]].id} is there twice", "give each object an id of its own")
    return same


def _by_shape(before: Sequence[SourceObject], after: Sequence[SourceObject], size: tuple[int, int]) -> list[int | None]:
    """The same, by which objects overlap most, of their own category first."""
    overlaps = _overlaps(after, before, size)
    same_category = np.array([[one.category == other.category for other in before] for one in after]).reshape(overlaps.shape)
    same: list[int | None] = [None] * len(after)
    for places in (overlaps * same_category, overlaps):
        left = places.copy()
        left[[place for place, index in enumerate(same) if index is not None]] = 0.0
        left[:, [index for index in same if index is not None]] = 0.0
        while left.size and left.max() >= _SAME_OBJECT:
            place, index = np.unravel_index(left.argmax(), left.shape)
            same[int(place)] = int(index)
            left[place], left[:, index] = 0.0, 0.0
    return same


def _is_unmoved(before: SourceObject, after: SourceObject, found: _CorrectedImage) -> bool:
    if before.category != after.category or before.is_crowd != after.is_crowd:
        return False
    overlap = _overlaps([after], [before], found.size)[0, 0]
    return bool(overlap >= (_UNMOVED if found.first_new_id is None else 1.0))


def _overlaps(after: Sequence[SourceObject], before: Sequence[SourceObject], size: tuple[int, int]) -> Any:
    """IoU by masks, of boxes where one has no mask: [after, before]."""
    masks = [[_mask(one, size) for one in objects] for objects in (after, before)]
    plain = np.zeros(len(before), bool)
    if all(mask is not None for of_objects in masks for mask in of_objects):
        return mask_overlaps(masks[0], masks[1], plain) if after and before else np.zeros((len(after), len(before)))  # type: ignore[arg-type]
    boxes = [[_box_xywh(one) for one in objects] for objects in (after, before)]
    return box_overlaps(boxes[0], boxes[1], plain) if after and before else np.zeros((len(after), len(before)))


def _mask(one: SourceObject, size: tuple[int, int]) -> Rle | None:
    if one.segmentation is None or (isinstance(one.segmentation, list) and not one.segmentation):
        return None
    if isinstance(one.segmentation, np.ndarray):
        return rle_from_mask(one.segmentation)
    try:
        return rle_from_segmentation(one.segmentation, *size)
    except MalformedSegmentationError:
        return None


def _box_xywh(one: SourceObject) -> tuple[float, float, float, float]:
    ymin, xmin, ymax, xmax = one.box_yxyx or (0.0, 0.0, 0.0, 0.0)
    return xmin, ymin, xmax - xmin, ymax - ymin


def _key(found: _CorrectedImage, annotation: Mapping[str, Any], keys: Mapping[str, CategoryKey]) -> CategoryKey:
    category = annotation.get("category_id")
    name = found.categories.get(category) if isinstance(category, int | str) else None
    where = f"{found.file}: annotation {annotation.get('id')} of {found.file_name}"
    if name is None:
        raise UserError(f"{where} has the category {category!r}, which the file does not list", "add it to the file's `categories`")
    if name not in keys:
        near = difflib.get_close_matches(name, keys, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the categories are {', '.join(keys)}"
        raise UserError(f"{where} has the category {name!r}, which the dataset does not have", hint)
    return keys[name]


def _read(file: Path) -> dict[str, _CorrectedImage]:
    """By the images' file names."""
    fix = "name COCO instances JSON with the lists `images`, `annotations` and `categories`, as `maskline review` writes it"
    try:
        content = json.loads(decoded(read_bytes(file)))
    except OSError as error:
        raise UserError(f"{file}: the corrections cannot be opened: {error.strerror or error}", "correct the path") from error
    except ValueError as error:
        raise UserError(f"{file} is no JSON: {error}", fix) from error
    try:
        categories = {one["id"]: str(one["name"]) for one in content["categories"]}
        told = content.get("info") or {}
        about = told.get(INFO) or {} if isinstance(told, dict) else {}
        first_new_id = int(about[FIRST_NEW_ID]) if about.get(SOURCE_IDS) else None
        images: dict[Any, _CorrectedImage] = {}
        for one in content["images"]:
            size = (int(one["height"]), int(one["width"]))
            images[one["id"]] = _CorrectedImage(file, str(one["file_name"]), size, categories, first_new_id, about.get(SOURCE))
        for annotation in content["annotations"]:
            images[annotation["image_id"]].annotations.append(annotation)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is no COCO instances JSON: {error}"
        raise UserError(f"{file} {what}", fix) from error
    by_name = {one.file_name: one for one in images.values()}
    if len(by_name) < len(content["images"]):
        raise UserError(f"{file} has an image twice: by id or by `file_name`", "list each image once, with all its objects")
    return by_name


def _told(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels (height x width)"
