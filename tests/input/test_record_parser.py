"""Records to tensors: both mask forms, labels by text, masks that follow their image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tasks.input.config import DataConfig
from tasks.input.image_resizer import resize_rulers
from tasks.input.record_parser import STORED_AT, RecordParser
from tasks.input.scene import Scene
from tasks.mask_rcnn import config
from tasks.records.label_map import parse_label_map
from tests.input.samples import LABELS, MASK, frames, record

IDENTITY = config.ImageResizer(kind="identity")
Augment = Callable[[Scene], Scene]


def parse(
    serialized: bytes, resizer: config.ImageResizer = IDENTITY, augment: Augment = lambda scene: scene, **data: Any
) -> dict[str, Any]:
    """Image, objects and whole masks of a record, moved and resized."""
    parser = RecordParser(DataConfig(**data), LABELS)

    @tf.function
    def parsed(serialized: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        encoded, source_id, objects = parser.objects(serialized)
        image = parser.image(encoded)
        scene = augment(Scene.of(image, objects))
        stored = (serialized, source_id, tf.size(objects[STORED_AT]), tf.shape(image)[:2])
        masks = parser.masks(*stored, scene.objects[STORED_AT], resize_rulers(scene.rulers, resizer))
        return {**scene.objects, "image": scene.image}, masks

    objects, masks = parsed(tf.constant(serialized))
    return {name: value.numpy() for name, value in objects.items()} | {"masks": frames(masks)}


def test_a_record_of_the_original() -> None:
    example = parse(record())
    assert example["category_ids"].tolist() == [3]
    np.testing.assert_array_equal(example["masks"], [MASK])
    assert example["weights"].tolist() == [1.0]


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
    _, _, objects = RecordParser(DataConfig(), labels).objects(tf.constant(record()))
    assert objects["category_ids"].numpy().tolist() == [1]


def mirrored(scene: Scene) -> Scene:
    return scene.mirrored(tf.constant(True))


def test_a_flip_moves_image_box_and_mask_together() -> None:
    straight, flipped = parse(record()), parse(record(), augment=mirrored)
    np.testing.assert_allclose(flipped["boxes"], [[0.25, 2 / 3, 0.75, 1.0]], atol=1e-6)
    assert np.argwhere(flipped["masks"][0]).tolist() == [[1, 4], [1, 5], [2, 4], [2, 5]]
    np.testing.assert_array_equal(flipped["image"], straight["image"][:, ::-1])


def test_dense_masks_flip_as_png_masks_do() -> None:
    dense = record(image__object__mask=(MASK * 0.5).ravel().tolist())
    example = parse(dense, augment=mirrored, mask_type="NUMERICAL_MASKS")
    np.testing.assert_array_equal(example["masks"], [MASK[:, ::-1]])


def test_masks_are_resized_on_the_grid_of_the_image() -> None:
    """Nearest neighbour on the legacy grid at twice the size: each pixel becomes a square of four."""
    doubled = config.ImageResizer(min_dimension=8, max_dimension=100)
    example = parse(record(), doubled)
    np.testing.assert_array_equal(example["masks"], [np.kron(MASK, np.ones((2, 2), np.uint8))])
