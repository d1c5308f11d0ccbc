"""Examples against TensorFlow's and Model Garden's own parsers, value by value."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.coco.masks import mask_from_rle, rle_from_mask
from tasks.errors import UserError
from tasks.records.annotated_image import AnnotatedImage, Instance
from tasks.records.example import build_example, parse_example
from tasks.records.example_pb2 import Example
from tasks.records.image_file import EncodedImage

HEIGHT, WIDTH = 20, 50
NAMES = {3: "cat", 90: "Köter"}


def mask_of(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[rows, columns] = 1
    return mask


MASKS = (mask_of(slice(5, 10), slice(10, 30)), mask_of(slice(0, 20), slice(40, 50)))


@pytest.fixture
def encoded() -> EncodedImage:
    stream = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 30)).save(stream, "PNG")
    return EncodedImage(stream.getvalue(), "png", HEIGHT, WIDTH, "ab" * 32, ())


@pytest.fixture
def image() -> AnnotatedImage:
    instances = (
        Instance(90, (5.0, 10.0, 10.0, 30.0), rle_from_mask(MASKS[0]), 95.5, False),
        Instance(3, (0.0, 40.0, 20.0, 50.0), rle_from_mask(MASKS[1]), 200.0, True),
    )
    return AnnotatedImage("17", "sub/a.jpg", Path("a.jpg"), HEIGHT, WIDTH, instances)


EXPECTED = {
    "image/filename": [b"sub/a.jpg"],
    "image/format": [b"png"],
    "image/key/sha256": [b"ab" * 32],
    "image/source_id": [b"17"],
    "image/height": [HEIGHT],
    "image/width": [WIDTH],
    "image/object/bbox/ymin": [0.25, 0.0],
    "image/object/bbox/xmin": [0.2, 0.8],
    "image/object/bbox/ymax": [0.5, 1.0],
    "image/object/bbox/xmax": [0.6, 1.0],
    "image/object/class/text": ["Köter".encode(), b"cat"],
    "image/object/class/label": [90, 3],
    "image/object/area": [95.5, 200.0],
    "image/object/is_crowd": [0, 1],
    "image/object/difficult": [0, 0],
    "image/object/group_of": [0, 0],
    "image/object/weight": [1.0, 1.0],
    "image/object/mask/weight": [1.0, 1.0],
}


def test_tensorflow_parses_every_feature(image, encoded):
    import tensorflow as tf

    kinds = {bytes: tf.string, int: tf.int64, float: tf.float32}
    spec = {key: tf.io.VarLenFeature(kinds[type(values[0])]) for key, values in EXPECTED.items()}
    spec["image/encoded"] = tf.io.FixedLenFeature((), tf.string)
    spec["image/object/mask"] = tf.io.VarLenFeature(tf.string)
    serialized = build_example(image, encoded, NAMES)
    parsed = tf.io.parse_single_example(serialized, spec)
    for key, values in EXPECTED.items():
        found = parsed[key].values.numpy()
        if isinstance(values[0], float):
            np.testing.assert_array_equal(found, np.float32(values), err_msg=key)
        else:
            assert list(found) == values, key
    assert parsed["image/encoded"].numpy() == encoded.content
    masks = [tf.io.decode_png(png, channels=1).numpy()[..., 0] for png in parsed["image/object/mask"].values]
    np.testing.assert_array_equal(masks, MASKS)
    # Nothing is in the record that is not named above.
    assert set(Example.FromString(serialized).features.feature) == set(spec)


def test_model_gardens_decoder_reads_the_masks_as_zero_and_one(image, encoded):
    from official.vision.dataloaders.tf_example_decoder import TfExampleDecoder

    decoded = TfExampleDecoder(include_mask=True).decode(build_example(image, encoded, NAMES))
    np.testing.assert_array_equal(decoded["groundtruth_instance_masks"], MASKS)
    np.testing.assert_array_equal(decoded["groundtruth_classes"], [90, 3])
    np.testing.assert_array_equal(decoded["groundtruth_is_crowd"], [False, True])
    np.testing.assert_allclose(decoded["groundtruth_boxes"], [[0.25, 0.2, 0.5, 0.6], [0, 0.8, 1, 1]], rtol=1e-6)


def test_read_back_it_is_the_same(image, encoded):
    record = parse_example(build_example(image, encoded, NAMES), "shard:0")
    assert (record.source_id, record.filename, record.format) == ("17", "sub/a.jpg", "png")
    assert (record.height, record.width, record.encoded) == (HEIGHT, WIDTH, encoded.content)
    assert record.class_names == ("Köter", "cat")
    assert [instance.category_id for instance in record.instances] == [90, 3]
    assert [instance.is_crowd for instance in record.instances] == [False, True]
    assert [instance.area for instance in record.instances] == [95.5, 200.0]
    for found, expected in zip(record.instances, image.instances, strict=True):
        np.testing.assert_allclose(found.box_yxyx, expected.box_yxyx, rtol=1e-6)
        np.testing.assert_array_equal(mask_from_rle(found.mask), mask_from_rle(expected.mask))


def test_an_image_without_objects_has_empty_lists(image, encoded):
    empty = AnnotatedImage("17", "a.jpg", Path("a.jpg"), HEIGHT, WIDTH, ())
    assert parse_example(build_example(empty, encoded, NAMES), "shard:0").instances == ()


def test_equal_inputs_give_equal_bytes(image, encoded):
    assert build_example(image, encoded, NAMES) == build_example(image, encoded, NAMES)


def test_what_is_no_example_is_refused():
    with pytest.raises(UserError, match="shard:4: not a tf"):
        parse_example(b"\xff\xff\xff", "shard:4")


def test_lists_of_unequal_length_are_refused(image, encoded):
    example = Example.FromString(build_example(image, encoded, NAMES))
    del example.features.feature["image/object/mask"].bytes_list.value[1]
    with pytest.raises(UserError, match="shard:4: image/object/mask holds 1 values, 2 expected"):
        parse_example(example.SerializeToString(), "shard:4")


def test_swapped_height_and_width_are_refused(image, encoded):
    example = Example.FromString(build_example(image, encoded, NAMES))
    features = example.features.feature
    features["image/height"].int64_list.value[0], features["image/width"].int64_list.value[0] = WIDTH, HEIGHT
    with pytest.raises(UserError, match=r"mask 0 is 20 x 50 \(height x width\), its image 50 x 20"):
        parse_example(example.SerializeToString(), "shard:4")
