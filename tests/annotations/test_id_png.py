"""Numbers of objects as pixels: 2 x 3 of them, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.annotations.id_png import IdPngSource
from tasks.records.checks import BadImageError, Check
from tasks.running.errors import UserError
from tests.annotations.files import png, write

SIZE = (2, 3)


def read(source: IdPngSource) -> list[tuple]:
    """Category, mask and whether a crowd, of the objects of the only image."""
    (image,) = source.list().images
    return [(found.category, found.segmentation.tolist(), found.is_crowd) for found in source.objects(image, SIZE)]


@pytest.mark.parametrize("mode", [None, "P"])
def test_each_value_but_background_and_ignore_is_an_object(folder, mode):
    write(folder / "images" / "a.jpg")
    write(folder / "masks" / "a.png", png(np.array([[0, 7, 7], [255, 2, 7]], np.uint8), mode))
    source = IdPngSource(folder / "images", folder / "masks", category="cell", ignore=255)
    assert source.list().categories == {"cell": "cell"}
    assert read(source) == [("cell", [[0, 0, 0], [0, 1, 0]], False), ("cell", [[0, 1, 1], [0, 0, 1]], False)]


def test_categories_and_crowds_as_in_cityscapes(folder):
    values = np.array([[26_000, 26_001, 24], [7, 24_000, 33_000]], np.uint16)
    write(folder / "images" / "aachen" / "a_leftImg8bit.png")
    write(folder / "masks" / "aachen" / "a_instanceIds.png", png(values))
    write(folder / "masks" / "aachen" / "a_labelIds.png")
    source = IdPngSource(
        folder / "images",
        folder / "masks",
        categories={24: "person", 26: "car"},
        divisor=1000,
        image_ending="_leftImg8bit",
        mask_ending="_instanceIds",
    )
    listing = source.list()
    assert listing.categories == {24: "person", 26: "car"}
    (image,) = listing.images
    assert (image.source_id, image.file_name) == ("aachen/a", "aachen/a_leftImg8bit.png")
    assert image.files == (folder / "masks" / "aachen" / "a_instanceIds.png",)
    assert read(source) == [
        (24, [[0, 0, 1], [0, 0, 0]], True),
        (24, [[0, 0, 0], [0, 1, 0]], False),
        (26, [[1, 0, 0], [0, 0, 0]], False),
        (26, [[0, 1, 0], [0, 0, 0]], False),
        (33, [[0, 0, 0], [0, 0, 1]], False),  # which no name is given for; it is refused where categories are looked up
    ]


def test_endings_that_tell_masks_from_images_are_told(folder):
    for name in ("a", "b"):
        write(folder / "images" / f"{name}_rgb.jpg")
        write(folder / "masks" / f"{name}_mask.png", png(np.zeros(SIZE, np.uint8)))
    with pytest.raises(
        UserError, match=r"no mask has an image's name.*'a_rgb'.*'a_mask'\n  fix: give `image_ending: _rgb`, `mask_ending: _mask`"
    ):
        list(IdPngSource(folder / "images", folder / "masks", category="cell").list().images)
    source = IdPngSource(folder / "images", folder / "masks", category="cell", image_ending="_rgb", mask_ending="_mask")
    assert [image.files[0].name for image in source.list().images] == ["a_mask.png", "b_mask.png"]


def test_images_and_masks_of_other_names_are_told_at_once(folder):
    for name in ("a", "b"):
        write(folder / "images" / f"{name}.jpg")
        write(folder / "masks" / f"mask of {name}.png", png(np.zeros(SIZE, np.uint8)))
    with pytest.raises(UserError, match=r"no mask has an image's name"):
        list(IdPngSource(folder / "images", folder / "masks", category="cell").list().images)


def test_images_and_masks_without_a_partner_are_listed(folder):
    write(folder / "images" / "a.jpg")
    write(folder / "masks" / "b.png", png(np.zeros(SIZE, np.uint8)))
    source = IdPngSource(folder / "images", folder / "masks", category="cell")
    first, second = source.list().images
    assert second.path == folder / "images" / "b.png"
    with pytest.raises(BadImageError, match=r"masks/a\.png: the mask file cannot be opened") as caught:
        list(source.objects(first, SIZE))
    assert caught.value.check == Check.MASK_MISSING


def test_two_images_of_one_stem_are_refused(folder):
    write(folder / "images" / "a.jpg")
    write(folder / "images" / "a.png")
    write(folder / "masks" / "a.png")
    with pytest.raises(UserError, match=r"images: a\.jpg and a\.png differ in their suffix only"):
        list(IdPngSource(folder / "images", folder / "masks", category="cell").list().images)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "not clear"),
        ({"category": "cell", "divisor": 10}, "not clear"),
        ({"category": "cell", "categories": {1: "cell"}, "divisor": 10}, "not clear"),
        ({"categories": {1: "cell"}}, "not clear"),
        ({"categories": {1: "cell"}, "divisor": 0}, "divisor is 0"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(folder, fields, reason):
    with pytest.raises(UserError, match=reason):
        IdPngSource(folder, folder, **fields)
