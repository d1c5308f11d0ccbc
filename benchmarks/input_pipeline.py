"""What the input pipeline of a training costs beside the original's way and Model Garden's, on the same records in one run.

    python -m benchmarks.input_pipeline [--images 64] [--repeats 5]

Generated photographs of 640 x 375 with 7 objects each are materialized, and read, flipped at random and resized to 800 x 1365:
by the original's way (every mask decoded, flipped and resized at full frame, as numbers), by Model Garden's decoder and parser with masks
(which also make the anchors' targets here, and crop masks to 112 x 112) for the five levels of its own models and for the one level that
the zoo's have, and by ours. What counts are seconds of processor, of all threads
together, so that neither the number of processors nor other work on the machine decides. First the images and masks of ours are compared
with those of the original's way. Prints a Markdown table. Usual runtime on two cores: two minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import yaml
from official.vision.dataloaders import maskrcnn_input, tf_example_decoder

from benchmarks.photographs import write_photographs
from tasks.input.batches import training_dataset
from tasks.input.config import Augmentation, DataConfig
from tasks.mask_rcnn.config import ImageResizer
from tasks.materialize import materialize
from tasks.records.label_map import read_label_map
from tasks.running.workspace import DatasetDir

HEIGHT = 375
SIZE = (800, 1365)
RESIZER = ImageResizer(min_dimension=SIZE[0], max_dimension=SIZE[1])
ORIGINAL, OURS = "as the original: every mask at full frame", "ours"
MODEL_GARDEN, ONE_LEVEL = "Model Garden's decoder and parser, levels 2 to 6", "the same, level 4 alone"
WARM_UP = 8


def write_records(folder: Path, images: int) -> DatasetDir:
    """A materialized dataset of so many photographs to train on."""
    annotations = write_photographs(folder / "photographs", images, height=HEIGHT)
    validation = write_photographs(folder / "more", 1, grain=20.0, height=HEIGHT)
    splits = {
        split: {"images": str(path.parent), "annotations": str(path)} for split, path in (("train", annotations), ("val", validation))
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"name": "photographs", "splits": splits}))
    dataset = DatasetDir(folder / "records")
    materialize(folder / "dataset.yaml", dataset.root)
    return dataset


def records(dataset: DatasetDir) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(sorted(map(str, dataset.root.glob("train.record-*")))).repeat()


def as_the_original(dataset: DatasetDir, flips: bool = True) -> tf.data.Dataset:
    """Batches of one: image, boxes and masks float32 [N, 800, 1365], all of them decoded, and carried along at the image's size."""
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/object/mask": tf.io.VarLenFeature(tf.string),
        "image/object/class/label": tf.io.VarLenFeature(tf.int64),
    } | {f"image/object/bbox/{side}": tf.io.VarLenFeature(tf.float32) for side in ("ymin", "xmin", "ymax", "xmax")}

    def mask(png: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.squeeze(tf.io.decode_png(png, channels=1), 2) > 0, tf.float32)

    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        values = {
            name: tf.sparse.to_dense(value) if isinstance(value, tf.SparseTensor) else value
            for name, value in tf.io.parse_single_example(serialized, features).items()
        }
        image = tf.cast(
            tf.ensure_shape(tf.io.decode_image(values["image/encoded"], 3, expand_animations=False), [None, None, 3]), tf.float32
        )
        masks = tf.map_fn(mask, values["image/object/mask"], fn_output_signature=tf.TensorSpec([None, None], tf.float32))
        boxes = tf.stack([values[f"image/object/bbox/{side}"] for side in ("ymin", "xmin", "ymax", "xmax")], -1)
        if flips:
            ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
            image, masks, boxes = tf.cond(
                tf.random.uniform([]) < 0.5,
                lambda: (tf.reverse(image, [1]), tf.reverse(masks, [2]), tf.stack([ymin, 1.0 - xmax, ymax, 1.0 - xmin], -1)),
                lambda: (image, masks, boxes),
            )
        size = {"size": SIZE, "align_corners": False, "half_pixel_centers": False}
        masks = tf.raw_ops.ResizeNearestNeighbor(images=masks[..., tf.newaxis], **size)[..., 0]
        image = tf.raw_ops.ResizeBilinear(images=image[tf.newaxis], **size)[0]
        return {"image": image, "masks": masks, "boxes": boxes, "classes": values["image/object/class/label"]}

    return records(dataset).map(parse, num_parallel_calls=tf.data.AUTOTUNE).batch(1).prefetch(2)


def model_gardens(dataset: DatasetDir, min_level: int, max_level: int) -> tf.data.Dataset:
    """Batches of one as its Mask R-CNN reads them, with its own defaults, on images padded to a multiple of the last level's stride."""
    decoder = tf_example_decoder.TfExampleDecoder(include_mask=True)
    parser = maskrcnn_input.Parser(
        output_size=list(SIZE),
        min_level=min_level,
        max_level=max_level,
        num_scales=1,
        aspect_ratios=[0.5, 1.0, 2.0],
        anchor_size=8.0,
        aug_rand_hflip=True,
        include_mask=True,
        mask_crop_size=112,
        dtype="float32",
    )
    parse = parser.parse_fn(is_training=True)
    decoded = records(dataset).map(lambda serialized: parse(decoder.decode(serialized)), num_parallel_calls=tf.data.AUTOTUNE)
    return decoded.batch(1).prefetch(2)


def data_of(dataset: DatasetDir, *kinds: str) -> DataConfig:
    return DataConfig(
        input_path=str(dataset.root / "train.record-*"), seed=1, augmentations=tuple(Augmentation(kind=kind) for kind in kinds)
    )


def ours(dataset: DatasetDir) -> tf.data.Dataset:
    return training_dataset(data_of(dataset, "random_horizontal_flip"), RESIZER, read_label_map(dataset.label_map), 1)


def confirm_same(dataset: DatasetDir, images: int) -> int:
    """How many masks of ours were compared with the original's, to the bit, and their images; AssertionError."""
    compared = 0
    unshuffled = training_dataset(data_of(dataset).replace(shuffle=False), RESIZER, read_label_map(dataset.label_map), 1)
    for theirs, (image, _, truth) in tf.data.Dataset.zip((as_the_original(dataset, flips=False), unshuffled)).take(images):
        np.testing.assert_array_equal(theirs["image"], image)
        rows, columns, pixels = (truth[f"mask_{name}"].numpy()[0] for name in ("rows", "columns", "pixels"))
        for mask, (start, top, left, height, width) in zip(theirs["masks"][0].numpy(), truth["mask_windows"].numpy()[0], strict=True):
            stored = np.zeros((HEIGHT + 1, 641), np.float32)  # lines count from 1
            stored[1 + top : 1 + top + height, 1 + left : 1 + left + width] = pixels[start : start + height * width].reshape(height, width)
            np.testing.assert_array_equal(mask, stored[rows][:, columns])
            compared += 1
    return compared


def milliseconds(batches: Iterator[object], images: int) -> float:
    """Of processor, for an image."""
    started = time.process_time()
    for _ in range(images):
        next(batches)
    return (time.process_time() - started) * 1000.0 / images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    ways: dict[str, Callable[[DatasetDir], tf.data.Dataset]] = {
        ORIGINAL: as_the_original,
        MODEL_GARDEN: lambda dataset: model_gardens(dataset, 2, 6),
        ONE_LEVEL: lambda dataset: model_gardens(dataset, 4, 4),
        OURS: ours,
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MASKLINE_WORKSPACE"] = folder
        dataset = write_records(Path(folder), arguments.images)
        compared = confirm_same(dataset, min(arguments.images, 8))
        costs: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.repeats):
            # In turn, so that what else the machine does is shared by all.
            for name, way in ways.items():
                batches = iter(way(dataset))
                milliseconds(batches, WARM_UP)
                costs[name].append(milliseconds(batches, arguments.images))
                del batches
    medians = {name: statistics.median(found) for name, found in costs.items()}
    print(
        f"\n{arguments.images} images of 640 x {HEIGHT} with 7 masks each, read at {SIZE[0]} x {SIZE[1]}, medians of {arguments.repeats};"
    )
    print(f"{compared} masks of ours and their images are those of the original's way, to the bit\n")
    print("| pipeline | CPU ms an image | images/s a core | ours makes of these |")
    print("|---|---|---|---|")
    for name, cost in medians.items():
        ratio = "" if name == OURS else f"{cost / medians[OURS]:.1f} times as many"
        print(f"| {name} | {cost:.1f} | {1000.0 / cost:.0f} | {ratio} |")


if __name__ == "__main__":
    main()
