"""LVIS v1: COCO's instances JSON, but for images that are named by their address, and for what is known not to be drawn."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.annotations.coco import CocoSource
from tasks.annotations.source import Listing

_NOT_DRAWN = "not_exhaustive_category_ids"
_ABSENT = "neg_category_ids"


@dataclass(frozen=True)
class LvisSource(CocoSource):
    """An LVIS JSON, and the folder that holds COCO's `train2017` and `val2017`, or the images themselves.

    LVIS says of some categories that an image shows none of them, and of some that not all of them are drawn; of the rest it says
    nothing. Records have no place for that: training takes what is not drawn for background, as with COCO. How many images that
    concerns is among the notes.
    """

    def list(self) -> Listing:
        reader = _CountingReader(self.images, self.annotations)
        listing = reader.list()
        counts = reader.counts
        note = (
            f"{self.annotations}: in {counts[_NOT_DRAWN]} of {counts['images']} images not all objects of some categories are drawn"
            f" (`{_NOT_DRAWN}`): training takes these for background, and metrics a find of them for an error; `{_ABSENT}` is not used"
        )
        return dataclasses.replace(listing, notes=(*listing.notes, note))


@dataclass(frozen=True)
class _CountingReader(CocoSource):
    """`counts` are of images, and of those whose lists of categories are not empty, by the lists' keys."""

    counts: Counter[str] = field(default_factory=Counter)

    def _lists(self) -> Iterator[tuple[str, Iterator[tuple[Mapping[str, Any], str]]]]:
        for key, values in super()._lists():
            yield key, map(self._counted, values) if key == "images" else values

    def _counted(self, entry: tuple[Mapping[str, Any], str]) -> tuple[Mapping[str, Any], str]:
        self.counts.update(["images", *(key for key in (_NOT_DRAWN, _ABSENT) if entry[0].get(key))])
        return entry
