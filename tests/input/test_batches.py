"""Records to batches: order, padding, augmentation by seed and position, and the files that a path means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tasks.input.augmentation_options import OPTIONS
from tasks.input.batches import record_files, training_dataset
from tasks.input.config import Augmentation, DataConfig
from tasks.mask_rcnn import config
from tasks.running.errors import UserError
from tests.input.samples import LABELS, MASK, frames_of, record


def test_a_batch_is_padded_to_its_largest(shard: Path) -> None:
    data = DataConfig(input_path=str(shard), seed=1)
    images, shapes, truth = next(iter(training_dataset(data, config.ImageResizer(kind="identity"), LABELS, 2)))
    assert images.shape == (2, 8, 6, 3)
    small = int(tf.argmin(shapes[:, 0]))
    assert sorted(shapes.numpy().tolist()) == [[4, 6], [8, 6]]
    assert truth["num_boxes"].numpy()[small] == 1
    assert truth["num_boxes"].numpy()[1 - small] == 0
    assert truth["classes"].numpy()[small].tolist() == [2]
    np.testing.assert_array_equal(frames_of(truth, small)[0], np.pad(MASK, [(0, 4), (0, 0)]))
    assert not images.numpy()[small, 4:].any()


def flipped_batches(path: Path, seed: int) -> list[bool]:
    """Of the first batches of one image each, whether the image was mirrored: its first row is then no longer ascending."""
    data = DataConfig(input_path=str(path), seed=seed, augmentations=(Augmentation(kind="random_horizontal_flip"),))
    batches = training_dataset(data, config.ImageResizer(kind="identity"), LABELS, 1).take(40)
    return [bool(images[0, 0, 0, 0] > images[0, 0, 1, 0]) for images, _, _ in batches]


def test_flips_follow_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "one.record"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(record())
    flips = flipped_batches(path, seed=3)
    assert flips == flipped_batches(path, seed=3)
    assert flips != flipped_batches(path, seed=4)
    assert 8 < sum(flips) < 32  # of 40 fair coins


def test_a_batch_with_every_augmentation_is_the_same_again_and_keeps_masks_in_their_boxes(shard: Path) -> None:
    data = DataConfig(input_path=str(shard), seed=5, augmentations=tuple(Augmentation(kind=kind) for kind in OPTIONS))
    resizer = config.ImageResizer(min_dimension=24, max_dimension=32, pad_to_max_dimension=True)
    first, again = (list(training_dataset(data, resizer, LABELS, 2).take(20)) for _ in range(2))
    seen = 0
    for (images, shapes, truth), (same, _, _) in zip(first, again, strict=True):
        np.testing.assert_array_equal(images, same)
        assert images.shape == (2, 32, 32, 3)
        assert truth["boxes"].shape[1] == truth["mask_windows"].shape[1] == max(truth["num_boxes"])
        for image in range(2):
            masks = frames_of(truth, image)
            assert masks.shape[1:] == (32, 32)
            for number in range(truth["num_boxes"][image]):
                ymin, xmin, ymax, xmax = truth["boxes"].numpy()[image, number] * np.tile(shapes[image], 2)
                rows, columns = np.nonzero(masks[number])
                if rows.size:
                    # The object fills its box; a pixel of the 4 x 6 becomes a few of the 32 x 32.
                    assert ymin - 8 < rows.min() <= rows.max() < ymax + 8
                    assert xmin - 8 < columns.min() <= columns.max() < xmax + 8
                    seen += 1
    assert seen > 5


ROWS = ("position", "boxes", "classes", "mask_windows", "num_boxes", "mask_pixels")


def numbered(path: Path, count: int) -> DataConfig:
    """So many records in two shards, each with a green value of its own, and augmentations that draw."""
    for shard in range(2):
        with tf.io.TFRecordWriter(f"{path}-{shard:05d}-of-00002") as writer:
            for number in range(shard, count, 2):
                image = np.full((4, 6, 3), [0, number, 0], np.uint8)
                writer.write(record(image__encoded=[tf.io.encode_png(image).numpy()]))
    kinds = ("random_horizontal_flip", "random_crop_image")
    return DataConfig(input_path=f"{path}-?????-of-00002", seed=9, augmentations=tuple(Augmentation(kind=kind) for kind in kinds))


def values(batches: tf.data.Dataset, count: int) -> list[list[np.ndarray]]:
    return [[images.numpy(), shapes.numpy(), *(truth[name].numpy() for name in ROWS)] for images, shapes, truth in batches.take(count)]


def assert_equal(found: list[list[np.ndarray]], expected: list[list[np.ndarray]]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


FIXED = config.ImageResizer(kind="fixed_shape", height=8, width=8)


def test_a_step_that_is_sought_sees_what_it_would_have_seen(tmp_path: Path) -> None:
    data = numbered(tmp_path / "train.record", 7)
    whole = values(training_dataset(data, FIXED, LABELS, 2), 9)
    assert [batch[2].tolist() for batch in whole] == [[2 * step, 2 * step + 1] for step in range(9)]
    for step in (1, 4, 8):
        assert_equal(values(training_dataset(data, FIXED, LABELS, 2, first_step=step), 9 - step), whole[step:])


def test_an_epoch_has_every_record_once_and_the_next_in_another_order(tmp_path: Path) -> None:
    data = numbered(tmp_path / "train.record", 7)
    greens = [int(batch[0][0, 0, 0, 1]) for batch in values(training_dataset(data, FIXED, LABELS, 1), 14)]
    assert sorted(greens[:7]) == sorted(greens[7:]) == list(range(7))
    assert greens[:7] != greens[7:]
    in_order = training_dataset(data.replace(shuffle=False), FIXED, LABELS, 1)
    assert [int(batch[0][0, 0, 0, 1]) for batch in values(in_order, 8)] == [0, 2, 4, 6, 1, 3, 5, 0]


def test_two_pipelines_see_the_rows_of_the_batches_of_one(tmp_path: Path) -> None:
    data = numbered(tmp_path / "train.record", 7)
    whole = values(training_dataset(data, FIXED, LABELS, 4, first_step=1), 5)
    # Cropping may leave no object, so ground truth is padded to other widths in halves of a batch: those compare by image.
    halves = [
        values(training_dataset(data, FIXED, LABELS, 2, tf.distribute.InputContext(2, number, 2), first_step=1), 5) for number in range(2)
    ]
    for step in range(5):
        for part in (0, 1, 2):
            np.testing.assert_array_equal(np.concatenate([half[step][part] for half in halves]), whole[step][part])
        for row in range(4):
            mine, theirs = halves[row // 2][step], whole[step]
            count = theirs[6][row]
            assert mine[6][row % 2] == count
            for part in (3, 4, 5):
                np.testing.assert_array_equal(mine[part][row % 2][:count], theirs[part][row][:count])
            pixels = mine[7].shape[1]
            np.testing.assert_array_equal(mine[7][row % 2], theirs[7][row][:pixels])


def test_records_without_any_record_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.record").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty\.record: there is no record"):
        training_dataset(DataConfig(input_path=str(tmp_path / "empty.record")), FIXED, LABELS, 1)


def test_a_url_that_tensorflow_cannot_read_is_refused() -> None:
    with pytest.raises(UserError, match="TensorFlow has no file system for such URLs here"):
        record_files(DataConfig(input_path="sftp://host/train.record-*"))


def test_only_so_many_objects_of_an_image_count(tmp_path: Path) -> None:
    path = tmp_path / "three.record"
    sides = {
        f"image__object__bbox__{side}": [0.0, 0.25, 0.5] if "min" in side else [0.5, 0.75, 1.0] for side in ("ymin", "xmin", "ymax", "xmax")
    }
    png = tf.io.encode_png(MASK[..., None]).numpy()
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(record(image__object__class__text=[b"dog", b"cat", b"dog"], image__object__mask=[png] * 3, **sides))
    data = DataConfig(input_path=str(path), max_number_of_boxes=2)
    _, _, truth = next(iter(training_dataset(data, config.ImageResizer(kind="identity"), LABELS, 1)))
    assert (truth["num_boxes"].numpy().tolist(), truth["objects_cut_off"].numpy().tolist()) == ([2], [1])
    assert truth["classes"].numpy().tolist() == [[2, 0]]
    np.testing.assert_array_equal(frames_of(truth, 0), [MASK, MASK])


def test_a_shard_that_is_missing_is_named(shard: Path) -> None:
    shard.rename(shard.with_name("train.record-00002-of-00003"))
    with pytest.raises(UserError, match=r"train\.record-00000-of-00003 is not there, and 1 more"):
        record_files(DataConfig(input_path=f"{shard.parent}/train.record-?????-of-00003"))


def test_a_path_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file matches"):
        record_files(DataConfig(input_path=str(tmp_path / "pets_*.record")))
