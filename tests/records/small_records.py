"""Records of tiny images, and the manifest of a dataset made of them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tasks.coco.masks import rle_from_mask
from tasks.records.annotated_image import AnnotatedImage, Category, Instance
from tasks.records.example import PNG_MASKS, build_example
from tasks.records.image_file import EncodedImage
from tasks.records.manifest import Manifest, Split, write_manifest
from tasks.records.statistics import Statistics
from tasks.records.tfrecord import write_shard
from tasks.running.workspace import DatasetDir

HEIGHT, WIDTH = 60, 80


def square(category_id: int, side: int, is_crowd: bool = False) -> Instance:
    """An object of side x side pixels in the upper left corner."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:side, :side] = 1
    return Instance(category_id, (0.0, 0.0, float(side), float(side)), rle_from_mask(mask), float(side**2), is_crowd)


def write_split(dataset: DatasetDir, name: str, images: list[list[Instance]], names: dict[int, str], shards: int = 1) -> Split:
    """Image i, called `i`, in shard i modulo their number."""
    stream = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(stream, "PNG")
    encoded = EncodedImage(stream.getvalue(), "png", HEIGHT, WIDTH, "", ())
    annotated = [AnnotatedImage(str(index), f"{index}.png", HEIGHT, WIDTH, tuple(found)) for index, found in enumerate(images)]
    statistics = Statistics()
    for image in annotated:
        statistics.add(image)
    paths = tuple(dataset.shard(name, shard, shards) for shard in range(shards))
    for shard, path in enumerate(paths):
        write_shard(path, (build_example(image, encoded, names) for image in annotated[shard::shards]))
    return Split(
        shards=tuple(path.name for path in paths),
        pattern=f"{name}.record-*",
        images=statistics.images,
        empty_images=statistics.empty_images,
        objects=statistics.objects,
        crowd_objects=statistics.crowds,
        objects_per_category={text: statistics.objects_per_category[category_id] for category_id, text in names.items()},
        findings={"box-clipped": 3},
        quarantined={"image-empty": 1},
        statistics=statistics,
    )


def write_dataset(dataset: DatasetDir, splits: dict[str, list[list[Instance]]], names: dict[int, str]) -> Manifest:
    """A dataset of one shard a split, each of whose splits has a clipped box three times and an empty file in quarantine once."""
    dataset.root.mkdir(parents=True)
    written = {name: write_split(dataset, name, images, names) for name, images in splits.items()}
    categories = tuple(Category(category_id, text) for category_id, text in names.items())
    manifest = Manifest("tiny", "0123456789abcdef" * 4, PNG_MASKS, categories, written)
    write_manifest(dataset.manifest, manifest)
    return manifest
