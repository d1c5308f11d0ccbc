"""Records of generated scenes of any sizes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.coco.masks import rle_area, rle_extent_yxyx, rle_from_mask
from tasks.records.annotated_image import AnnotatedImage, Category, Instance
from tasks.records.example import build_example
from tasks.records.example_pb2 import Example
from tasks.records.image_file import EncodedImage
from tasks.records.label_map import LabelMap, print_label_map
from tasks.records.tfrecord import write_shard
from tasks.shapes.forms import CLASSES
from tasks.shapes.scene import render_scene

NAMES = dict(enumerate(CLASSES, start=1))


def scene_record(number: int, height: int, width: int, attributes: Mapping[str, str] | None = None) -> bytes:
    """A scene under the id `number` + 1; `attributes` are features of the image, without `image/`."""
    scene = render_scene(np.random.default_rng(number), height, width)
    stream = io.BytesIO()
    Image.fromarray(scene.pixels).save(stream, "PNG")
    masks = [rle_from_mask(mask) for mask in scene.masks]
    objects = [
        Instance(CLASSES.index(name) + 1, rle_extent_yxyx(mask), mask, float(rle_area(mask)), False)
        for name, mask in zip(scene.class_names, masks, strict=True)
    ]
    image = AnnotatedImage(str(number + 1), f"{number + 1}.png", height, width, tuple(objects))
    record = build_example(image, EncodedImage(stream.getvalue(), "png", height, width, "", ()), NAMES)
    example = Example.FromString(record)
    for name, value in (attributes or {}).items():
        example.features.feature[f"image/{name}"].bytes_list.value.append(value.encode())
    return example.SerializeToString(deterministic=True)


def write_scenes(folder: Path, sizes: Sequence[tuple[int, int]], files: int = 1) -> str:
    """Scenes of some sizes, in that order through the files, and a label map beside them; the pattern of the files comes back."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [scene_record(number, *size) for number, size in enumerate(sizes)]
    several = -(-len(records) // files)
    for index in range(files):
        write_shard(folder / f"val.record-{index:05d}-of-{files:05d}", records[index * several : (index + 1) * several])
    labels = LabelMap(tuple(Category(number, name) for number, name in NAMES.items()))
    (folder / "label_map.pbtxt").write_text(print_label_map(labels))
    return str(folder / f"val.record-?????-of-{files:05d}")
