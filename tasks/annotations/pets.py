"""Oxford-IIIT Pets as the original's guide to it takes them: a trimap for each image, and the breed in its file's name."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.annotations.folder import listed_words, required_names
from tasks.annotations.mask_file import read_ids
from tasks.annotations.source import CategoryKey, ListedImage, Listing, SourceObject
from tasks.annotations.voc_xml import read_voc_xml
from tasks.records.checks import BadImageError, Check, DataError
from tasks.running.errors import UserError

_TRIMAP_VALUES = (_PET, _BACKGROUND, _BORDER) = (1, 2, 3)
_SEED = 42
_TRAIN_SHARE = 0.7


@dataclass(frozen=True)
class PetsSource:
    """`folder` holds `images` and `annotations`, with `trimaps`, `xmls` and the lists of images.

    `split` is `train` or `val` of the original's division of a list, 70 and 30 parts of a hundred in an order drawn by seed 42; without
    it, all images count. Images without XML are passed over, as they are there.
    """

    folder: Path
    image_list: str = "trainval.txt"
    split: str | None = None

    def __post_init__(self) -> None:
        if self.split not in (None, "train", "val"):
            raise UserError(f"pets: split is {self.split!r}", "write `train` or `val`, or leave it out")

    def list(self) -> Listing:
        """Breeds by their numbers in the list, which are those of the original's label map."""
        numbers: dict[CategoryKey, str] = {}
        listed = _listed(self._list_path)
        for name, number in listed:
            breed = numbers.setdefault(number, _breed(name))
            if breed != _breed(name):
                raise DataError(
                    Check.SOURCE_MALFORMED,
                    f"{self._list_path}: class {number} is {breed} and {_breed(name)}",
                    "bring back the original list",
                )
        own = self._of_split(listed)
        described = set(required_names(self.folder / "annotations" / "xmls", "folder"))
        found = [(name, number) for name, number in own if f"{name}.xml" in described]
        return Listing(numbers, map(self._image, found), len(own) - len(found))

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        """One pet, its border included; the XML's boxes are of heads, so that the mask's extent is the box."""
        trimap, xml = image.files
        values = read_ids(trimap, size)
        if not np.isin(values, _TRIMAP_VALUES).all():
            raise BadImageError(
                Check.MASK_VALUES,
                f"{trimap}: it has other values than 1 (pet), 2 (background) and 3 (border)",
                "bring back the original trimap",
            )
        is_difficult = any(one.is_difficult for one in read_voc_xml(xml))
        yield SourceObject(str(trimap), image.payload, (values != _BACKGROUND).view(np.uint8), is_difficult=is_difficult)

    @property
    def _list_path(self) -> Path:
        return self.folder / "annotations" / self.image_list

    def _of_split(self, listed: Sequence[tuple[str, int]]) -> Sequence[tuple[str, int]]:
        if self.split is None:
            return listed
        shuffled = list(listed)
        random.Random(_SEED).shuffle(shuffled)
        count = int(_TRAIN_SHARE * len(shuffled))
        return shuffled[:count] if self.split == "train" else shuffled[count:]

    def _image(self, named: tuple[str, int]) -> ListedImage:
        name, number = named
        annotations = self.folder / "annotations"
        files = (annotations / "trimaps" / f"{name}.png", annotations / "xmls" / f"{name}.xml")
        return ListedImage(name, f"{name}.jpg", self.folder / "images" / f"{name}.jpg", None, number, files)


def _listed(path: Path) -> list[tuple[str, int]]:
    """Name and class of each image of a list."""
    found = []
    for words in listed_words(path, "image_list"):
        if len(words) < 2 or not words[1].isdecimal():
            raise DataError(
                Check.SOURCE_MALFORMED, f"{path}: {words[0]} has no class", "bring back the original list: name, class, species, breed"
            )
        found.append((words[0], int(words[1])))
    return found


def _breed(name: str) -> str:
    return name.rpartition("_")[0]
