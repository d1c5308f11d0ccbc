"""Scenes as anybody's data comes: JPEG images, a COCO JSON per split, and the dataset.yaml that names them."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tasks.coco.masks import Mask, rle_area, rle_extent_yxyx, rle_from_mask
from tasks.running.errors import UserError
from tasks.running.workspace import StepResult, read_json, staged_directory, write_bytes, write_json, write_text
from tasks.shapes.forms import CLASSES
from tasks.shapes.scene import Contents, render_scene

VERSION = 1
"""Of the pictures: raised when the same seed would give others."""

_JPEG_QUALITY = 92
_SMALLEST_SIDE = 32
_LARGEST_RADIUS = 0.5


@dataclass(frozen=True)
class ShapesConfig:
    """How many images of what size, in pixels, from which seed, and what lies in them.

    A radius is an object's greatest reach from its centre, as a share of the image's shorter side.
    """

    train: int = 48
    val: int = 16
    height: int = 128
    width: int = 160
    seed: int = 0
    test: int = 0
    """Kept from training; none, and there is no such split"""
    most_objects: int = Contents.most_objects
    smallest_radius: float = Contents.smallest_radius
    largest_radius: float = Contents.largest_radius
    coloured_classes: bool = Contents.coloured_classes

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            wrong, fix = _fault(name, value)
            if wrong:
                raise UserError(f"shapes: {name} is {value!r}", fix)
        if self.smallest_radius > self.largest_radius:
            raise UserError(
                f"shapes: smallest_radius {self.smallest_radius} is above largest_radius {self.largest_radius}", "exchange them"
            )

    @property
    def contents(self) -> Contents:
        return Contents(self.most_objects, self.smallest_radius, self.largest_radius, self.coloured_classes)


def _fault(name: str, value: Any) -> tuple[bool, str]:
    """Whether a key of `ShapesConfig` cannot have this value, and what to write instead."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "coloured_classes":
        return not isinstance(value, bool), "write true or false"
    if name.endswith("radius"):
        return not (is_number and 0 < value <= _LARGEST_RADIUS), f"write a number above 0 and up to {_LARGEST_RADIUS}"
    least = {"seed": 0, "test": 0, "height": _SMALLEST_SIDE, "width": _SMALLEST_SIDE}.get(name, 1)
    return not (is_number and isinstance(value, int) and value >= least), f"write a whole number of at least {least}"


def shapes(config: ShapesConfig, folder: Path) -> StepResult:
    """The step `maskline shapes OUT_DIR`: the dataset of a config, as anybody's data comes. Status `skipped` where it is there already.

    About a second for an image of 480 x 640.
    """
    written = write_shapes(config, folder)
    return StepResult(
        step="shapes",
        status="done" if written else "skipped",
        outputs={"dataset": str(folder / "dataset.yaml")},
        summary=dataclasses.asdict(config),
    )


def write_shapes(config: ShapesConfig, folder: Path) -> bool:
    """Writes images/, train.json, val.json, dataset.yaml and shapes.json into `folder`, replacing it; whole or not at all.

    Returns False, having written nothing, where the folder already holds the dataset of the same config. Equal configs give equal bytes.
    A folder that holds anything else is refused with UserError.
    """
    recipe = {"version": VERSION, **dataclasses.asdict(config)}
    marker = folder / "shapes.json"
    if marker.is_file():
        if read_json(marker) == recipe:
            return False
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: the folder holds something else", "name a new or empty folder")
    with staged_directory(folder) as staging:
        splits = {"train": config.train, "val": config.val} | ({"test": config.test} if config.test else {})
        for index, (split, count) in enumerate(splits.items()):
            _write_split(config, split, index, count, staging)
        given = {split: {"images": f"images/{split}", "annotations": f"{split}.json"} for split in splits}
        write_text(staging / "dataset.yaml", yaml.safe_dump({"name": "shapes", "splits": given}, sort_keys=False))
        write_json(staging / marker.name, recipe)
    return True


def _write_split(config: ShapesConfig, split: str, split_index: int, count: int, folder: Path) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        # A generator per image: the first images of a split stay the same when more are asked for.
        rng = np.random.default_rng([config.seed, split_index, index])
        scene = render_scene(rng, config.height, config.width, config.contents)
        file_name = f"{split}_{index:06d}.jpg"
        stream = io.BytesIO()
        Image.fromarray(scene.pixels).save(stream, "JPEG", quality=_JPEG_QUALITY)
        write_bytes(folder / "images" / split / file_name, stream.getvalue())
        # COCO ids are of one file; a split each keeps them apart when someone joins the files.
        image_id = split_index * 1_000_000 + index + 1
        images.append({"id": image_id, "file_name": file_name, "height": config.height, "width": config.width})
        for name, mask in zip(scene.class_names, scene.masks, strict=True):
            category_id = CLASSES.index(name) + 1
            annotations.append(_annotation(split_index * 1_000_000 + len(annotations) + 1, image_id, category_id, mask))
    categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES, start=1)]
    write_json(folder / f"{split}.json", {"images": images, "annotations": annotations, "categories": categories})
    print(f"shapes: {split}: {count} images of {config.height} x {config.width}, {len(annotations)} objects", flush=True)


def _annotation(annotation_id: int, image_id: int, category_id: int, mask: Mask) -> dict[str, Any]:
    """COCO's object for a mask; run-length codes rather than polygons, for rings have holes and covered objects fall apart."""
    rle = rle_from_mask(mask)
    ymin, xmin, ymax, xmax = rle_extent_yxyx(rle)
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
        "area": rle_area(rle),
        "iscrowd": 0,
    }
