"""COCO instances JSON of the queue's images, with what is proposed: label tools import it, and `materialize --corrections` takes it.

Each image has all its objects, those that are not in doubt too. Of an object that is, `attributes` say what is proposed, why and how sure
that is; CVAT and datumaro keep attributes, others pass them over.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.annotations.categories import LabelIds
from tasks.annotations.coco import CocoSource
from tasks.annotations.corrections import FIRST_NEW_ID, INFO, SOURCE, SOURCE_IDS, CorrectedSource, source_annotations
from tasks.annotations.instances import instances_of
from tasks.annotations.source import CategoryKey, ListedImage
from tasks.coco.masks import Rle, rle_area, rle_from_segmentation
from tasks.coco.paste import mask_outlines
from tasks.data_queue.doubts import LOOSE, MISSING, UNSEEN, WRONG_CLASS, Doubt
from tasks.data_queue.evaluated import TrueImage
from tasks.records.checks import BadImageError
from tasks.running.errors import UserError


@dataclass(frozen=True)
class Annotated:
    """The objects of images as they are annotated: of each image its entry, and its annotations in the order of the evaluation's objects,
    those that the evaluation has not last. `category_of` has the source's id for one of the evaluation's."""

    images: Mapping[str, Mapping[str, Any]]
    annotations: Mapping[str, Sequence[dict[str, Any]]]
    categories: Sequence[Mapping[str, Any]]
    category_of: Mapping[int, int]
    first_new_id: int
    info: Mapping[str, Any]


def as_evaluated(images: Mapping[str, TrueImage], categories: Sequence[Mapping[str, Any]], first_new_id: int) -> Annotated:
    """The records' own objects, as outlines; ids are the evaluation's."""
    return Annotated(
        {name: {"id": one.id, "file_name": one.file_name, "height": one.height, "width": one.width} for name, one in images.items()},
        {name: [_outlined(annotation) for annotation in one.annotations] for name, one in images.items()},
        categories,
        {one["id"]: one["id"] for one in categories},
        first_new_id,
        {},
    )


def as_in_source(
    images: Mapping[str, TrueImage],
    name: str,
    source: CorrectedSource,
    listed: Iterable[ListedImage],
    label_ids: LabelIds,
    names: Mapping[CategoryKey, str],
) -> Annotated:
    """The annotations of a COCO source called `name`, unchanged, of some of its images; `names` are its categories'.

    Where earlier corrections are laid over it, an object that they have added or changed is as they have it. UserError for a source of
    another format, which has no ids, and where an image or an evaluated object is not in it.
    """
    if not isinstance(source.source, CocoSource):
        raise UserError(f"the dataset's split {name} is no COCO JSON, and its objects have no ids", "leave --dataset-yaml out")
    wanted = {one.file_name: key for key, one in images.items()}
    found: dict[str, Mapping[str, Any]] = {}
    annotations: dict[str, list[dict[str, Any]]] = {}
    greatest, own_greatest = 0, 0
    for one in listed:
        own, held = source_annotations(one)
        own_greatest = max([own_greatest, *_whole_ids(own)])
        greatest = max([greatest, *_whole_ids(own), *_whole_ids(held)])
        if (key := wanted.get(one.file_name)) is None:
            continue
        image = images[key]
        image_id = int(one.source_id) if one.source_id.isdecimal() else one.source_id
        found[key] = {"id": image_id, "file_name": one.file_name, "height": image.height, "width": image.width}
        annotations[key] = list(_in_order(image, one.file_name, held, list(_masks(source, one, image, label_ids))))
    if missing := [one.file_name for key, one in images.items() if key not in found]:
        raise UserError(
            f"{source.source.annotations} has no image {missing[0]}, which was evaluated",
            "name the dataset's YAML that the records are made of",
        )
    category_of = {number: key for key, number in label_ids.items() if number is not None and isinstance(key, int)}
    info = {SOURCE_IDS: True, FIRST_NEW_ID: own_greatest + 1, SOURCE: name}
    return Annotated(found, annotations, [{"id": key, "name": one} for key, one in names.items()], category_of, greatest + 1, info)


def _whole_ids(annotations: Sequence[Mapping[str, Any]]) -> list[int]:
    return [one["id"] for one in annotations if isinstance(one.get("id"), int)]


def _masks(source: CorrectedSource, listed: ListedImage, image: TrueImage, label_ids: LabelIds) -> Iterator[tuple[int, bytes] | None]:
    """Of each annotation of an image what tells it in the records: its class there and its mask; None for one that is in none."""
    size = (image.height, image.width)
    for one in source.objects(listed, size):
        try:
            instances, _ = instances_of([one], size, label_ids)
        except BadImageError:
            instances = ()
        yield (instances[0].category_id, instances[0].mask["counts"]) if instances else None


def _in_order(
    image: TrueImage, name: str, own: Sequence[dict[str, Any]], told: Sequence[tuple[int, bytes] | None]
) -> Iterator[dict[str, Any]]:
    left = dict(enumerate(told))
    for index in range(len(image.objects)):
        masks = image.objects.masks
        key = (int(image.objects.category_ids[index]), masks[index]["counts"] if masks is not None else b"")
        place = next((place for place, one in left.items() if one == key or (masks is None and one and one[0] == key[0])), None)
        if place is None:
            raise UserError(
                f"an object of {name} that was evaluated is not annotated so: the annotations have changed since",
                "materialize the dataset again and evaluate the models on it, or leave --dataset-yaml out",
            )
        del left[place]
        yield copy.deepcopy(own[place])
    for place in left:
        yield copy.deepcopy(own[place])


def corrections(
    annotated: Annotated, doubts: Mapping[str, Sequence[Doubt]], why: Mapping[int, str], about: Mapping[str, Any]
) -> dict[str, Any]:
    """The file's content. `doubts`: by image, as in `annotated`; `why`: a sentence for each, by its identity (`id`)."""
    annotations: list[dict[str, Any]] = []
    next_id = annotated.first_new_id
    for key, image in annotated.images.items():
        own = [one | {"image_id": image["id"]} for one in annotated.annotations[key]]
        used: set[Any] = set()
        for entry in own:
            # Pycocotools needs ids, and tools of labelling may have written some twice.
            if not isinstance(entry.get("id"), int) or entry["id"] in used:
                entry["id"], next_id = next_id, next_id + 1
            used.add(entry["id"])
        proposed: set[int] = set()
        for doubt in sorted(doubts.get(key, ()), key=lambda one: -one.score):
            attributes = {
                "maskline_proposal": _PROPOSALS[doubt.kind],
                "maskline_doubt": doubt.kind,
                "maskline_score": round(doubt.score, 4),
                "maskline_why": why[id(doubt)],
            }
            if doubt.object is None:
                entry = {"id": next_id, "image_id": image["id"], "category_id": _category(annotated, doubt), "iscrowd": 0, **_shape(doubt)}
                own.append(entry | {"attributes": attributes})
                next_id += 1
            elif doubt.object not in proposed:
                # One change for an object, the surest.
                proposed.add(doubt.object)
                entry = own[doubt.object]
                if doubt.kind == WRONG_CLASS:
                    attributes["maskline_was"] = next(one["name"] for one in annotated.categories if one["id"] == entry["category_id"])
                    entry["category_id"] = _category(annotated, doubt)
                elif doubt.kind == LOOSE:
                    entry |= _shape(doubt)
                kept = entry.get("attributes")
                entry["attributes"] = (kept if isinstance(kept, dict) else {}) | attributes
        annotations += own
    info = {"description": "Proposed by maskline review; each image has all its objects.", INFO: {**annotated.info, **about}}
    return {
        "info": info,
        "licenses": [],
        "images": list(annotated.images.values()),
        "annotations": annotations,
        "categories": list(annotated.categories),
    }


_PROPOSALS = {WRONG_CLASS: "another class", MISSING: "add", LOOSE: "another outline", UNSEEN: "look: keep or remove"}


def _category(annotated: Annotated, doubt: Doubt) -> int:
    assert doubt.category_id is not None
    return annotated.category_of[doubt.category_id]


def _shape(doubt: Doubt) -> dict[str, Any]:
    """Of what is proposed."""
    assert doubt.box_xywh is not None
    if doubt.mask is None:
        return {"bbox": list(doubt.box_xywh), "area": doubt.box_xywh[2] * doubt.box_xywh[3], "segmentation": []}
    return {"bbox": list(doubt.box_xywh), "area": float(rle_area(doubt.mask)), "segmentation": _segmentation(doubt.mask)}


def _outlined(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """With outlines instead of a run-length code; a crowd keeps its code, as COCO has it."""
    code = annotation.get("segmentation")
    if code is None:
        return {**annotation, "segmentation": []}
    if annotation.get("iscrowd"):
        return dict(annotation)
    return {**annotation, "segmentation": _segmentation(Rle(size=list(code["size"]), counts=code["counts"].encode()))}


def _segmentation(mask: Rle) -> list[list[float]] | dict[str, Any]:
    """Outlines, which all label tools draw; the code where they are another mask: one with a hole has no outlines in COCO."""
    outlines = mask_outlines(mask)
    traced = rle_from_segmentation(outlines, *mask["size"])
    if traced is not None and traced["counts"] == mask["counts"]:
        return outlines
    return {"size": list(map(int, mask["size"])), "counts": mask["counts"].decode()}


def write_corrections(file: Path, content: Mapping[str, Any]) -> None:
    """One annotation a line, so that a person can see what differs."""
    lists = {name: ",\n".join(json.dumps(one) for one in content[name]) for name in ("images", "annotations", "categories")}
    head = json.dumps({"info": content["info"], "licenses": content["licenses"]})[1:-1]
    body = ",\n".join(f'"{name}": [\n{lines}\n]' for name, lines in lists.items())
    file.write_text(f"{{{head},\n{body}}}\n", encoding="utf-8")
