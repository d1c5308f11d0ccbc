"""Records to tensors: both mask forms, labels by text, masks that follow their image, padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tasks.input.augmentation_options import OPTIONS
from tasks.input.batches import RecordParser, find_faulty_record, record_files, training_dataset
from tasks.input.config import Augmentation, DataConfig
from tasks.input.scene import Scene
from tasks.mask_rcnn import config
from tasks.records.annotated_image import Category
from tasks.records.label_map import label_map, parse_label_map
from tasks.running.errors import UserError

LABELS = label_map([Category(1, "cat"), Category(3, "dog")], "test")
MASK = np.zeros((4, 6), np.uint8)
MASK[1:3, 0:2] = 1


def feature(values: list[Any]) -> tf.train.Feature:
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def record(**changes: list[Any]) -> bytes:
    """One object, a dog on the left of a 4 x 6 image, as the original's tools wrote it: without class/label."""
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    values: dict[str, list[Any]] = {
        "image/encoded": [tf.io.encode_png(image).numpy()],
        "image/source_id": [b"7"],
        "image/object/bbox/ymin": [0.25],
        "image/object/bbox/xmin": [0.0],
        "image/object/bbox/ymax": [0.75],
        "image/object/bbox/xmax": [1 / 3],
        "image/object/class/text": [b"dog"],
        # 255 where others write 1: any value above zero is the object.
        "image/object/mask": [tf.io.encode_png(MASK[..., None] * 255).numpy()],
    } | {key.replace("__", "/"): value for key, value in changes.items()}
    features = {key: feature(value) for key, value in values.items() if value}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def parse(serialized: bytes, **data: Any) -> dict[str, np.ndarray]:
    parsed = RecordParser(DataConfig(**data), LABELS)(tf.constant(serialized))
    return {name: value.numpy() for name, value in parsed.items()}


def test_a_record_of_the_original() -> None:
    example = parse(record())
    assert example["category_ids"].tolist() == [3]
    np.testing.assert_array_equal(example["masks"], [MASK])
    assert example["areas"].tolist() == pytest.approx([4.0])  # the box: 2 x 2 pixels
    assert (example["is_crowd"].tolist(), example["weights"].tolist()) == ([False], [1.0])


def test_dense_masks_are_the_same_masks() -> None:
    dense = record(image__object__mask=(MASK * 0.5).ravel().tolist())
    np.testing.assert_array_equal(parse(dense, mask_type="NUMERICAL_MASKS")["masks"], [MASK])


def test_text_overrides_a_stored_label() -> None:
    assert parse(record(image__object__class__label=[1]))["category_ids"].tolist() == [3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image__object__class__text": [b"cow"]}, "not in the label map"),
        ({"image__object__class__text": [], "image__object__class__label": [4]}, "not in the label map"),
        ({"image__object__class__text": []}, "classes .* not as many as boxes"),
        ({"image__object__mask": [tf.io.encode_png(MASK.T[..., None]).numpy()]}, "not of its image's size"),
        ({"image__object__mask": []}, "masks are not as many as boxes"),
        ({"image__object__class__text": [], "image__object__class__label": [2]}, "not in the label map"),  # in a gap of its ids
        ({"image__object__class__text": [], "image__object__class__label": [0]}, "not in the label map"),
        ({"image__object__bbox__ymax": [3.0]}, "a box has no area, or is beyond the image"),
        ({"image__object__bbox__ymin": [-0.2]}, "a box has no area, or is beyond the image"),
        ({"image__object__bbox__ymax": [0.25]}, "a box has no area"),
        ({"image__object__bbox__ymax": [0.1]}, "a box has no area"),
        ({"image__object__bbox__xmin": [float("nan")]}, "a box has no area"),
    ],
)
def test_a_faulty_record_is_named(changes: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message) as error:
        parse(record(**changes))
    assert "7" in str(error.value)


def test_a_box_may_reach_as_far_beyond_the_image_as_in_the_original() -> None:
    assert parse(record(image__object__bbox__ymax=[1.1]))["boxes"].tolist() == [pytest.approx([0.25, 0.0, 1.1, 1 / 3])]


def test_a_class_may_be_called_by_its_display_name() -> None:
    labels = parse_label_map('item { id: 1 name: "/m/0bt9lr" display_name: "dog" } item { id: 3 name: "dog " }', "x")
    assert RecordParser(DataConfig(), labels)(tf.constant(record()))["category_ids"].numpy().tolist() == [1]


def mirrored(scene: Scene) -> Scene:
    return scene.mirrored(tf.constant(True))


def test_a_flip_moves_image_box_and_mask_together() -> None:
    parse_record = RecordParser(DataConfig(), LABELS)
    straight, flipped = parse_record(tf.constant(record())), parse_record(tf.constant(record()), mirrored)
    np.testing.assert_allclose(flipped["boxes"], [[0.25, 2 / 3, 0.75, 1.0]], atol=1e-6)
    assert np.argwhere(flipped["masks"].numpy()[0]).tolist() == [[1, 4], [1, 5], [2, 4], [2, 5]]
    np.testing.assert_array_equal(flipped["image"], straight["image"].numpy()[:, ::-1])
    assert flipped["areas"].numpy().tolist() == pytest.approx([4.0])


def test_dense_masks_flip_as_png_masks_do() -> None:
    dense = tf.constant(record(image__object__mask=(MASK * 0.5).ravel().tolist()))
    example = RecordParser(DataConfig(mask_type="NUMERICAL_MASKS"), LABELS)(dense, mirrored)
    np.testing.assert_array_equal(example["masks"], [MASK[:, ::-1]])


def test_masks_are_resized_on_the_grid_of_the_image() -> None:
    """Nearest neighbour on the legacy grid at twice the size: each pixel becomes a square of four."""
    doubled = config.ImageResizer(min_dimension=8, max_dimension=100)
    example = RecordParser(DataConfig(), LABELS)(tf.constant(record()), mask_resizer=doubled)
    np.testing.assert_array_equal(example["masks"], [np.kron(MASK, np.ones((2, 2), np.uint8))])


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "train.record-00000-of-00001"
    empty = {f"image__object__{name}": [] for name in ("bbox__ymin", "bbox__xmin", "bbox__ymax", "bbox__xmax", "class__text", "mask")}
    tall = tf.io.encode_png(np.zeros((8, 6, 3), np.uint8)).numpy()
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(record())
        writer.write(record(image__encoded=[tall], **empty))
    return path


def test_a_batch_is_padded_to_its_largest(shard: Path) -> None:
    data = DataConfig(input_path=str(shard), seed=1)
    images, shapes, truth = next(iter(training_dataset(data, config.ImageResizer(kind="identity"), LABELS, 2)))
    assert images.shape == (2, 8, 6, 3)
    small = int(tf.argmin(shapes[:, 0]))
    assert sorted(shapes.numpy().tolist()) == [[4, 6], [8, 6]]
    assert truth["num_boxes"].numpy()[small] == 1
    assert truth["num_boxes"].numpy()[1 - small] == 0
    assert truth["classes"].numpy()[small].tolist() == [2]
    np.testing.assert_array_equal(truth["masks"][small, 0], np.pad(MASK, [(0, 4), (0, 0)]))
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
        assert truth["boxes"].shape[1] == truth["masks"].shape[1] == max(truth["num_boxes"])
        for image in range(2):
            for number in range(truth["num_boxes"][image]):
                ymin, xmin, ymax, xmax = truth["boxes"].numpy()[image, number] * np.tile(shapes[image], 2)
                rows, columns = np.nonzero(truth["masks"][image, number])
                if rows.size:
                    # The object fills its box; a pixel of the 4 x 6 becomes a few of the 32 x 32.
                    assert ymin - 8 < rows.min() <= rows.max() < ymax + 8
                    assert xmin - 8 < columns.min() <= columns.max() < xmax + 8
                    seen += 1
    assert seen > 5


ROWS = ("position", "boxes", "classes", "masks", "num_boxes")


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
    assert truth["num_boxes"].numpy().tolist() == [2]
    assert truth["classes"].numpy().tolist() == [[2, 0]]
    assert truth["masks"].shape == (1, 2, 4, 6)


def test_a_faulty_record_is_found_by_file_and_number(shard: Path) -> None:
    data = DataConfig(input_path=str(shard))
    assert find_faulty_record(data, LABELS) is None
    with tf.io.TFRecordWriter(str(shard)) as writer:
        writer.write(record())
        writer.write(record(image__object__class__text=[b"cow"]))
    error = find_faulty_record(data, LABELS)
    assert error is not None
    assert error.message == f"{shard}: record 1: the label map has no category 'cow'"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image__object__mask": [tf.io.encode_png(MASK.T[..., None]).numpy()]}, "mask 0 is 6 x 4 (height x width), its image 4 x 6"),
        ({"image__encoded": [b"no picture"]}, "the image cannot be read: it is of no known format"),
        ({"image__object__mask": [b"no PNG"]}, "mask 0 is no PNG"),
    ],
)
def test_what_tensorflow_refuses_is_told_in_our_words(shard: Path, changes: dict[str, list[Any]], words: str) -> None:
    with tf.io.TFRecordWriter(str(shard)) as writer:
        writer.write(record(image__height=[4], image__width=[6], **changes))
    error = find_faulty_record(DataConfig(input_path=str(shard)), LABELS)
    assert error is not None
    assert error.message == f"{shard}: record 0: {words}"


def test_a_shard_that_was_cut_off_is_found(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-3])
    error = find_faulty_record(DataConfig(input_path=str(shard)), LABELS)
    assert error is not None
    assert error.message.startswith(f"{shard}: record 1 ")


def test_a_mask_type_that_the_records_do_not_hold_is_found(shard: Path) -> None:
    error = find_faulty_record(DataConfig(input_path=str(shard), mask_type="NUMERICAL_MASKS"), LABELS)
    assert error is not None
    assert "image/object/mask" in error.message


def test_a_shard_that_is_missing_is_named(shard: Path) -> None:
    shard.rename(shard.with_name("train.record-00002-of-00003"))
    with pytest.raises(UserError, match=r"train\.record-00000-of-00003 is not there, and 1 more"):
        record_files(DataConfig(input_path=f"{shard.parent}/train.record-?????-of-00003"))


def test_a_path_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file matches"):
        record_files(DataConfig(input_path=str(tmp_path / "pets_*.record")))
