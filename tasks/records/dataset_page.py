"""A dataset on one page of HTML that needs nothing beside it: what it holds, what was found in it, and some of its images."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.coco.image_opening import opened_image
from tasks.coco.pictures import PictureObjects, category_color, draw_objects
from tasks.records.annotated_image import Instance
from tasks.records.checks import Check
from tasks.records.drift import compare_manifests
from tasks.records.example import ImageRecord
from tasks.records.finding_examples import kinds_of_findings, shown
from tasks.records.manifest import Manifest, Split
from tasks.records.samples import sample_records
from tasks.records.statistics import SIZES, Statistics, bucket_bounds, bucket_text, in_buckets
from tasks.running.progress import Progress
from tasks.running.workspace import DatasetDir

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


class CheckTimes(NamedTuple):
    """A check, and how often it was found."""

    check: Check
    times: int


@dataclass(frozen=True)
class Found:
    """A kind of fault in a split: its check, how often and in how many images it is (None where no list tells), first places, a picture."""

    check: Check
    times: int
    images: int | None
    places: list[Mapping[str, Any]]
    uri: str | None


def dataset_page(dataset: DatasetDir, manifest: Manifest, against: Manifest | None = None) -> str:
    """The page, with the drift from an earlier manifest where one is given; raises what `sample_records` does."""
    progress = Progress("drawing")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"color": _css_color, "grouped": "{:,}".format, "percent": "{:.1%}".format}
    return environment.get_template(_TEMPLATE).render(
        manifest=manifest,
        against=against,
        drifts=compare_manifests(against, manifest) if against else {},
        pictures={name: [*_pictures(dataset, split, manifest.label_map.names, progress)] for name, split in manifest.splits.items()},
        source_checks=checks_of(manifest.source_findings),
        found=_found(dataset, manifest, progress),
        charts=_charts,
        image_sizes=most_common_image_sizes,
        sizes=SIZES,
    )


def checks_of(*found: Mapping[str, int]) -> list[CheckTimes]:
    """The checks of counts by code, and how often."""
    return [CheckTimes(Check.of(code), times) for one in found for code, times in one.items()]


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


def _pictures(dataset: DatasetDir, split: Split, names: Mapping[int, str], progress: Progress) -> Iterator[Picture]:
    for record in sample_records(dataset, split, PICTURES):
        with opened_image(record.encoded) as image:
            pixels = np.asarray(image.convert("RGB"))
        yield Picture(_drawn(pixels, record.instances, names), record)
        progress.advance()


def _found(dataset: DatasetDir, manifest: Manifest, progress: Progress) -> dict[str, list[Found]]:
    """What was found in each split, with a picture of each kind where there is one to see."""
    kinds = kinds_of_findings(dataset)
    found: dict[str, list[Found]] = {}
    for name, split in manifest.splits.items():
        found[name] = []
        for check, times in checks_of(split.findings, split.quarantined):
            kind = kinds.get((name, check.value))
            if kind is None:
                found[name].append(Found(check, times, None, [], None))
                continue
            seen = shown(dataset, kind.places[0])
            instances = [seen.record.instances[index] for index in seen.chosen] if seen and seen.record else []
            uri = _drawn(seen.pixels, instances, manifest.label_map.names) if seen else None
            found[name].append(Found(check, times, kind.images, kind.places, uri))
            progress.advance()
    return found


def _drawn(pixels: npt.NDArray[np.uint8], instances: Sequence[Instance], names: Mapping[int, str]) -> str:
    """The data URI of a JPEG."""
    objects = PictureObjects(
        np.array([instance.box_yxyx for instance in instances]).reshape(-1, 4),
        [instance.category_id for instance in instances],
        [instance.mask for instance in instances],
    )
    return f"data:image/jpeg;base64,{base64.b64encode(draw_objects(pixels, objects, names)).decode()}"


def _css_color(category_id: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*category_color(category_id))
