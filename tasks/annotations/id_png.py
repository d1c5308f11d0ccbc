"""One PNG file for each image, whose pixels are numbers of objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.annotations.folder import confirm_paired, files_by_stem
from tasks.annotations.mask_file import read_ids
from tasks.annotations.source import CategoryKey, ListedImage, Listing, SourceObject
from tasks.running.errors import UserError


@dataclass(frozen=True)
class IdPngSource:
    """`images/NAME.jpg` beside `masks/NAME.png`, at any depth; 0 is background, `ignore` is no object either.

    Where all objects are of one `category`, each value is an object. With `categories` (name by number) and a `divisor`, an object's
    value is its category's number times the divisor, and its own number is the rest; Cityscapes' divisor is 1000. A category's bare
    number is a crowd of it there, and any other value below the divisor is background. `image_ending` and `mask_ending` are what the
    stems of paired files differ by.
    """

    images: Path
    masks: Path
    category: str | None = None
    categories: Mapping[int, str] | None = None
    divisor: int | None = None
    ignore: int | None = None
    image_ending: str = ""
    mask_ending: str = ""

    def __post_init__(self) -> None:
        given = (self.category is not None, self.categories is not None, self.divisor is not None)
        if given not in ((True, False, False), (False, True, True)):
            raise UserError("id_png: the objects' categories are not clear", "give either `category`, or `categories` with `divisor`")
        if self.divisor is not None and self.divisor < 1:
            raise UserError(f"id_png: divisor is {self.divisor}", "write the number that divides a value into category and object")

    def list(self) -> Listing:
        """All images and all masks; where one has no partner, the partner is listed as the file that it should be, and missed later."""
        categories: dict[CategoryKey, str] = dict((self.categories or {}).items())
        if self.category is not None:
            categories[self.category] = self.category
        return Listing(categories, self._images())

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        (path,) = image.files
        ids = read_ids(path, size)
        for value in np.unique(ids).tolist():
            if value in (0, self.ignore):
                continue
            category, is_crowd = self._category(value)
            if category is not None:
                yield SourceObject(f"{path}: value {value}", category, (ids == value).view(np.uint8), is_crowd=is_crowd)

    def _images(self) -> Iterator[ListedImage]:
        images = files_by_stem(self.images, "images", self.image_ending)
        masks = files_by_stem(self.masks, "masks", self.mask_ending)
        fix = "give `mask_ending`, what the masks' names end with, or `image_ending`"
        confirm_paired(images, masks, str(self.masks), fix, has_endings=True)
        for stem in sorted({*images, *masks}):
            file = images.get(stem, f"{stem}{self.image_ending}.png")
            mask = self.masks / masks.get(stem, f"{stem}{self.mask_ending}.png")
            yield ListedImage(stem, file, self.images / file, None, None, (mask,))

    def _category(self, value: int) -> tuple[CategoryKey | None, bool]:
        """Whose object the value is, None where it is background, and whether it is a crowd."""
        if self.divisor is None or self.categories is None:
            return self.category, False
        if value >= self.divisor:
            return value // self.divisor, False
        return (value, True) if value in self.categories else (None, False)
