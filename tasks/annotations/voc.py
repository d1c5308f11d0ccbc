"""Pascal VOC's segmentation: one PNG of object numbers and one of classes for each image, by palette, or in colours as CVAT writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tasks.annotations.class_list import ClassList, read_class_list
from tasks.annotations.folder import confirm_paired, files_by_stem, listed_lines, names, portable, required_names
from tasks.annotations.mask_file import Ids, read_classes, read_numbers
from tasks.annotations.source import CategoryKey, ListedImage, Listing, SourceObject
from tasks.annotations.voc_xml import VocObject, read_voc_xml
from tasks.records.checks import BadImageError, Check, DataError

_VOID = 255
_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike"),
    *("person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclass(frozen=True)
class VocSource:
    """`JPEGImages`, `SegmentationObject`, `SegmentationClass` and, where it is there, `Annotations` in one folder.

    `image_set` names a list in `ImageSets/Segmentation`; without it, all images of `SegmentationObject` count. `categories` are the
    names of classes 1, 2, 3, ..., by default those of a list of classes in the folder (`class_list.py`), and without one VOC's twenty.
    `images` is where the images are, if not in `JPEGImages`.
    """

    folder: Path
    image_set: str | None = None
    categories: tuple[str, ...] | None = None
    images: Path | None = None

    def list(self) -> Listing:
        """DataError where a list of classes in the folder names others than `categories`, and where there are no masks of objects."""
        if self._class_list and self.categories not in (None, self._class_list.names):
            raise DataError(
                Check.SOURCE_MALFORMED,
                f"{self._class_list.path} names the classes {', '.join(self._class_list.names)}, and `categories` in the dataset's YAML"
                f" {', '.join(self.categories or ())}",
                "leave `categories` out, or correct the one that is wrong",
            )
        return Listing(self._names(), self._images())

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        """Boxes and `difficult` are the XML's where it has an object of the same class for each number; else they are not known."""
        colours, indices = image.payload or ({}, [])
        numbers = read_numbers(image.files[0], size)
        classes = read_classes(image.files[1], size, {int(colour): number for colour, number in colours.items()}, indices)
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
        names = {one.name for one in described.values()}
        if self._is_vocs_own and names and not names & set(_CLASSES):
            raise BadImageError(
                Check.UNKNOWN_CATEGORY,
                f"{files[0]} has the objects {', '.join(sorted(names))}, which are none of Pascal VOC's twenty classes",
                "name the classes in the order of their numbers: `categories` in the dataset's YAML, or a class_names.txt in the folder",
            )
        agree = all(number in described and described[number].name == known.get(one) for number, one in categories.items())
        return described if agree else {}

    def _names(self) -> dict[CategoryKey, str]:
        names = self._class_list.names if self._class_list else self.categories
        return dict(enumerate(names or _CLASSES, start=1))

    @cached_property
    def _class_list(self) -> ClassList | None:
        return read_class_list(self.folder, required_names(self.folder, "folder"))

    @property
    def _is_vocs_own(self) -> bool:
        return self._class_list is None and self.categories is None

    def _masks(self, kind: str) -> Path:
        """The folder of one of the two kinds; LabelMe's older exports have arrays in it, and the PNGs in another."""
        pictures = self.folder / f"{kind}PNG"
        return pictures if pictures.name in required_names(self.folder, "folder") else self.folder / kind

    def _images(self) -> Iterator[ListedImage]:
        folder = self.images or self.folder / "JPEGImages"
        images = files_by_stem(folder, "images" if self.images else "folder")
        annotations = self.folder / "Annotations"
        described = set(names(annotations)) if annotations.is_dir() else set()
        listed = self._stems()
        stems = [stem for stem, _ in listed]
        confirm_paired(images, stems, str(self.folder), "name the folder of the images of these masks: `images` in the dataset's YAML")
        kinds = [self._masks(kind) for kind in ("SegmentationObject", "SegmentationClass")]
        colours = (self._class_list.colours, self._class_list.indices) if self._class_list else None
        for stem, findings in listed:
            masks = [kind / f"{stem}.png" for kind in kinds]
            xml = [annotations / f"{stem}.xml"] if f"{stem}.xml" in described else []
            file = images.get(stem, f"{stem}.jpg")
            yield ListedImage(stem, file, folder / file, None, colours, (*masks, *xml), findings)

    def _stems(self) -> Sequence[tuple[str, tuple[Check, ...]]]:
        """Each image's path less its suffix, and what was mended in it."""
        folder = self._masks("SegmentationObject")
        if folder.name not in required_names(self.folder, "folder"):
            raise DataError(
                Check.SOURCE_MISSING,
                f"{folder}: the folder of the objects' masks is missing"
                + ("; SegmentationClass alone does not tell objects of a class apart" * (self.folder / "SegmentationClass").is_dir()),
                "name the folder that SegmentationObject lies in as `folder`, or export instances too (labelme2voc writes none"
                " with --noobject; boxes alone make no masks)",
            )
        known = files_by_stem(folder, "folder")
        if self.image_set is None:
            return [(stem, ()) for stem in sorted(known)]
        lines = listed_lines(self.folder / "ImageSets" / "Segmentation" / f"{self.image_set}.txt", "image_set")
        read = [portable(line, folder) for line in lines]
        # What stands behind a name is whether it shows some class, unless the name itself has blanks.
        return [(line if line in known else line.split()[0], findings) for line, findings in read]


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
