"""What a split holds, counted in whole numbers, so that the counts of its shards add up to the same in any order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from operator import index
from typing import Any, Self

from tasks.coco.masks import rle_area
from tasks.records.annotated_image import AnnotatedImage

SIZES = ("small", "medium", "large")
"""COCO's, by the area that the source gives: below 32 x 32 pixels, below 96 x 96, and the rest."""
_SMALL, _MEDIUM = 32**2, 96**2


@dataclass
class Statistics:
    """Filled image by image, or shard by shard. Objects are all objects, crowds too; categories are label-map ids; areas are pixels.

    The keys of `box_areas` and `mask_areas` are `bucket`s, those of `image_sizes` are `HEIGHT x WIDTH`. Keys that never came are absent.
    """

    objects_per_image: Counter[int] = field(default_factory=Counter)
    objects_per_category: Counter[int] = field(default_factory=Counter)
    crowds_per_category: Counter[int] = field(default_factory=Counter)
    images_per_category: Counter[int] = field(default_factory=Counter)
    box_areas: Counter[int] = field(default_factory=Counter)
    mask_areas: Counter[int] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    image_sizes: Counter[str] = field(default_factory=Counter)

    @property
    def images(self) -> int:
        return self.objects_per_image.total()

    @property
    def empty_images(self) -> int:
        return self.objects_per_image[0]

    @property
    def objects(self) -> int:
        return self.objects_per_category.total()

    @property
    def crowds(self) -> int:
        return self.crowds_per_category.total()

    def add(self, image: AnnotatedImage) -> None:
        self.objects_per_image[len(image.instances)] += 1
        self.images_per_category.update({instance.category_id for instance in image.instances})
        self.image_sizes[f"{image.height} x {image.width}"] += 1
        for instance in image.instances:
            ymin, xmin, ymax, xmax = instance.box_yxyx
            self.objects_per_category[instance.category_id] += 1
            self.crowds_per_category.update([instance.category_id] * instance.is_crowd)
            self.box_areas[bucket((ymax - ymin) * (xmax - xmin))] += 1
            self.mask_areas[bucket(rle_area(instance.mask))] += 1
            self.sizes[_size(instance.area)] += 1

    def merge(self, other: Statistics) -> None:
        """Adds what another part of the split holds."""
        for name, counts in vars(self).items():
            counts.update(getattr(other, name))

    def to_json(self) -> dict[str, dict[str, int]]:
        return {name: {str(key): counts[key] for key in sorted(counts)} for name, counts in vars(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Mapping[str, int]]) -> Self:
        """What `to_json` gave. KeyError, TypeError or AttributeError where it is something else."""
        return cls(**{one.name: _counter(values[one.name]) for one in fields(cls)})


def bucket(number: float) -> int:
    """Bucket 0 has 0, bucket b the whole numbers from 2^(b-1) to 2^b - 1: each is twice as wide as the one before."""
    # Whole first: a box that was stored as 32-bit shares of the image comes back a trifle smaller.
    return round(number).bit_length()


def bucket_bounds(place: int) -> tuple[int, int]:
    """The least and the greatest whole number of a bucket."""
    return (1 << place) >> 1, (1 << place) - 1


def bucket_text(place: int) -> str:
    """A bucket for people, such as `1` or `4 to 7`."""
    least, greatest = bucket_bounds(place)
    return str(least) if place < 2 else f"{least} to {greatest}"


def in_buckets(counts: Mapping[int, int]) -> Counter[int]:
    """Counts by number as counts by the number's bucket."""
    found: Counter[int] = Counter()
    for number, count in counts.items():
        found[bucket(number)] += count
    return found


def _size(area: float) -> str:
    return SIZES[(area >= _SMALL) + (area >= _MEDIUM)]


def _counter(counts: Mapping[str, int]) -> Counter[Any]:
    return Counter({int(key) if key.isdecimal() else key: index(count) for key, count in counts.items()})
