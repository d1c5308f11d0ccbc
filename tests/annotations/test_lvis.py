"""LVIS v1 as shipped, made smaller."""

from __future__ import annotations

import json

import pytest

from tasks.annotations.lvis import LvisSource
from tasks.records.checks import DataError
from tests.annotations.files import write

IMAGE = {
    "date_captured": "2013-11-14 17:02:52",
    "neg_category_ids": [899, 127],
    "id": 397133,
    "license": 4,
    "height": 6,
    "width": 8,
    "flickr_url": "http://farm7.staticflickr.com/6116/6255196340_da26cf2c9e_z.jpg",
    "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg",
    "not_exhaustive_category_ids": [914],
}
CATEGORIES = [{"id": 1203, "name": "aerosol_can", "synset": "aerosol.n.02", "frequency": "c", "image_count": 64, "def": "a dispenser"}]
OBJECT = {"area": 4.0, "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]], "image_id": 397133, "bbox": [1, 1, 2, 2], "category_id": 1203, "id": 7}


def lvis(folder, *images: dict) -> LvisSource:
    write(folder / "lvis.json", json.dumps({"images": images, "annotations": [OBJECT], "categories": CATEGORIES}).encode())
    return LvisSource(folder / "coco", folder / "lvis.json")


@pytest.mark.parametrize("place", ["val2017/000000397133.jpg", "000000397133.jpg"])
def test_images_are_named_by_the_end_of_their_address(folder, place):
    write(folder / "coco" / place)
    source = lvis(folder, IMAGE)
    listing = source.list()
    assert listing.categories == {1203: "aerosol_can"}
    (image,) = listing.images
    assert (image.source_id, image.file_name, image.path, image.size) == ("397133", place, folder / "coco" / place, (6, 8))
    (one,) = source.objects(image, (6, 8))
    assert (one.category, one.segmentation, one.box_yxyx, one.area, one.is_crowd) == (1203, OBJECT["segmentation"], (1, 1, 3, 3), 4, False)


def test_a_file_name_of_its_own_counts(folder):
    write(folder / "coco" / "val2017" / "a.jpg")
    (image,) = lvis(folder, {**IMAGE, "file_name": "val2017/a.jpg"}).list().images
    assert image.file_name == "val2017/a.jpg"


def test_what_is_not_drawn_is_told(folder):
    write(folder / "coco" / "a.jpg")
    others = [{**IMAGE, "id": number, "not_exhaustive_category_ids": []} for number in (1, 2)]
    listing = lvis(folder, IMAGE, *others).list()
    assert len(list(listing.images)) == 3
    assert any("lvis.json: in 1 of 3 images not all objects of some categories are drawn" in note for note in listing.notes)


def test_an_image_without_any_name_is_refused(folder):
    write(folder / "coco" / "a.jpg")
    with pytest.raises(DataError, match=r"lvis\.json: image 397133 has no file_name"):
        lvis(folder, {key: value for key, value in IMAGE.items() if key != "coco_url"}).list()
