"""Records to tensors: both mask forms, labels by text, flips by hand, padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tasks.mask_rcnn import config
from tasks.mask_rcnn.inputs import RecordParser, evaluation_dataset, flip_left_right, training_dataset
from tasks.records.annotated_image import Category
from tasks.records.label_map import label_map

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
    parsed = RecordParser(config.DataConfig(**data), LABELS)(tf.constant(serialized))
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
        ({"image__object__mask": [tf.io.encode_png(MASK.T[..., None]).numpy()]}, "of the image's size"),
        ({"image__object__mask": []}, "one per box"),
    ],
)
def test_a_faulty_record_is_named(changes: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message) as error:
        parse(record(**changes))
    assert "7" in str(error.value)


def test_a_flip_moves_image_box_and_mask_together() -> None:
    parsed = RecordParser(config.DataConfig(), LABELS)(tf.constant(record()))
    flipped = flip_left_right(parsed, tf.constant(True))
    np.testing.assert_allclose(flipped["boxes"], [[0.25, 2 / 3, 0.75, 1.0]], atol=1e-6)
    assert np.argwhere(flipped["masks"].numpy()[0]).tolist() == [[1, 4], [1, 5], [2, 4], [2, 5]]
    np.testing.assert_array_equal(flipped["image"], parsed["image"].numpy()[:, ::-1])
    again = flip_left_right(flipped, tf.constant(True))
    for name, value in parsed.items():
        np.testing.assert_allclose(
            tf.strings.to_number(again[name]) if name == "source_id" else again[name],
            tf.strings.to_number(value) if name == "source_id" else value,
            atol=1e-6,
        )


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
    data = config.DataConfig(input_path=str(shard), seed=1)
    images, shapes, truth = next(iter(training_dataset(data, config.ImageResizer(kind="identity"), LABELS, 2)))
    assert images.shape == (2, 8, 6, 3)
    small = int(tf.argmin(shapes[:, 0]))
    assert sorted(shapes.numpy().tolist()) == [[4, 6], [8, 6]]
    assert truth["num_boxes"].numpy()[small] == 1
    assert truth["num_boxes"].numpy()[1 - small] == 0
    assert truth["classes"].numpy()[small].tolist() == [2]
    np.testing.assert_array_equal(truth["masks"][small, 0], np.pad(MASK, [(0, 4), (0, 0)]))
    assert not images.numpy()[small, 4:].any()


def test_evaluation_keeps_order_and_the_images_own_size(shard: Path) -> None:
    data = config.DataConfig(input_path=str(shard), is_training=False)
    doubled = config.ImageResizer(min_dimension=8, max_dimension=100)
    rows = list(evaluation_dataset(data, doubled, LABELS))
    assert [tuple(images.shape) for images, _, _ in rows] == [(1, 8, 12, 3), (1, 11, 8, 3)]
    assert [row["masks"].shape.as_list() for _, _, row in rows] == [[1, 4, 6], [0, 8, 6]]
