"""Made-up photographs with objects as COCO has them: JPEGs of 640 x 480 or another height and an instances JSON, each time the same.

Sizes of objects, parts of polygons, points of parts and the share of crowds are drawn from distributions fitted to COCO's own.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

HEIGHT, WIDTH = 480, 640
OBJECTS = 7
_PICTURES = 8
_MEDIAN_RADIUS, _RADIUS_SPREAD = 22.0, 1.0  # pixels; log-normal, so that the median object's side is 39 pixels
_LARGE_RADIUS = 150.0
_MEDIAN_POINTS, _POINTS_SPREAD = 15.0, 0.72
_SECOND_PART, _CROWD = 0.1, 0.011

Polygon = npt.NDArray[np.float64]


def write_photographs(folder: Path, images: int, grain: float = 24.0, height: int = HEIGHT) -> Path:
    """Writes `images` files, of 640 pixels' width, and `instances.json` into `folder`; returns the JSON's path.

    `grain` is the noise in grey levels that decides the files' size: about 150 KB, as COCO's, at 24 and 10 KB at 0. Few pictures are
    drawn; a comment makes each file another.
    """
    folder.mkdir(parents=True)
    pictures = [_picture(np.random.default_rng(seed), grain, height) for seed in range(_PICTURES)]
    for index in range(images):
        (folder / _name(index)).write_bytes(_with_comment(pictures[index % _PICTURES], f"photograph {index}".encode()))
    path = folder / "instances.json"
    with path.open("w") as stream:
        # By the piece: an object for each of 700,000 annotations would take gigabytes.
        stream.write('{"categories": ' + json.dumps([{"id": index, "name": f"thing {index}"} for index in range(1, 81)]))
        stream.write(', "images": [' + ",\n".join(json.dumps(_entry(index, height)) for index in range(images)))
        stream.write('], "annotations": [')
        for index, annotation in enumerate(_annotations(images, height)):
            stream.write(",\n" * bool(index) + json.dumps({"id": index + 1, **annotation}))
        stream.write("]}")
    return path


def write_large_photograph(folder: Path, height: int, width: int, objects: int) -> Path:
    """Writes one JPEG of `height` x `width` with so many objects anywhere on it, and `instances.json`, into `folder`; returns its path."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / _name(0), "JPEG", quality=90)
    annotations = []
    for index in range(objects):
        radius = _LARGE_RADIUS * np.exp(random.normal(0, _RADIUS_SPREAD / 2))
        points = _polygon(random, random.uniform((0, 0), (width, height)), radius, (width, height))
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        box = {"bbox": [left, top, right - left, bottom - top], "area": float(np.pi * radius**2), "iscrowd": 0}
        annotations.append({"id": index + 1, "image_id": 0, "category_id": 1, "segmentation": [points.ravel().tolist()], **box})
    image = {"id": 0, "file_name": _name(0), "height": height, "width": width}
    path = folder / "instances.json"
    path.write_text(json.dumps({"categories": [{"id": 1, "name": "thing"}], "images": [image], "annotations": annotations}))
    return path


def _name(index: int) -> str:
    return f"{index:012d}.jpg"


def _entry(index: int, height: int) -> dict[str, Any]:
    return {"id": index, "file_name": _name(index), "height": height, "width": WIDTH}


def _picture(random: np.random.Generator, grain: float, height: int) -> bytes:
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize((WIDTH, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse) + random.normal(0, grain, (height, WIDTH, 1))
    stream = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _with_comment(jpeg: bytes, comment: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]


def _annotations(images: int, height: int) -> Iterator[dict[str, Any]]:
    for image in range(images):
        random = np.random.default_rng(image)
        for _ in range(OBJECTS):
            yield {"image_id": image, "category_id": int(random.integers(1, 81)), **_object(random, height)}


def _object(random: np.random.Generator, height: int) -> dict[str, Any]:
    radius = min(_MEDIAN_RADIUS * np.exp(random.normal(0, _RADIUS_SPREAD)), height / 2)
    centre = random.uniform((0, 0), (WIDTH, height))
    size = (WIDTH, height)
    parts = [_polygon(random, centre, radius, size)]
    if random.random() < _SECOND_PART:
        parts.append(_polygon(random, centre + radius, radius / 2, size))
    points = np.concatenate(parts)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    box = {"bbox": [left, top, right - left, bottom - top], "area": float(np.pi * radius**2)}
    if random.random() < _CROWD:
        return {**box, "iscrowd": 1, "segmentation": _runs(left, top, right, bottom, height)}
    return {**box, "iscrowd": 0, "segmentation": [[round(number, 2) for number in part.ravel()] for part in parts]}


def _polygon(random: np.random.Generator, centre: Polygon, radius: float, size: tuple[int, int]) -> Polygon:
    """The x, y pairs, float64 [n, 2], of a star-shaped outline inside the image, in pixels."""
    points = max(4, round(_MEDIAN_POINTS * np.exp(random.normal(0, _POINTS_SPREAD))))
    angles = np.sort(random.uniform(0, 2 * np.pi, points))
    distance = radius * random.uniform(0.7, 1.3, points)
    outline = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * distance[:, None]
    inside: Polygon = outline.clip((0, 0), (size[0] - 1, size[1] - 1)).round(2)
    return inside


def _runs(left: float, top: float, right: float, bottom: float, height: int) -> dict[str, Any]:
    """A box as COCO's uncompressed run-length code, column by column."""
    mask = np.zeros((WIDTH, height), bool)
    mask[int(left) : int(right) + 1, int(top) : int(bottom) + 1] = True
    changes = np.flatnonzero(np.diff(mask.ravel(), prepend=False, append=False))
    return {"size": [height, WIDTH], "counts": np.diff(changes, prepend=0, append=mask.size).tolist()}
