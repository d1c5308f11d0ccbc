"""A dataset on one page of HTML that needs nothing beside it: what it holds, what was found in it, and some of its images."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from tasks.coco.pictures import PictureObjects, category_color, draw_objects
from tasks.records.checks import Check
from tasks.records.drift import compare_manifests
from tasks.records.example import ImageRecord
from tasks.records.manifest import Manifest, Split
from tasks.records.samples import sample_records
from tasks.records.statistics import SIZES, Statistics, bucket_bounds, bucket_text, in_buckets
from tasks.workspace import DatasetDir

PICTURES = 12
"""Images of each split that are shown."""
IMAGE_SIZES = 10
_TEMPLATE = "dataset_page.html"


@dataclass(frozen=True)
class Bar:
    """A bucket of a histogram: the least number in it, all of them in words, how many there are, and that as a part of the highest."""

    least: str
    words: str
    count: int
    height: float


@dataclass(frozen=True)
class Picture:
    """A record drawn: a JPEG as a data URI."""

    uri: str
    record: ImageRecord


def dataset_page(dataset: DatasetDir, manifest: Manifest, against: Manifest | None = None) -> str:
    """The page, with the drift from an earlier manifest where one is given; raises what `sample_records` does."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"color": _css_color, "grouped": "{:,}".format, "percent": "{:.1%}".format}
    return environment.get_template(_TEMPLATE).render(
        manifest=manifest,
        against=against,
        drifts=compare_manifests(against, manifest) if against else {},
        pictures={name: [*_pictures(dataset, split, manifest.label_map.names)] for name, split in manifest.splits.items()},
        charts=_charts,
        checks=checks_of,
        image_sizes=most_common_image_sizes,
        sizes=SIZES,
    )


def checks_of(split: Split) -> list[tuple[Check, int]]:
    """What was found in a split, images that are quarantined for it last, and how often."""
    return [(Check.of(code), times) for found in (split.findings, split.quarantined) for code, times in found.items()]


def most_common_image_sizes(statistics: Statistics) -> list[tuple[str, int]]:
    """The ten most frequent `HEIGHT x WIDTH` with their images, and all the others in one."""
    most = sorted(statistics.image_sizes.items(), key=lambda item: (-item[1], item[0]))
    rest = most[IMAGE_SIZES:]
    return most[:IMAGE_SIZES] + [(f"{len(rest)} others", sum(count for _, count in rest))] * bool(rest)


def _charts(statistics: Statistics) -> dict[str, list[Bar]]:
    return {
        "Objects in an image": _bars(in_buckets(statistics.objects_per_image)),
        "Pixels of a box": _bars(statistics.box_areas),
        "Pixels of a mask": _bars(statistics.mask_areas),
    }


def _bars(counts: Counter[int]) -> list[Bar]:
    """From the first bucket that has any to the last, those between without any too."""
    if not counts:
        return []
    highest = max(counts.values())
    places = range(min(counts), max(counts) + 1)
    return [Bar(_short(bucket_bounds(place)[0]), bucket_text(place), counts[place], counts[place] / highest) for place in places]


def _short(number: int) -> str:
    for unit, name in ((2**20, "M"), (2**10, "k")):
        if number >= unit:
            return f"{number // unit}{name}"
    return str(number)


def _pictures(dataset: DatasetDir, split: Split, names: Mapping[int, str]) -> Iterator[Picture]:
    for record in sample_records(dataset, split, PICTURES):
        with Image.open(io.BytesIO(record.encoded)) as image:
            pixels = np.asarray(image.convert("RGB"))
        instances = record.instances
        objects = PictureObjects(
            np.array([instance.box_yxyx for instance in instances]).reshape(-1, 4),
            [instance.category_id for instance in instances],
            [instance.mask for instance in instances],
        )
        jpeg = base64.b64encode(draw_objects(pixels, objects, names)).decode()
        yield Picture(f"data:image/jpeg;base64,{jpeg}", record)


def _css_color(category_id: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*category_color(category_id))
