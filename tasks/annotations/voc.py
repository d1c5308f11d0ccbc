"""Pascal VOC's segmentation: one PNG of object numbers and one of classes for each image, palette indices both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.annotations.folder import files_by_stem, listed_words, names
from tasks.annotations.mask_file import Ids, read_ids
from tasks.annotations.source import CategoryKey, ListedImage, Listing, SourceObject
from tasks.annotations.voc_xml import VocObject, read_voc_xml
from tasks.records.checks import BadImageError, Check

_VOID = 255
_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike"),
    *("person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclass(frozen=True)
class VocSource:
    """`JPEGImages`, `SegmentationObject`, `SegmentationClass` and, where it is there, `Annotations` in one folder.

    `image_set` names a list in `ImageSets/Segmentation`; without it, all images of `SegmentationObject` count. `categories` are the
    names of classes 1, 2, 3, ..., by default VOC's twenty.
    """

    folder: Path
    image_set: str | None = None
    categories: tuple[str, ...] | None = None

    def list(self) -> Listing:
        return Listing(self._names(), self._images())

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        """Boxes and `difficult` are the XML's where it has an object of the same class for each number; else they are not known."""
        numbers, classes = (read_ids(path, size) for path in image.files[:2])
        masks = {number: numbers == number for number in np.unique(numbers).tolist() if number not in (0, _VOID)}
        where = {number: f"{image.files[0]}: object {number}" for number in masks}
        categories = {number: _only_class(where[number], classes[mask]) for number, mask in masks.items()}
        described = self._described(image.files[2:], categories)
        for number, mask in masks.items():
            one = described.get(number)
            yield SourceObject(
                where[number],
                categories[number],
                mask.view(np.uint8),
                box_yxyx=one.box_yxyx if one else None,
                is_difficult=one is not None and one.is_difficult,
            )

    def _described(self, files: Sequence[Path], categories: Mapping[int, int]) -> dict[int, VocObject]:
        """The XML's objects under the numbers that their places in it give; empty where there are others than the masks'."""
        described = dict(enumerate((one for path in files for one in read_voc_xml(path)), start=1))
        known = self._names()
        agree = all(number in described and described[number].name == known.get(one) for number, one in categories.items())
        return described if agree else {}

    def _names(self) -> dict[CategoryKey, str]:
        return dict(enumerate(self.categories or _CLASSES, start=1))

    def _images(self) -> Iterator[ListedImage]:
        images = files_by_stem(self.folder / "JPEGImages", "folder")
        annotations = self.folder / "Annotations"
        described = set(names(annotations)) if annotations.is_dir() else set()
        for stem in self._stems():
            masks = [self.folder / kind / f"{stem}.png" for kind in ("SegmentationObject", "SegmentationClass")]
            xml = [annotations / f"{stem}.xml"] if f"{stem}.xml" in described else []
            file = images.get(stem, f"{stem}.jpg")
            yield ListedImage(stem, file, self.folder / "JPEGImages" / file, None, None, (*masks, *xml))

    def _stems(self) -> Sequence[str]:
        if self.image_set is None:
            return sorted(files_by_stem(self.folder / "SegmentationObject", "folder"))
        path = self.folder / "ImageSets" / "Segmentation" / f"{self.image_set}.txt"
        return [words[0] for words in listed_words(path, "image_set")]


def _only_class(where: str, classes: Ids) -> int:
    """The class that all pixels of an object have; BadImageError where they differ."""
    found, pixels = np.unique(classes, return_counts=True)
    if found.size > 1 or found[0] in (0, _VOID):
        shares = ", ".join(f"{one} in {count}" for one, count in zip(found, pixels, strict=True))
        raise BadImageError(
            Check.MASK_VALUES,
            f"{where} has several classes, or none: {shares} pixels",
            "make SegmentationClass agree with SegmentationObject",
        )
    return int(found[0])
