"""The sizes of the batches that a training will see, from the sizes of its records' images."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow as tf

from tasks.coco.image_opening import opened_image
from tasks.input.batches import record_files
from tasks.input.config import DataConfig
from tasks.input.image_resizer import resized_shape
from tasks.mask_rcnn.config import ImageResizer
from tasks.records.features import RecordFeatures
from tasks.records.record_set import manifest_of
from tasks.records.tfrecord import read_shard
from tasks.running.workspace import located

# Records without a manifest are read for their sizes; so many tell enough.
_MOST_RECORDS = 500
_BATCHES = 1000

Size = tuple[int, int]
"""(height, width) in pixels"""


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """Of one step on one device: `height` and `width` in pixels after padding, and the `objects` of the image that has most."""

    images: int
    height: int
    width: int
    objects: int


@dataclasses.dataclass(frozen=True)
class BatchShapes:
    usual: BatchShape
    """Of the mean number of pixels over many batches"""
    largest: BatchShape
    """At least as high and as wide as any batch"""
    images_looked_at: int


def batch_shapes(data: DataConfig, resizer: ImageResizer, images: int) -> BatchShapes:
    """The shapes of batches of so many images, padded to the largest of each.

    Sizes are those of the records' images; augmentations that cut or enlarge them are not followed, and the resizer mostly undoes them.
    """
    sizes, objects = _images(data)
    resized = _resized(sizes, resizer)
    chosen = random.Random(0)
    drawn = [chosen.choices(list(resized), list(resized.values()), k=images) for _ in range(_BATCHES)]
    # Of a single image one length decides about the other; of several each is the largest of its own.
    heights, widths = ([max(size[side] for size in batch) for batch in drawn] for side in (0, 1))
    pixels = statistics.fmean(height * width for height, width in zip(heights, widths, strict=True))
    height = round(statistics.fmean(heights))
    most = min(max(objects), data.max_number_of_boxes)
    highest, widest = max(resized, key=math.prod) if images == 1 else map(max, zip(*resized, strict=True))
    return BatchShapes(
        usual=BatchShape(images, height, round(pixels / height), max(1, most)),
        largest=BatchShape(images, highest, widest, max(1, most)),
        images_looked_at=sizes.total(),
    )


def _images(data: DataConfig) -> tuple[Counter[Size], Counter[int]]:
    """How many images have which size, and which number of objects: of all, by the manifest, or of the first ones."""
    files = record_files(data)
    sizes: Counter[Size] = Counter()
    objects: Counter[int] = Counter()
    if (manifest := manifest_of(files, Path(data.label_map_path).absolute())) is not None:
        shards = {Path(file).name for file in files}
        for split in (split for split in manifest.splits.values() if shards & set(split.shards)):
            sizes.update({_size(text): count for text, count in split.statistics.image_sizes.items()})
            objects.update(split.statistics.objects_per_image)
        return sizes, objects
    for record in itertools.islice(_records(files), _MOST_RECORDS):
        # Not what the record says of itself, which training does without.
        with opened_image(record.byte_strings("image/encoded", 1)[0]) as image:
            sizes[image.height, image.width] += 1
        objects[len(record.feature("image/object/bbox/ymin").float_list.value)] += 1
    return sizes, objects


def _records(files: Sequence[str]) -> Iterator[RecordFeatures]:
    for file in files:
        for index, record in enumerate(read_shard(located(file))):
            yield RecordFeatures.parse(record, f"{file}: record {index}")


def _size(text: str) -> Size:
    height, width = text.split(" x ")
    return int(height), int(width)


def _resized(sizes: Counter[Size], resizer: ImageResizer) -> Counter[Size]:
    if resizer.pad_to_max_dimension:
        return Counter({(resizer.max_dimension, resizer.max_dimension): sizes.total()})
    shape = tf.function(lambda size: resized_shape(size[0], size[1], resizer), input_signature=[tf.TensorSpec([2], tf.int32)])
    found: Counter[Size] = Counter()
    for size, count in sizes.items():
        height, width = shape(tf.constant(size)).numpy()
        found[int(height), int(width)] += count
    return found
