"""Examples against TensorFlow's and Model Garden's own parsers, value by value."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tasks.coco.masks import mask_from_rle, rle_from_mask
from tasks.records.annotated_image import AnnotatedImage, Instance
from tasks.records.checks import BadImageError, Check
from tasks.records.example import NUMERICAL_MASKS, PNG_MASKS, build_example, parse_example
from tasks.records.example_pb2 import Example
from tasks.records.image_file import EncodedImage
from tests.records.original_tools import original_features, png_of, serialized

HEIGHT, WIDTH = 20, 50
NAMES = {3: "cat", 90: "Köter"}
IDS = {"cat": 3, "Köter": 90}


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
        Instance(90, (5.0, 10.0, 10.0, 30.0), rle_from_mask(MASKS[0]), 95.5, False, True, 0.5),
        Instance(3, (0.0, 40.0, 20.0, 50.0), rle_from_mask(MASKS[1]), 200.0, True),
    )
    return AnnotatedImage("17", "sub/a.jpg", HEIGHT, WIDTH, instances)


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
    "image/object/difficult": [1, 0],
    "image/object/group_of": [0, 0],
    "image/object/weight": [0.5, 1.0],
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


def test_tensorflow_parses_dense_masks(image, encoded):
    import tensorflow as tf

    spec = {"image/object/mask": tf.io.VarLenFeature(tf.float32)}
    parsed = tf.io.parse_single_example(build_example(image, encoded, NAMES, NUMERICAL_MASKS), spec)
    np.testing.assert_array_equal(parsed["image/object/mask"].values.numpy().reshape(2, HEIGHT, WIDTH), MASKS)


def test_the_forms_differ_in_the_masks_alone(image, encoded):
    png, dense = (Example.FromString(build_example(image, encoded, NAMES, form)) for form in (PNG_MASKS, NUMERICAL_MASKS))
    for example in (png, dense):
        del example.features.feature["image/object/mask"]
    assert png == dense


@pytest.mark.parametrize("mask_type", [PNG_MASKS, NUMERICAL_MASKS])
def test_read_back_it_is_the_same(image, encoded, mask_type):
    record = parse_example(build_example(image, encoded, NAMES, mask_type), "shard:0")
    assert (record.source_id, record.filename, record.format) == ("17", "sub/a.jpg", "png")
    assert (record.height, record.width, record.encoded) == (HEIGHT, WIDTH, encoded.content)
    assert (record.sha256, record.has_areas) == ("ab" * 32, True)
    assert [instance.category_id for instance in record.instances] == [90, 3]
    assert [instance.is_crowd for instance in record.instances] == [False, True]
    assert [instance.is_difficult for instance in record.instances] == [True, False]
    assert [instance.area for instance in record.instances] == [95.5, 200.0]
    assert [instance.weight for instance in record.instances] == [0.5, 1.0]
    for found, expected in zip(record.instances, image.instances, strict=True):
        np.testing.assert_allclose(found.box_yxyx, expected.box_yxyx, rtol=1e-6)
        np.testing.assert_array_equal(mask_from_rle(found.mask), mask_from_rle(expected.mask))


@pytest.mark.parametrize("mask_type", [PNG_MASKS, NUMERICAL_MASKS])
def test_an_image_without_objects_has_empty_lists(encoded, mask_type):
    empty = AnnotatedImage("17", "a.jpg", HEIGHT, WIDTH, ())
    assert parse_example(build_example(empty, encoded, NAMES, mask_type), "shard:0").instances == ()


def test_equal_inputs_give_equal_bytes(image, encoded):
    assert build_example(image, encoded, NAMES) == build_example(image, encoded, NAMES)


@pytest.mark.parametrize("dense", [False, True])
def test_records_of_the_originals_tools_are_read(dense):
    record = parse_example(serialized(original_features(MASKS, ["Köter", "cat"], size=(HEIGHT, WIDTH), dense=dense)), "shard:0", IDS)
    assert [instance.category_id for instance in record.instances] == [90, 3]
    assert [instance.area for instance in record.instances] == [100, 200]
    np.testing.assert_allclose([instance.box_yxyx for instance in record.instances], [[5, 10, 10, 30], [0, 40, 20, 50]], rtol=1e-6)
    for instance, mask in zip(record.instances, MASKS, strict=True):
        np.testing.assert_array_equal(mask_from_rle(instance.mask), mask)


def test_what_a_record_need_not_say_has_the_originals_defaults():
    features = original_features(MASKS, ["cat", "cat"], size=(HEIGHT, WIDTH))
    for key in ("source_id", "filename", "format", "key/sha256", "object/area", "object/is_crowd"):
        del features[f"image/{key}"]
    features["image/object/bbox/ymin"][0] = 0.0
    record = parse_example(serialized(features), "shard:0", IDS)
    assert (record.source_id, record.filename, record.format, record.sha256) == ("", "", "jpeg", "")
    assert not record.has_areas
    # The box's area, not the mask's: 10 x 20 pixels, of which the mask covers 100.
    assert [round(instance.area, 3) for instance in record.instances] == [200, 200]
    assert {(instance.is_crowd, instance.is_difficult, instance.weight) for instance in record.instances} == {(False, False, 1.0)}


def test_the_name_overrides_the_id_where_there_is_a_label_map():
    features = original_features(MASKS, ["cat", "Köter"], size=(HEIGHT, WIDTH)) | {"image/object/class/label": [90, 90]}
    for label_ids, expected in ((IDS, [3, 90]), (None, [90, 90])):
        assert [instance.category_id for instance in parse_example(serialized(features), "shard:0", label_ids).instances] == expected
    del features["image/object/class/text"]
    assert [instance.category_id for instance in parse_example(serialized(features), "shard:0", IDS).instances] == [90, 90]


def test_any_one_value_above_zero_is_the_object():
    features = original_features(MASKS, ["cat", "cat"], size=(HEIGHT, WIDTH))
    features["image/object/mask"] = [png_of(mask * np.uint8(255)) for mask in MASKS]
    for instance, mask in zip(parse_example(serialized(features), "shard:0", IDS).instances, MASKS, strict=True):
        np.testing.assert_array_equal(mask_from_rle(instance.mask), mask)


GREY = MASKS[0] + MASKS[0][:, ::-1] * 2
FAULTS = {
    "no size": ({"image/height": []}, Check.RECORD_MALFORMED, "image/height holds 0 values, 1 expected"),
    "no pixel": ({"image/height": [0]}, Check.RECORD_MALFORMED, "the image is 0 x 50"),
    "no image": ({"image/encoded": []}, Check.RECORD_MALFORMED, "image/encoded holds 0 values"),
    "sides": ({"image/object/bbox/ymax": [0.5]}, Check.RECORD_MALFORMED, r"the boxes' sides hold \[2, 2, 1, 2\] values"),
    "no number": ({"image/object/bbox/ymin": [0.1, float("nan")]}, Check.ANNOTATION_MALFORMED, "a box or area is no finite number"),
    "endless": ({"image/object/area": [1.0, float("inf")]}, Check.ANNOTATION_MALFORMED, "a box or area is no finite number"),
    "areas": ({"image/object/area": [1.0]}, Check.RECORD_MALFORMED, "image/object/area holds 1 values, 2 expected"),
    "names": ({"image/object/class/text": [b"cat"]}, Check.RECORD_MALFORMED, "class/text holds 1 values, 2 expected"),
    "no text": ({"image/object/class/text": [b"cat", b"\xff"]}, Check.RECORD_MALFORMED, "which is not UTF-8"),
    "unknown name": ({"image/object/class/text": [b"cat", b"cow"]}, Check.UNKNOWN_CATEGORY, "no category 'cow'"),
    "unknown id": (
        {"image/object/class/text": [], "image/object/class/label": [3, 4]},
        Check.UNKNOWN_CATEGORY,
        "the label map has no category 4",
    ),
    "no masks": ({"image/object/mask": []}, Check.MASK_MISSING, "2 objects and no mask"),
    "masks": ({"image/object/mask": [png_of(MASKS[0])]}, Check.RECORD_MALFORMED, "1 masks for 2 boxes"),
    "no PNG": ({"image/object/mask": [b"PNG", b"PNG"]}, Check.MASK_MALFORMED, "mask 0 is no PNG"),
    "turned": (
        {"image/object/mask": [png_of(mask.T) for mask in MASKS]},
        Check.MASK_SIZE_SWAPPED,
        r"mask 0 is 50 x 20 \(height x width\), its image 20 x 50",
    ),
    "size": ({"image/object/mask": [png_of(MASKS[0]), png_of(MASKS[1][1:])]}, Check.MASK_SIZE, "mask 1 is 19 x 50"),
    "grey": ({"image/object/mask": [png_of(MASKS[0]), png_of(GREY)]}, Check.MASK_VALUES, "mask 1 has other values than 0 and one above"),
    "colours": (
        {"image/object/mask": [png_of(np.dstack([MASKS[0] * 255, MASKS[1] * 255, MASKS[1] * 0]))] * 2},
        Check.MASK_VALUES,
        "mask 0 has other values than 0 and one above it",
    ),
    "dense grey": ({"image/object/mask": [0.5, *[1.0] * 1999]}, Check.MASK_VALUES, "mask 0 has other values"),
    "dense nan": ({"image/object/mask": [float("nan"), *[1.0] * 1999]}, Check.MASK_VALUES, "mask 0 has other values"),
    "dense below": ({"image/object/mask": [*[0.0] * 1999, -1.0]}, Check.MASK_VALUES, "mask 1 has other values"),
    "dense masks": ({"image/object/mask": [1.0] * 1000}, Check.RECORD_MALFORMED, "1000 numbers, not 2 x 20 x 50"),
    "dense size": ({"image/object/mask": [1.0] * 1999}, Check.MASK_SIZE, r"1999 numbers, not 2 x 20 x 50 \(boxes x height x width\)"),
}


@pytest.mark.parametrize(("changes", "check", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_has_its_code_and_names_the_record(changes, check, message):
    features = original_features(MASKS, ["cat", "cat"], size=(HEIGHT, WIDTH)) | changes
    with pytest.raises(BadImageError, match=f"shard:4: .*{message}") as caught:
        parse_example(serialized(features), "shard:4", IDS)
    assert caught.value.check == check


def test_what_is_no_example_is_refused():
    with pytest.raises(BadImageError, match="shard:4: not a tf") as caught:
        parse_example(b"\xff\xff\xff", "shard:4")
    assert caught.value.check == Check.RECORD_MALFORMED


def test_names_alone_want_a_label_map():
    features = original_features(MASKS, ["cat", "cat"], size=(HEIGHT, WIDTH))
    with pytest.raises(BadImageError, match="shard:4: image/object/class/label holds 0 values, 2 expected"):
        parse_example(serialized(features), "shard:4")
