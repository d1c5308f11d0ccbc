"""Stored detections of a model, graded anew by another evaluation's labels of the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.coco.matches import BOX, MASK, ImageFound, ImageTruth, Matches, joined, match_image
from tasks.coco.matching import box_overlaps, mask_overlaps
from tasks.data_queue.evaluated import Things, TrueImage, found_things, true_images
from tasks.running.errors import UserError

_SAME_OBJECT, _UNMOVED = 0.1, 0.99  # overlaps: a label that was corrected may have been half of it


@dataclass(frozen=True)
class LabelChange:
    """How two sets of labels of the same images differ, in objects of all of them."""

    images: int
    changed_images: int
    replaced: int
    added: int
    removed: int
    unchanged: int


@dataclass(frozen=True)
class Graded:
    """An evaluation's images by file name and its detections on them by image id."""

    images: Mapping[str, TrueImage]
    categories: tuple[tuple[int, str], ...]
    found: Mapping[str, Things]

    @classmethod
    def of(cls, evaluation: Path) -> Graded:
        """UserError where the evaluation has not left its files, or has two images of one name."""
        images, categories = true_images(evaluation)
        by_name = {one.file_name: one for one in images.values()}
        if len(by_name) < len(images):
            raise UserError(
                f"{evaluation} has two images of one file name, which cannot be told apart", "give each image a name of its own"
            )
        return cls(by_name, tuple((one["id"], one["name"]) for one in categories), found_things(evaluation, None, 0.0))

    def detections(self, file_name: str) -> Things:
        image = self.images[file_name]
        nothing = np.zeros(0)
        without = Things(nothing.astype(np.int64), nothing.reshape(0, 4), [], nothing, nothing.astype(bool))
        return self.found.get(str(image.id), without)


def graded(detections: Graded, labels: Graded, names: Sequence[str], about: Mapping[str, Any]) -> Matches:
    """The matches of the images of some names, by masks and boxes, or boxes alone where one side has no masks.

    Classes are the same where their names are; detections of a class that the labels do not have count as nothing.
    """
    index_of = {name: index for index, (_, name) in enumerate(labels.categories)}
    class_of = {number: index_of.get(name) for number, name in detections.categories}
    own_index = {number: index for index, (number, _) in enumerate(labels.categories)}
    pairs = [(labels.images[name], detections.detections(name)) for name in names]
    with_masks = all(one.objects.masks is not None and found.masks is not None for one, found in pairs)
    kinds = (MASK, BOX) if with_masks else (BOX,)
    parts = []
    for image, found in pairs:
        kept = [place for place, number in enumerate(found.category_ids.tolist()) if class_of.get(number) is not None]
        some = found.some(kept)
        truth = ImageTruth(
            str(image.id),
            image.file_name,
            image.height,
            image.width,
            image.objects.boxes_xywh,
            np.array([own_index[number] for number in image.objects.category_ids.tolist()], np.int32),
            np.array([one["area"] for one in image.annotations], np.float64),
            image.objects.crowd,
            image.objects.masks if with_masks else None,
        )
        categories = np.array([class_of[number] for number in some.category_ids.tolist()], np.int32)
        given = ImageFound(some.boxes_xywh, categories, some.scores, some.masks if with_masks else None)
        parts.append(match_image(truth, given, labels.categories, kinds))
    return joined(parts, [image.id for image, _ in pairs], about)


def label_change(before: Graded, after: Graded, names: Sequence[str]) -> LabelChange:
    """How the labels of images of some names differ, by which overlap most: one is replaced where its class or its outline is another."""
    changed = replaced = added = removed = unchanged = 0
    for name in names:
        old, new = before.images[name].objects, after.images[name].objects
        old_names, new_names = _names(before, old), _names(after, new)
        overlaps = _overlaps(new, old)
        pairs = []
        left = overlaps.copy()
        while left.size and left.max() >= _SAME_OBJECT:
            place, index = (int(one) for one in np.unravel_index(left.argmax(), left.shape))
            pairs.append((place, index))
            left[place], left[:, index] = 0.0, 0.0
        same = sum(bool(overlaps[pair] >= _UNMOVED) and new_names[pair[0]] == old_names[pair[1]] for pair in pairs)
        unchanged += same
        replaced += len(pairs) - same
        added += len(new) - len(pairs)
        removed += len(old) - len(pairs)
        changed += not len(new) == len(old) == same
    return LabelChange(len(names), changed, replaced, added, removed, unchanged)


def _names(graded: Graded, objects: Things) -> list[str]:
    names = dict(graded.categories)
    return [names[number] for number in objects.category_ids.tolist()]


def _overlaps(first: Things, second: Things) -> Any:
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    plain = np.zeros(len(second), bool)
    if first.masks is not None and second.masks is not None:
        return mask_overlaps(first.masks, second.masks, plain)
    return box_overlaps(first.boxes_xywh, second.boxes_xywh, plain)
