"""What an evaluation keeps: of every detection what it matched, of every object that it was there. All figures are derived from it.

A `Matches` is held in one compressed `.npz`: about 20 bytes a detection. Images stand in the order of their ids, and detections by image,
category and rank, so that equal scores have pycocotools' order wherever they are sorted.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.coco.masks import Rle, rle_areas
from tasks.coco.matching import (
    AREAS,
    IOU_THRESHOLDS,
    boundary_overlaps,
    box_overlaps,
    mask_overlaps,
    matched,
    outside_area,
    place_in_run,
    ranked,
)
from tasks.running.errors import UserError
from tasks.running.workspace import written_whole

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

FORMAT_VERSION = 1
MASK, BOX, BOUNDARY = "segm", "bbox", "boundary"
"""Kinds of overlap by which detections are matched; the first two are pycocotools' `iouType`."""
WITH_MASKS, WITHOUT_MASKS = (MASK, BOX, BOUNDARY), (BOX,)

_LOOSE = IOU_THRESHOLDS[0]
_BITS = len(AREAS) * len(IOU_THRESHOLDS)
_NONE = -1


class NotMatchesError(UserError):
    """A file that is no evaluation's matches."""


@dataclass(frozen=True)
class Images:
    """N images. `ids` are texts, as an id may pass 64 bits; `attributes` are a text for each image, by the attribute's name."""

    ids: Array
    file_names: Array
    heights: npt.NDArray[np.int32]
    widths: npt.NDArray[np.int32]
    attributes: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Objects:
    """G objects of the ground truth: whose image and category (indices), square pixels, and whether it is a crowd."""

    image: npt.NDArray[np.int32]
    category: npt.NDArray[np.int32]
    area: Floats
    crowd: Bools

    def __len__(self) -> int:
        return len(self.image)

    def counted(self, area: str = "all") -> Bools:
        """Whether each has to be found, [G]: it is no crowd, and of that size."""
        counted: Bools = ~(self.crowd | outside_area(self.area)[list(AREAS).index(area)])
        return counted


@dataclass(frozen=True)
class Detections:
    """D detections, at most 100 of a category in an image. Indices are of image, category and object, -1 for none.

    `hits` and `ignored` are bits by the kind of overlap, uint8 [D, 5]: of each size of objects and each IoU threshold whether the
    detection is an object, and whether it counts for nothing; `bits` unpacks them.

    Of objects that are no crowd, by masks where there are masks and else by boxes: `own` is the object of its own category that it
    overlaps most and `own_iou` how much, `other` and `other_iou` the same of other categories, and `paired` the object that it is at
    IoU 0.5 if categories are not asked for, each object once. `own_box_iou` is the most overlap of its box with one of its category.
    """

    image: npt.NDArray[np.int32]
    category: npt.NDArray[np.int32]
    score: Floats
    hits: Mapping[str, npt.NDArray[np.uint8]]
    ignored: Mapping[str, npt.NDArray[np.uint8]]
    object: npt.NDArray[np.int32]
    """At IoU 0.5, of its category, among objects of all sizes; a crowd too"""
    own: npt.NDArray[np.int32]
    own_iou: npt.NDArray[np.float32]
    own_box_iou: npt.NDArray[np.float32]
    other: npt.NDArray[np.int32]
    other_iou: npt.NDArray[np.float32]
    paired: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.image)

    @property
    def rank(self) -> npt.NDArray[np.intp]:
        """How many of its category in its image are surer: [D], from 0."""
        return place_in_run(self.image.astype(np.int64) * (int(self.category.max(initial=0)) + 1) + self.category)


@dataclass(frozen=True)
class Matches:
    """`categories` are (id, name); `about` says of which model, data and split the rest is; JSON."""

    categories: tuple[tuple[int, str], ...]
    kinds: tuple[str, ...]
    images: Images
    objects: Objects
    detections: Detections
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The kind of overlap that ranks: of masks, where there are masks."""
        return self.kinds[0]

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.categories]


def bits(packed: npt.NDArray[np.uint8]) -> Bools:
    """Bool [..., A, T]: by size of objects, in the order of `AREAS`, and IoU threshold."""
    unpacked = np.unpackbits(packed, axis=-1, count=_BITS).view(np.bool_)
    return unpacked.reshape(*packed.shape[:-1], len(AREAS), len(IOU_THRESHOLDS))


@dataclass(frozen=True)
class ImageTruth:
    """An image and its objects: boxes x, y, width, height in pixels, categories by index; `masks` are None where there are none."""

    image_id: str
    file_name: str
    height: int
    width: int
    boxes_xywh: Floats
    categories: npt.NDArray[np.int32]
    areas: Floats
    crowd: Bools
    masks: Sequence[Rle] | None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageFound:
    """The detections in an image, in any order."""

    boxes_xywh: Floats
    categories: npt.NDArray[np.int32]
    scores: Floats
    masks: Sequence[Rle] | None


def match_image(
    truth: ImageTruth, found: ImageFound, categories: tuple[tuple[int, str], ...], kinds: tuple[str, ...] | None = None
) -> Matches:
    """The matches of one image. `kinds`: by default masks, boxes and boundaries where there are masks, and boxes where there are none."""
    with_masks = truth.masks is not None and found.masks is not None
    kinds = kinds or (WITH_MASKS if with_masks else WITHOUT_MASKS)
    _confirm_sizes(truth, found)
    chosen = ranked(found.categories, found.scores)
    group, crowd = found.categories[chosen], truth.crowd
    ignored = crowd | outside_area(truth.areas)
    boxes = found.boxes_xywh.reshape(-1, 4)[chosen]
    masks = [found.masks[index] for index in chosen] if found.masks is not None else []
    same = group[:, np.newaxis] == truth.categories
    overlaps = {BOX: box_overlaps(boxes, truth.boxes_xywh, crowd)}
    areas = {BOX: boxes[:, 2] * boxes[:, 3]}
    if with_masks:
        assert truth.masks is not None
        overlaps[MASK] = mask_overlaps(masks, truth.masks, crowd)
        areas[MASK] = rle_areas(masks)
        if BOUNDARY in kinds:
            overlaps[BOUNDARY] = boundary_overlaps(masks, truth.masks, crowd, np.where(same, overlaps[MASK], 0.0))
            areas[BOUNDARY] = areas[MASK]
    hits, out, objects = {}, {}, {}
    for kind in kinds:
        objects[kind] = matched(np.where(same, overlaps[kind], 0.0), crowd, ignored, group)
        hits[kind], out[kind] = _packed(objects[kind], ignored, outside_area(areas[kind]))
    count = len(chosen)
    return Matches(
        categories,
        kinds,
        Images(
            np.array([truth.image_id]),
            np.array([truth.file_name]),
            np.array([truth.height], np.int32),
            np.array([truth.width], np.int32),
            {name: np.array([value]) for name, value in truth.attributes.items()},
        ),
        Objects(np.zeros(len(crowd), np.int32), truth.categories.astype(np.int32), truth.areas, crowd),
        Detections(
            np.zeros(count, np.int32),
            group.astype(np.int32),
            found.scores[chosen],
            hits,
            out,
            objects[kinds[0]][:, 0, 0],
            **_nearest(np.where(crowd, 0.0, overlaps[kinds[0]]), np.where(crowd, 0.0, overlaps[BOX]), same),
            paired=_paired(np.where(crowd, 0.0, overlaps[kinds[0]]), found.scores[chosen]),
        ),
    )


def _confirm_sizes(truth: ImageTruth, found: ImageFound) -> None:
    for mask in [*(truth.masks or ()), *(found.masks or ())]:
        if tuple(mask["size"]) != (truth.height, truth.width):
            height, width = mask["size"]
            raise ValueError(f"{truth.file_name}: a mask of {height} x {width} in an image of {truth.height} x {truth.width}")


def _packed(objects: npt.NDArray[np.int32], ignored: Bools, outside: Bools) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Bits of what is an object, and of what counts for nothing: on an ignored object, or unmatched and not of the size."""
    hit = objects != _NONE
    lanes = np.arange(len(ignored))[:, np.newaxis]
    on_ignored = hit & ignored[lanes, objects] if ignored.shape[1] else np.zeros_like(hit)
    out = on_ignored | ~hit & outside.T[:, :, np.newaxis]
    packed_hit, packed_out = (np.packbits(one.reshape(len(objects), _BITS), axis=1) for one in (hit, out))
    return packed_hit, packed_out


def _nearest(overlaps: Floats, box_overlaps: Floats, same: Bools) -> dict[str, Array]:
    columns: dict[str, Array] = {"own_box_iou": np.where(same, box_overlaps, 0.0).max(axis=1, initial=0.0).astype(np.float32)}
    for name, allowed in (("own", same), ("other", ~same)):
        values = np.where(allowed, overlaps, 0.0)
        best = values.max(axis=1, initial=0.0)
        columns[f"{name}_iou"] = best.astype(np.float32)
        columns[name] = np.where(best > 0, values.argmax(axis=1) if values.shape[1] else 0, _NONE).astype(np.int32)
    return columns


def _paired(overlaps: Floats, scores: Floats) -> npt.NDArray[np.int32]:
    paired = np.full(len(scores), _NONE, np.int32)
    able = np.flatnonzero((overlaps >= _LOOSE).any(axis=1))
    left = overlaps.copy()
    for detection in able[np.argsort(-scores[able], kind="stable")]:
        best = left[detection].argmax()
        if left[detection, best] >= _LOOSE:
            paired[detection] = best
            left[:, best] = 0.0
    return paired


def no_matches(categories: tuple[tuple[int, str], ...], kinds: tuple[str, ...]) -> Matches:
    """The matches of no image."""
    whole, number, share = np.zeros(0, np.int32), np.zeros(0), np.zeros(0, np.float32)
    packed = {kind: np.zeros((0, _BITS // 8), np.uint8) for kind in kinds}
    return Matches(
        categories,
        kinds,
        Images(np.zeros(0, str), np.zeros(0, str), whole, whole),
        Objects(whole, whole, number, np.zeros(0, bool)),
        Detections(whole, whole, number, packed, packed, whole, whole, share, share, whole, share, whole),
    )


def joined(parts: Sequence[Matches], image_ids: Sequence[int], about: Mapping[str, Any]) -> Matches:
    """The matches of all images of some parts, which have the same categories and kinds, under the ids that are given for all of them.

    Images come in the order of their ids, as pycocotools takes them.
    """
    first = parts[0]
    order = np.array(sorted(range(len(image_ids)), key=lambda index: image_ids[index]), np.intp)
    place = _places(order)
    names = sorted({name for part in parts for name in part.images.attributes})
    attributes = {name: [part.images.attributes.get(name, np.full(len(part.images), "")) for part in parts] for name in names}
    images = Images(
        np.array([str(image_ids[index]) for index in order], str),
        _stacked(parts, "images", "file_names")[order],
        _stacked(parts, "images", "heights")[order],
        _stacked(parts, "images", "widths")[order],
        {name: np.concatenate(values)[order] for name, values in attributes.items()},
    )
    owner = place[_pointing(parts, "objects", "image", "images")]
    object_order = np.argsort(owner, kind="stable")
    # The last is where -1 points.
    object_place = np.append(_places(object_order), _NONE)
    objects = Objects(
        owner[object_order].astype(np.int32), *(_stacked(parts, "objects", name)[object_order] for name in ("category", "area", "crowd"))
    )
    owner = place[_pointing(parts, "detections", "image", "images")]
    detection_order = np.argsort(owner, kind="stable")
    columns: dict[str, Any] = {"image": owner[detection_order].astype(np.int32)}
    for name in ("category", "score", "own_iou", "own_box_iou", "other_iou"):
        columns[name] = _stacked(parts, "detections", name)[detection_order]
    for name in ("object", "own", "other", "paired"):
        columns[name] = object_place[_pointing(parts, "detections", name, "objects")][detection_order].astype(np.int32)
    for name in ("hits", "ignored"):
        packed = {kind: np.concatenate([getattr(part.detections, name)[kind] for part in parts]) for kind in first.kinds}
        columns[name] = {kind: values[detection_order] for kind, values in packed.items()}
    return Matches(first.categories, first.kinds, images, objects, Detections(**columns), about)


def _places(order: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Where each comes to stand in an order."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places


def _stacked(parts: Sequence[Matches], table: str, column: str) -> Array:
    return np.concatenate([getattr(getattr(part, table), column) for part in parts])


def _pointing(parts: Sequence[Matches], table: str, column: str, target: str) -> Array:
    """A column of indices of the parts' `target`, as indices of all of theirs."""
    starts = np.cumsum([0, *(len(getattr(part, target)) for part in parts[:-1])])
    values = [getattr(getattr(part, table), column) for part in parts]
    return np.concatenate([np.where(one == _NONE, _NONE, one + start) for one, start in zip(values, starts, strict=True)])


def write_matches(path: Path, matches: Matches) -> None:
    """One compressed file; the same matches give the same bytes."""
    columns: dict[str, Array] = {}
    for table in ("images", "objects", "detections"):
        for one in fields(getattr(matches, table)):
            value = getattr(getattr(matches, table), one.name)
            if isinstance(value, Mapping):
                columns |= {f"{table}.{one.name}.{key}": array for key, array in value.items()}
            else:
                columns[f"{table}.{one.name}"] = value
    head = {
        "format_version": FORMAT_VERSION,
        "categories": matches.categories,
        "kinds": matches.kinds,
        "attributes": list(matches.images.attributes),
        "about": matches.about,
    }
    columns["head"] = np.frombuffer(json.dumps(head, sort_keys=True).encode(), np.uint8)
    with written_whole(path) as stream:
        np.savez_compressed(stream, allow_pickle=False, **columns)


def read_matches(path: Path) -> Matches:
    """What `write_matches` wrote. NotMatchesError where the file is missing, damaged, something else or of another version."""
    again = "run `maskline evaluate` again, which writes it"
    try:
        with np.load(path, allow_pickle=False) as stored:
            head = json.loads(stored["head"].tobytes())
            if head["format_version"] != FORMAT_VERSION:
                raise NotMatchesError(f"{path}: format_version is {head['format_version']}, this program reads {FORMAT_VERSION}", again)
            kinds = tuple(head["kinds"])

            keys = {"attributes": head["attributes"], "hits": kinds, "ignored": kinds}

            def column(name: str, part: str) -> Any:
                return {key: stored[f"{name}.{key}"] for key in keys[part]} if part in keys else stored[name]

            def columns(name: str, table: type[Images | Objects | Detections]) -> dict[str, Any]:
                return {one.name: column(f"{name}.{one.name}", one.name) for one in fields(table)}

            return Matches(
                tuple((number, name) for number, name in head["categories"]),
                kinds,
                Images(**columns("images", Images)),
                Objects(**columns("objects", Objects)),
                Detections(**columns("detections", Detections)),
                head["about"],
            )
    except FileNotFoundError as error:
        raise NotMatchesError(f"{path} does not exist", again) from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise NotMatchesError(f"{path} is no evaluation's matches: {error}", again) from error
