"""One PNG per object: hand-made pixels and faults, and the nuclei of 2018 against Pillow's own reading."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tasks.annotations.instance_png import InstancePngSource
from tasks.records.checks import BadImageError, Check
from tasks.running.errors import UserError
from tests.annotations.files import png, write

SQUARE = np.array([[0, 1, 1], [0, 1, 1]], np.uint8)


def read(source: InstancePngSource, size=SQUARE.shape) -> dict:
    """Category and mask of each object by image id."""
    listing = source.list()
    return {
        image.source_id: [(found.category, found.segmentation.tolist()) for found in source.objects(image, size)]
        for image in listing.images
    }


def test_a_folder_for_each_image_whose_masks_may_overlap(folder):
    for name in ("b", "a"):
        write(folder / name / "images" / f"{name}.png")
    write(folder / "a" / "masks" / "2.png", png(1 - SQUARE))
    write(folder / "a" / "masks" / "1.png", png(SQUARE * 255))
    write(folder / "b" / "masks" / ".keep")
    write(folder / ".DS_Store")
    source = InstancePngSource(folder, category="nucleus")
    listing = source.list()
    assert listing.categories == {"nucleus": "nucleus"}
    first, second = listing.images
    assert (first.source_id, first.file_name, first.path, first.size) == ("a", "a.png", folder / "a" / "images" / "a.png", None)
    assert first.files == (folder / "a" / "masks" / "1.png", folder / "a" / "masks" / "2.png")
    assert second.files == ()
    one, two = [[0, 1, 1], [0, 1, 1]], [[1, 0, 0], [1, 0, 0]]
    assert read(pickle.loads(pickle.dumps(source))) == {"a": [("nucleus", one), ("nucleus", two)], "b": []}


def test_images_beside_masks_in_a_folder_for_each_category(folder):
    write(folder / "images" / "a.jpg")
    write(folder / "masks" / "a" / "dog" / "1.png", png(SQUARE))
    write(folder / "masks" / "a" / "cat" / "1.png", png(SQUARE))
    source = InstancePngSource(folder / "images", folder / "masks")
    assert list(source.list().categories.items()) == [("cat", "cat"), ("dog", "dog")]
    assert [category for category, _ in read(source)["a"]] == ["cat", "dog"]


def test_neither_a_missing_image_nor_a_missing_folder_of_masks_is_passed_over(folder):
    write(folder / "images" / "a.jpg")
    write(folder / "masks" / "b" / "1.png", png(SQUARE))
    source = InstancePngSource(folder / "images", folder / "masks", "cat")
    first, second = source.list().images
    assert (second.source_id, second.path) == ("b", folder / "images" / "b.png")
    with pytest.raises(BadImageError, match=r"a\.jpg: the image has no folder of masks") as caught:
        list(source.objects(first, (2, 3)))
    assert caught.value.check == Check.MASK_MISSING


def test_a_mask_that_has_gone_since_is_missed(folder):
    write(folder / "a" / "images" / "a.png")
    write(folder / "a" / "masks" / "1.png", png(SQUARE))
    source = InstancePngSource(folder, category="cat")
    (image,) = source.list().images
    image.files[0].unlink()
    with pytest.raises(BadImageError, match=r"1\.png: the mask file cannot be opened") as caught:
        list(source.objects(image, (2, 3)))
    assert caught.value.check == Check.MASK_MISSING


@pytest.mark.parametrize(
    ("files", "fields", "reason"),
    [
        (["a/images/1.png", "a/images/2.png"], {}, "images: there are 2 files"),
        (["a/images/1.png", "a/masks/1.png"], {}, r"1\.png: nothing says what the mask shows"),
        (["a/images/1.png", "a/masks/dog/1.png"], {"category": "cat"}, "dog: a folder of masks, and all are of category 'cat'"),
    ],
)
def test_what_is_not_clear_is_refused(folder, files, fields, reason):
    for file in files:
        write(folder / file)
    with pytest.raises(UserError, match=reason):
        list(InstancePngSource(folder, **fields).list().images)


def test_wrong_folders_are_named(folder):
    with pytest.raises(UserError, match="absent: the folder cannot be listed") as caught:
        list(InstancePngSource(folder / "absent", category="cat").list().images)
    assert "`images`" in caught.value.fix
    write(folder / "images" / "a.jpg")
    with pytest.raises(UserError, match="absent: the folder cannot be listed") as caught:
        list(InstancePngSource(folder / "images", folder / "absent", "cat").list().images)
    assert "`masks`" in caught.value.fix


def has_hole(mask: np.ndarray) -> bool:
    """Whether a flood from outside leaves some background dry; of the mask's extent only, which is faster."""
    flooded = Image.fromarray(np.pad(mask[np.ix_(mask.any(axis=1), mask.any(axis=0))], 1)).copy()
    ImageDraw.floodfill(flooded, (0, 0), 1)
    return not np.asarray(flooded).all()


def test_the_nuclei_of_2018_are_read_as_they_are(shared_data: Path):
    source = InstancePngSource(shared_data / "dsb2018_subset" / "stage1_train", category="nucleus")
    images = objects = with_hole = 0
    overlapping = set()
    for image in source.list().images:
        with Image.open(image.path) as picture:
            size = (picture.height, picture.width)
        masks = []
        for found, path in zip(source.objects(image, size), image.files, strict=True):
            with Image.open(path) as picture:
                np.testing.assert_array_equal(found.segmentation * 255, np.asarray(picture))
            masks.append(found.segmentation)
            with_hole += has_hole(found.segmentation)
        if np.sum(masks, axis=0).max() > 1:
            overlapping.add(image.source_id[:8])
        images += 1
        objects += len(masks)
    assert (images, objects, with_hole) == (54, 2384, 4)
    assert overlapping == {"0a7d30b2", "1609b1b8", "175dbb36", "547ef286", "72e8c49d", "f26f4c2c"}


def test_folders_that_belong_to_no_image_are_told_at_once(folder):
    for name in ("a", "b"):
        write(folder / "images" / f"{name}.jpg")
        write(folder / "masks" / f"{name}.png")
    source = InstancePngSource(folder / "images", folder / "masks", category="cell")
    with pytest.raises(UserError, match=r"no mask has an image's name.*\n.*`id_png`"):
        list(source.list().images)
