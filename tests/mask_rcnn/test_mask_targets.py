"""Targets that are looked up in windows against crops of masks that are there as wholes, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tasks.input.augmentation_options import OPTIONS
from tasks.input.batches import training_dataset
from tasks.input.config import Augmentation, DataConfig
from tasks.mask_rcnn import config
from tasks.mask_rcnn.crop import matmul_crop_and_resize
from tasks.mask_rcnn.mask_targets import mask_targets, whole_frames
from tests.input.samples import LABELS, frames_of, record

CROPS = [(33, 33), (15, 15), (2, 3), (1, 1)]


def boxes(count: int, seed: int) -> np.ndarray:
    """Boxes float32 [count, 4] that lie within the image, end exactly at its border, reach over it, are mirrored and have no size."""
    draw = np.random.default_rng(seed)
    found = draw.uniform(0.0, 1.0, (count, 2, 2)).astype(np.float32)
    found.sort(axis=1)
    found = found.reshape(count, 4)
    for at in range(4):
        found[at::9, at] = np.float32(at > 1)
    found[4::9] = [0.0, 0.0, 1.0, 1.0]
    found[5::9] += np.float32(0.2)
    found[6::9] = found[6::9][:, ::-1]
    found[7::9, 2:] = found[7::9, :2]
    return found


def crops_of_wholes(
    masks: np.ndarray, images: np.ndarray, objects: np.ndarray, at: np.ndarray, size: tuple[int, int], matmul: bool
) -> tf.Tensor:
    crop = matmul_crop_and_resize if matmul else tf.image.crop_and_resize
    flat = tf.constant(masks.reshape(-1, *masks.shape[2:], 1))
    return crop(flat, tf.constant(at), tf.constant(images * masks.shape[1] + objects), size)[..., 0]


@pytest.mark.parametrize("matmul", [False, True])
@pytest.mark.parametrize("size", CROPS)
def test_of_whole_frames(size: tuple[int, int], matmul: bool) -> None:
    draw = np.random.default_rng(1)
    masks = draw.integers(0, 2, (2, 3, 97, 131), np.uint8)
    images, objects, at = draw.integers(0, 2, 90).astype(np.int32), draw.integers(0, 3, 90).astype(np.int32), boxes(90, 2)
    found = mask_targets(
        whole_frames(tf.constant(masks)), tf.constant(images), tf.constant(objects), tf.constant(at), size, use_matmul=matmul
    )
    np.testing.assert_array_equal(found, crops_of_wholes(masks, images, objects, at, size, matmul))
    assert 0.1 < np.mean(found) < 0.9


def disc_record(number: int) -> bytes:
    """An image of 48 x 70 or 70 x 48 pixels with seven overlapping discs, as 8-bit PNGs, whose boxes are a little too small."""
    draw = np.random.default_rng(number)
    height, width = (48, 70) if number % 2 else (70, 48)
    rows, columns = np.mgrid[:height, :width]
    pngs, sides = [], {side: [] for side in ("ymin", "xmin", "ymax", "xmax")}
    for _ in range(7):
        y, x, radius = draw.uniform(8, height - 8), draw.uniform(8, width - 8), draw.uniform(4, 20)
        mask = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        pngs.append(tf.io.encode_png(mask[..., np.newaxis].astype(np.uint8) * 255).numpy())
        for side, center, sign, length in (("ymin", y, -1, height), ("xmin", x, -1, width), ("ymax", y, 1, height), ("xmax", x, 1, width)):
            sides[side].append(float(np.clip((center + sign * (radius - 1)) / length, 0.0, 1.0)))
    image = tf.io.encode_png(draw.integers(0, 256, (height, width, 3)).astype(np.uint8)).numpy()
    objects = {f"image__object__bbox__{side}": values for side, values in sides.items()}
    return record(image__encoded=[image], image__object__mask=pngs, image__object__class__text=[b"dog"] * 7, **objects)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("discs") / "discs.record"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(4):
            writer.write(disc_record(number))
    return path


@pytest.mark.parametrize("matmul", [False, True])
@pytest.mark.parametrize("kinds", [("random_horizontal_flip",), tuple(OPTIONS)], ids=["flips", "all augmentations"])
@pytest.mark.parametrize("sides", [(96, 160), (20, 30)], ids=["made larger", "made smaller"])
def test_of_what_a_training_reads(discs: Path, sides: tuple[int, int], kinds: tuple[str, ...], matmul: bool) -> None:
    data = DataConfig(input_path=str(discs), seed=4, augmentations=tuple(Augmentation(kind=kind) for kind in kinds))
    resizer = config.ImageResizer(min_dimension=sides[0], max_dimension=sides[1])
    seen = 0
    for step, (images, _, truth) in enumerate(training_dataset(data, resizer, LABELS, 2).take(6)):
        masks = [frames_of(truth, image) for image in range(2)]
        assert all(mask.shape[1:] == images.shape[1:3] for mask in masks)
        objects = masks[0].shape[0]
        if not objects:
            continue
        draw = np.random.default_rng(step)
        which = draw.integers(0, 2, 60).astype(np.int32), draw.integers(0, objects, 60).astype(np.int32)
        at = boxes(60, step)
        found = mask_targets(truth, *map(tf.constant, which), tf.constant(at), (33, 33), use_matmul=matmul)
        np.testing.assert_array_equal(found, crops_of_wholes(np.stack(masks), *which, at, (33, 33), matmul))
        seen += np.count_nonzero(found)
        # What goes to the device is less than the masks at the size of the images.
        assert truth["mask_pixels"].shape[1] < objects * images.shape[1] * images.shape[2]
    assert seen > 1000


def test_a_batch_without_objects_has_targets_of_nothing() -> None:
    truth = whole_frames(tf.zeros([2, 0, 8, 9], tf.uint8))
    found = mask_targets(truth, tf.constant([0, 1]), tf.constant([0, 0]), tf.constant([[0.0, 0.0, 1.0, 1.0]] * 2), (3, 3), use_matmul=False)
    np.testing.assert_array_equal(found, np.zeros((2, 3, 3)))
