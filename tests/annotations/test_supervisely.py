"""Supervisely's project, on 6 x 8 pixels."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest

from tasks.annotations.instances import instances_of
from tasks.annotations.supervisely import SuperviselySource
from tasks.coco.masks import mask_from_rle
from tasks.records.checks import BadImageError, Check, DataError
from tests.annotations.files import png, write

SIZE = (6, 8)
META = {"classes": [{"title": "dog", "shape": "bitmap"}, {"title": "cat", "shape": "polygon"}], "tags": []}
FRAME = [[1, 1], [6, 1], [6, 5], [1, 5]]
HOLE = [[2, 2], [5, 2], [5, 4], [2, 4]]


def polygon(exterior: list, *interior: list, **fields) -> dict:
    return {"classTitle": "cat", "geometryType": "polygon", "points": {"exterior": exterior, "interior": list(interior)}, **fields}


def bitmap(pixels: np.ndarray, x: int, y: int, **fields) -> dict:
    data = base64.b64encode(zlib.compress(png(pixels))).decode()
    return {"classTitle": "dog", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [x, y]}, **fields}


def project(folder, *objects: object, **content) -> SuperviselySource:
    write(folder / "meta.json", json.dumps(META).encode())
    write(folder / "ds1" / "img" / "a.jpg")
    write(folder / "ds1" / "ann" / "a.jpg.json", json.dumps({"size": {"height": 6, "width": 8}, "objects": objects, **content}).encode())
    return SuperviselySource(folder)


def read(source: SuperviselySource) -> list[tuple]:
    """Category and rows of the mask, as texts, of the only image's objects."""
    listing = source.list()
    (image,) = listing.images
    assert json.loads(json.dumps(image.payload)) == image.payload
    objects = list(source.objects(image, SIZE))
    instances, _ = instances_of(objects, SIZE, dict.fromkeys(listing.categories, 1))
    return [
        (one.category, ["".join(map(str, row)) for row in mask_from_rle(found.mask)]) for one, found in zip(objects, instances, strict=True)
    ]


def test_a_polygon_has_holes(folder):
    source = project(folder, polygon(FRAME), polygon(FRAME, HOLE))
    whole = ["00000000", *["01111100"] * 4, "00000000"]
    holed = [*whole[:2], "01000100", "01000100", *whole[4:]]
    assert read(source) == [("cat", whole), ("cat", holed)]


@pytest.mark.parametrize("form", ["grey", "alpha", "bits"])
def test_a_bitmap_lies_at_its_origin(folder, form):
    values = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)
    pixels = {"grey": values, "bits": values > 0, "alpha": np.dstack([np.full((2, 3, 3), 255, np.uint8), values])}[form]
    found = read(project(folder, bitmap(pixels, 4, 1)))
    assert found == [("dog", ["00000000", "00000110", "00001000", *["00000000"] * 3])]


def test_datasets_of_a_project(folder):
    project(folder, polygon(FRAME))
    write(folder / "ds2" / "img" / "b.png")
    write(folder / "ds2" / "ann" / "b.png.json", json.dumps({"size": {"height": 6, "width": 8}, "objects": []}).encode())
    write(folder / "obj_class_to_machine_color.json", b"{}")
    listing = SuperviselySource(folder).list()
    assert listing.categories == {"cat": "cat", "dog": "dog"}
    assert [(image.source_id, image.path, image.size) for image in listing.images] == [
        ("ds1/a.jpg", folder / "ds1" / "img" / "a.jpg", SIZE),
        ("ds2/b.png", folder / "ds2" / "img" / "b.png", SIZE),
    ]
    assert [image.source_id for image in SuperviselySource(folder, "ds2").list().images] == ["b.png"]


@pytest.mark.parametrize("kind", ["rectangle", "line", "point", "graph"])
def test_what_has_no_area_has_no_mask(folder, kind):
    shape = {"classTitle": "cat", "geometryType": kind, "points": {"exterior": [[5, 4], [1, 2]], "interior": []}}
    source = project(folder, shape)
    (image,) = source.list().images
    (one,) = source.objects(image, SIZE)
    assert one.box_yxyx == ((2, 1, 4, 5) if kind == "rectangle" else None)
    with pytest.raises(BadImageError, match=rf"a\.jpg: objects\[0\] \({kind}\) has no mask") as caught:
        read(source)
    assert caught.value.check == Check.MASK_MISSING


@pytest.mark.parametrize(
    ("broken", "reason", "check"),
    [
        (3, "it has no classTitle", Check.ANNOTATION_MALFORMED),
        (polygon(FRAME, classTitle="ant"), "has the category 'ant'", Check.UNKNOWN_CATEGORY),
        (polygon([1, 2]), "its points are no list", Check.ANNOTATION_MALFORMED),
        (polygon([[1, "a"]]), "it has the coordinate 'a'", Check.ANNOTATION_MALFORMED),
        (polygon(FRAME, [[1, None]]), "it has the coordinate None", Check.ANNOTATION_MALFORMED),
        ({**polygon(FRAME), "points": {"exterior": FRAME, "interior": 3}}, "its holes are 3", Check.ANNOTATION_MALFORMED),
        ({**polygon(FRAME), "points": None}, "its points are no list", Check.ANNOTATION_MALFORMED),
        (bitmap(np.ones((2, 3), bool), 6, 1), "its bitmap leaves the image", Check.MASK_SIZE),
        (bitmap(np.ones((2, 3), bool), -1, 1), "its bitmap leaves the image", Check.MASK_SIZE),
        (
            bitmap(np.ones((2, 3), bool), 1, 1, bitmap={"data": "eJw=", "origin": [1, 1]}),
            "its bitmap is no packed PNG",
            Check.MASK_MALFORMED,
        ),
        (bitmap(np.ones((2, 3), bool), 1, 1, bitmap={"data": 5, "origin": [1, 1]}), "its bitmap is no packed PNG", Check.MASK_MALFORMED),
        (bitmap(np.ones((2, 3), bool), 1, 1, bitmap={"origin": [1]}), r"its origin is \[1\]", Check.ANNOTATION_MALFORMED),
        (bitmap(np.ones((2, 3), bool), 1, 1, bitmap=None), "its coordinates are None", Check.ANNOTATION_MALFORMED),
    ],
)
def test_a_broken_object_is_told_by_image_and_place(folder, broken, reason, check):
    with pytest.raises(BadImageError, match=rf"ds1/a\.jpg: objects\[0\].* ?{reason}") as caught:
        read(project(folder, broken))
    assert caught.value.check == check


@pytest.mark.parametrize("content", [{"size": None}, {"size": {"height": 6}}, {"objects": None}])
def test_a_broken_annotation_is_refused(folder, content):
    with pytest.raises(DataError, match=r"a\.jpg\.json: there is no list `objects`, or no `size`") as caught:
        read(project(folder, **content))
    assert caught.value.check == Check.SOURCE_MALFORMED


def test_what_is_missing_is_named(folder):
    with pytest.raises(DataError, match=r"meta\.json: the annotations cannot be opened"):
        SuperviselySource(folder).list()
    write(folder / "meta.json", b'{"classes": [3]}')
    with pytest.raises(DataError, match=r"meta\.json: there is no list `classes` with titles"):
        SuperviselySource(folder).list()
    write(folder / "meta.json", json.dumps(META).encode())
    write(folder / "note" / "a.txt")
    with pytest.raises(DataError, match="no folder in it has a folder `ann`"):
        list(SuperviselySource(folder).list().images)
    write(folder / "ds1" / "img" / "a.jpg")
    write(folder / "ds1" / "ann" / "b.jpg.json", json.dumps({"size": {"height": 6, "width": 8}, "objects": []}).encode())
    with pytest.raises(DataError, match=r"ann/a\.jpg\.json: the annotations cannot be opened"):
        list(SuperviselySource(folder).list().images)
