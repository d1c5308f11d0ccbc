"""COCO JSON to annotated images.

A file is checked as a whole when it is opened (ids, references, sizes); masks are rasterized image by image, later, where the images are
written, so that no more than one image's masks are ever in memory.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.coco.masks import MalformedSegmentationError, Rle, rle_area, rle_extent_yxyx, rle_from_segmentation
from tasks.errors import UserError
from tasks.records.annotated_image import AnnotatedImage, Category, Finding, Instance
from tasks.records.label_map import LabelMap, label_map

_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class CocoImage:
    """One image as the JSON writes it; `annotations` are its JSON objects, ids and references already checked."""

    id: int | str
    file_name: str
    path: Path
    height: int
    width: int
    annotations: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class CocoFile:
    """One COCO JSON file: its categories under their own ids, its images in the file's order."""

    path: Path
    categories: tuple[Category, ...]
    images: tuple[CocoImage, ...]


@dataclass(frozen=True)
class CategoryIds:
    """The label map that COCO files share, and each COCO id's place in it."""

    label_map: LabelMap
    by_coco_id: Mapping[int, int]

    @property
    def renumbered(self) -> bool:
        return any(coco_id != label_id for coco_id, label_id in self.by_coco_id.items())


def read_coco_file(path: Path, images: Path) -> CocoFile:
    """The file at `path`, whose `file_name`s lie in the folder `images`.

    UserError, naming the file and the annotation or image, where it is no COCO JSON, an id is taken twice, or an annotation's image or
    category is not in it.
    """
    content = _load(path)
    if not images.is_dir():
        raise UserError(f"{images}: there is no such folder of images", "correct `images` in the dataset's YAML")
    categories = tuple(_category(path, value) for value in content["categories"])
    known = {category.id for category in categories}
    if len(known) < len(categories):
        raise UserError(f"{path}: a category id is taken twice", "give each category an id of its own")
    by_image: dict[int | str, list[Mapping[str, Any]]] = {}
    for value in content["images"]:
        image_id = _field(path, "image", value, "id")
        if not isinstance(image_id, int | str):
            raise UserError(f"{path}: an image has the id {image_id!r}", "give it a number or a text")
        if image_id in by_image:
            raise UserError(f"{path}: image id {image_id} is taken twice", "give each image an id of its own")
        by_image[image_id] = []
    for annotation in content["annotations"]:
        _check_annotation(path, annotation, known, by_image)
        by_image[annotation["image_id"]].append(annotation)
    return CocoFile(path, categories, tuple(_image(path, images, value, by_image[value["id"]]) for value in content["images"]))


def shared_category_ids(files: Sequence[CocoFile]) -> CategoryIds:
    """One label map for several files: COCO's own ids, or 1, 2, 3, ... in their order where one of them is below 1.

    UserError where the files give one id two names or one name two ids.
    """
    union: dict[int, Category] = {}
    for file in files:
        for category in file.categories:
            other = union.setdefault(category.id, category)
            if other.name != category.name:
                raise UserError(
                    f"{file.path}: category {category.id} is {category.name!r}, in another split it is {other.name!r}",
                    "give the splits' files the same categories",
                )
    coco_ids = sorted(union)
    renumber = bool(coco_ids) and coco_ids[0] < 1
    by_coco_id = {coco_id: index if renumber else coco_id for index, coco_id in enumerate(coco_ids, start=1)}
    labels = label_map(
        [Category(label_id, union[coco_id].name) for coco_id, label_id in by_coco_id.items()],
        where=", ".join(str(path) for path in dict.fromkeys(file.path for file in files)),
    )
    return CategoryIds(labels, by_coco_id)


def annotate(file: Path, image: CocoImage, label_ids: Mapping[int, int]) -> tuple[AnnotatedImage, Counter[Finding]]:
    """The image with its masks rasterized, and what had to be mended or left out on the way.

    `file` names the JSON in errors; `label_ids` maps COCO category ids to the label map's. UserError for a segmentation, box or area
    that cannot be read.
    """
    findings: Counter[Finding] = Counter()
    instances = []
    for annotation in image.annotations:
        instance = _instance(file, image, annotation, label_ids, findings)
        if instance is not None:
            instances.append(instance)
    annotated = AnnotatedImage(str(image.id), image.file_name, image.path, image.height, image.width, tuple(instances))
    return annotated, findings


def _instance(
    file: Path, image: CocoImage, annotation: Mapping[str, Any], label_ids: Mapping[int, int], findings: Counter[Finding]
) -> Instance | None:
    where = f"{file}: annotation {annotation['id']} of image {image.file_name}"
    try:
        mask = rle_from_segmentation(annotation["segmentation"], image.height, image.width)
    except KeyError:
        raise UserError(f"{where} has no segmentation", "add its mask, or remove the annotation") from None
    except MalformedSegmentationError as error:
        raise UserError(f"{where}: its segmentation {error}", "correct the segmentation, or remove the annotation") from error
    if mask is None:
        findings[Finding.DEGENERATE_POLYGON] += 1
        return None
    pixels = rle_area(mask)
    if not pixels:
        findings[Finding.EMPTY_MASK] += 1
        return None
    area = annotation.get("area")
    if area is None:
        findings[Finding.AREA_FROM_MASK] += 1
        area = pixels
    (area,) = _numbers(where, "area", [area], 1)
    if area < 0:
        raise UserError(f"{where}: area is {area:g}", "write the object's pixels, or leave the area out")
    return Instance(
        category_id=label_ids[annotation["category_id"]],
        box_yxyx=_box(where, image, annotation.get("bbox"), mask, findings),
        mask=mask,
        area=area,
        is_crowd=_is_crowd(where, annotation.get("iscrowd", 0)),
    )


def _box(where: str, image: CocoImage, bbox: object, mask: Rle, findings: Counter[Finding]) -> _Box:
    """The annotation's own box, inside the image; the mask's extent where there is none."""
    if bbox is not None:
        x, y, width, height = _numbers(where, "bbox", bbox, 4)
        box = (y, x, y + height, x + width)
        clipped = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(image.height)), min(box[3], float(image.width)))
        if clipped[0] < clipped[2] and clipped[1] < clipped[3]:
            if clipped != box:
                findings[Finding.BOX_CLIPPED] += 1
            return clipped
    findings[Finding.BOX_FROM_MASK] += 1
    return rle_extent_yxyx(mask)


def _is_crowd(where: str, value: object) -> bool:
    if value not in (0, 1):
        raise UserError(f"{where}: iscrowd is {value!r}", "write 0 or 1")
    return bool(value)


def _numbers(where: str, field: str, value: object, count: int) -> list[float]:
    """`count` finite numbers, or UserError."""
    if isinstance(value, Sequence) and len(value) == count and all(_is_finite(number) for number in value):
        return [float(number) for number in value]
    raise UserError(f"{where}: {field} is {value!r}", f"write {count} finite number{'s' * (count > 1)}")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _load(path: Path) -> dict[str, list[Any]]:
    """The JSON object with the three lists that COCO requires."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: the annotations cannot be opened: {error.strerror}", "correct `annotations` in the dataset's YAML"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}", "export the annotations as COCO JSON again") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(
                f"{path}: there is no list {key!r}",
                "name a COCO instances JSON, with the lists `images`, `annotations` and `categories`",
            )
        if not all(isinstance(value, dict) for value in content[key]):
            raise UserError(f"{path}: an entry of {key!r} is no object", "export the annotations as COCO JSON again")
    return dict(content)


def _field(path: Path, what: str, value: Mapping[str, Any], key: str) -> Any:
    if key not in value:
        raise UserError(f"{path}: {what} {value.get('id', '(without id)')} has no {key}", f"add its {key}")
    return value[key]


def _category(path: Path, value: Mapping[str, Any]) -> Category:
    category_id, name = _field(path, "category", value, "id"), _field(path, "category", value, "name")
    if not isinstance(category_id, int) or isinstance(category_id, bool) or not isinstance(name, str):
        raise UserError(f"{path}: category {category_id!r} is named {name!r}", "number it and name it by a text")
    return Category(category_id, name)


def _check_annotation(path: Path, annotation: Mapping[str, Any], categories: set[int], images: Mapping[int | str, Any]) -> None:
    annotation_id = _field(path, "annotation", annotation, "id")
    category_id = _field(path, "annotation", annotation, "category_id")
    image_id = _field(path, "annotation", annotation, "image_id")
    if not isinstance(category_id, int) or category_id not in categories:
        raise UserError(
            f"{path}: annotation {annotation_id} has category id {category_id}, which is not among the file's categories",
            "add the category to `categories`, or correct the annotation's category_id",
        )
    if not isinstance(image_id, int | str) or image_id not in images:
        raise UserError(
            f"{path}: annotation {annotation_id} has image id {image_id}, which is not among the file's images",
            "add the image to `images`, or remove the annotation",
        )


def _image(path: Path, folder: Path, value: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> CocoImage:
    image_id, file_name = value["id"], _field(path, "image", value, "file_name")
    if not isinstance(file_name, str) or not file_name or "\0" in file_name:
        raise UserError(f"{path}: image {image_id} has file_name {file_name!r}", "write its path inside the folder of images")
    sizes = {key: _field(path, "image", value, key) for key in ("height", "width")}
    for key, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise UserError(f"{path}: image {image_id} has {key} {size!r}", "write the image's size in whole pixels")
    return CocoImage(image_id, file_name, folder / file_name, sizes["height"], sizes["width"], tuple(annotations))
