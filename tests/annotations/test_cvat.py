"""CVAT's XML for images on 6 x 8 pixels, by hand, and against datumaro's own reading."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tasks.annotations.cvat import CvatSource
from tasks.annotations.instances import instances_of
from tasks.coco.masks import mask_from_rle
from tasks.records.checks import BadImageError, Check, DataError
from tests.annotations.files import png, write

SIZE = (6, 8)
META = "<meta><task><labels><label><name>dog</name></label><label><name>cat</name></label></labels></task></meta>"
SQUARE = '<polygon label="cat" source="manual" occluded="0" points="1.00,1.00;3.00,1.00;3.00,3.00;1.00,3.00" z_order="0"></polygon>'
MASK = '<mask label="dog" source="manual" occluded="0" rle="1, 2, 3" left="2" top="1" width="3" height="2" z_order="0"/>'
BOX = '<box label="dog" occluded="0" xtl="1.5" ytl="1" xbr="4" ybr="3" z_order="0"/>'


def cvat(folder, shapes: str, meta: str = META, image: str = 'id="0" name="a.jpg" width="8" height="6"') -> CvatSource:
    text = (
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>{meta}<image {image}>{shapes}</image></annotations>'
    )
    write(folder / "annotations.xml", text.encode())
    write(folder / "images" / "a.jpg")
    return CvatSource(folder / "images", folder / "annotations.xml")


def read(source: CvatSource) -> list[tuple]:
    """Category, pixels and box of each object of the first image."""
    listing = source.list()
    image = next(listing.images)
    objects = list(source.objects(image, SIZE))
    instances, _ = instances_of(objects, SIZE, dict.fromkeys(listing.categories, 1))
    masks = [np.argwhere(mask_from_rle(instance.mask)).tolist() for instance in instances]
    return [(one.category, mask, one.box_yxyx) for one, mask in zip(objects, masks, strict=True)]


CAT = ("cat", [[1, 1], [1, 2], [2, 1], [2, 2]], None)


def test_polygons_and_masks_are_objects_and_tags_are_none(folder):
    source = cvat(folder, SQUARE + MASK + '<tag label="cat" source="manual"><attribute name="a">b</attribute></tag>')
    listing = source.list()
    assert listing.categories == {"cat": "cat", "dog": "dog"}
    image = next(listing.images)
    assert (image.source_id, image.path, image.size) == ("a.jpg", folder / "images" / "a.jpg", SIZE)
    assert json.loads(json.dumps(image.payload)) == image.payload
    assert read(source) == [CAT, ("dog", [[1, 3], [1, 4]], None)]
    assert read(cvat(folder, "")) == []


def test_a_turned_ellipse(folder):
    """Centres within it: see the same ellipse in the tests of VGG Image Annotator."""
    shape = '<ellipse label="cat" cx="4" cy="3" rx="3.1" ry="1.2" {}/>'
    level, turned = (read(cvat(folder, shape.format(turn)))[0][1] for turn in ("", 'rotation="90"'))
    assert level == [[2, x] for x in range(1, 7)] + [[3, x] for x in range(1, 7)]
    assert turned == [[y, x] for y in range(6) for x in (3, 4)]
    assert math.isclose(len(level), math.pi * 3.1 * 1.2, abs_tol=1)


def test_shapes_of_one_label_and_group_are_parts_of_one_object(folder):
    grouped = [shape.replace(" occluded", ' group_id="4" occluded') for shape in (SQUARE, MASK, BOX)]
    dog = ("dog", [[1, 3], [1, 4]], (1, 1.5, 3, 4))
    assert read(cvat(folder, "".join(grouped))) == [CAT, dog]
    far = SQUARE.replace("1.00", "4.00").replace("3.00", "6.00")
    apart = SQUARE.replace(" occluded", ' group_id="0" occluded')
    both = read(cvat(folder, apart + grouped[0] + far.replace(" occluded", ' group_id="4" occluded')))
    assert both == [CAT, ("cat", [*CAT[1], [4, 4], [4, 5], [5, 4], [5, 5]], None)]


@pytest.mark.parametrize(
    "shape", [BOX, '<points label="cat" points="1,1"/>', '<polyline label="cat" points="1,1;2,2"/>', '<cuboid label="cat"/>']
)
def test_what_has_no_area_has_no_mask(folder, shape):
    with pytest.raises(BadImageError, match=r"annotations\.xml: a\.jpg: shapes 1 \(\w+\) has no mask") as caught:
        read(cvat(folder, SQUARE + shape))
    assert caught.value.check == Check.MASK_MISSING


@pytest.mark.parametrize(
    ("image", "path"),
    [
        ('name="b/a.jpg" subset="train"', "train/b/a.jpg"),
        ('name="b/a.jpg" subset="val"', "b/a.jpg"),  # no folder of that name
        ('name="b\\a.jpg"', "b/a.jpg"),
    ],
)
def test_where_the_images_of_subsets_are(folder, image, path):
    write(folder / "images" / "train" / "b" / "a.jpg")
    listed = next(cvat(folder, "", image=f'id="0" {image} width="8" height="6"').list().images)
    assert listed.path == folder / "images" / path
    assert listed.findings == ((Check.PATH_SEPARATORS,) if "\\" in image else ())


def test_labels_of_a_project_a_job_or_none(folder):
    for kind in ("project", "job"):
        assert list(cvat(folder, SQUARE, META.replace("task", kind)).list().categories) == ["cat", "dog"]
    assert list(cvat(folder, SQUARE, "").list().categories) == ["cat"]
    point = "<label><name>nose</name><type>points</type><parent>cat</parent></label></labels>"
    assert list(cvat(folder, SQUARE, META.replace("</labels>", point)).list().categories) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("shape", "reason", "check"),
    [
        (SQUARE.replace("1.00,1.00", "1.00"), "its points are no list", Check.ANNOTATION_MALFORMED),
        (SQUARE.replace("1.00,1.00", "nan,1.00"), "it has the coordinate nan", Check.ANNOTATION_MALFORMED),
        (SQUARE.replace("1.00,1.00", "x,1.00"), "it has the coordinate 'x'", Check.ANNOTATION_MALFORMED),
        ('<polygon label="cat"/>', "its points are no list", Check.ANNOTATION_MALFORMED),
        (SQUARE.replace(' label="cat"', ""), "it has no label", Check.ANNOTATION_MALFORMED),
        (SQUARE.replace("cat", "ant"), "has the category 'ant'", Check.UNKNOWN_CATEGORY),
        (MASK.replace("1, 2, 3", "1, 2, 4"), "its runs have 7 pixels together, and its box 6", Check.MASK_MALFORMED),
        (MASK.replace("1, 2, 3", "-1, 4, 3"), "its runs", Check.MASK_MALFORMED),
        (MASK.replace("1, 2, 3", "1, a, 3"), "it has the coordinate ' a'", Check.ANNOTATION_MALFORMED),
        (MASK.replace('left="2"', 'left="6"'), "its mask's box leaves the image", Check.MASK_SIZE),
        (MASK.replace('top="1"', ""), "it has the coordinate None", Check.ANNOTATION_MALFORMED),
        (BOX.replace('xbr="4"', 'xbr="inf"'), "it has the coordinate inf", Check.ANNOTATION_MALFORMED),
    ],
)
def test_a_broken_shape_is_told_by_file_image_and_place(folder, shape, reason, check):
    with pytest.raises(BadImageError, match=rf"annotations\.xml: a\.jpg: shapes 0 \(\w+\):? {reason}") as caught:
        read(cvat(folder, shape))
    assert caught.value.check == check


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"<annotations><image", "it is no XML"),
        (b"", "it is no XML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (b"<annotation><object/></annotation>", "it begins with <annotation>"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><annotations>&b;</annotations>", "it is no XML, or none to trust"),
        (b'<annotations><track id="0" label="cat"></track></annotations>', "it is of a video"),
        (b'<annotations><image id="0" width="8" height="6"/></annotations>', "image 0 has name None"),
        (b'<annotations><image id="0" name="a" width="8" height="0"/></annotations>', "image 0 has name 'a', height '0'"),
    ],
)
def test_a_broken_file_is_refused(folder, text, reason):
    write(folder / "annotations.xml", text)
    with pytest.raises(DataError, match=rf"annotations\.xml: {reason}") as caught:
        list(CvatSource(folder, folder / "annotations.xml").list().images)
    assert caught.value.check == Check.SOURCE_MALFORMED


def test_a_missing_file_is_named(folder):
    with pytest.raises(DataError, match=r"absent\.xml: the annotations cannot be opened"):
        CvatSource(folder, folder / "absent.xml").list()


def test_masks_and_outlines_are_those_that_datumaro_reads(tmp_path: Path):
    import datumaro

    random = np.random.default_rng(2)
    height, width = 40, 50
    shapes = []
    for index in range(12):
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in random.random((index % 5 + 3, 2)) * (width, height))
        shapes.append(f'<polygon label="cat" occluded="0" points="{points}" z_order="0"/>')
        rows, columns = random.integers(1, 15, 2)
        pixels = random.integers(0, 2, (rows, columns))
        ends = np.flatnonzero(np.diff(pixels.ravel(), prepend=0, append=1 - pixels.ravel()[-1]))
        runs = ", ".join(map(str, np.diff(ends, prepend=0)))
        shapes.append(
            f'<mask label="dog" occluded="0" rle="{runs}" left="{index}" top="{index * 2}" width="{columns}" height="{rows}" z_order="0"/>'
        )
    source = cvat(tmp_path, "".join(shapes), image=f'id="0" name="a.jpg" width="{width}" height="{height}"')
    (tmp_path / "images" / "a.jpg").write_bytes(png(random.integers(0, 255, (height, width, 3), np.uint8)))
    (item,) = datumaro.Dataset.import_from(str(tmp_path), "cvat")
    (image,) = source.list().images
    ours = list(source.objects(image, (height, width)))
    assert len(ours) == len(item.annotations) == 24
    for one, peer in zip(ours, item.annotations, strict=True):
        if peer.type == datumaro.AnnotationType.mask:
            assert one.segmentation.tolist() == peer.image.astype(np.uint8).tolist()
        else:
            np.testing.assert_allclose(one.segmentation, [peer.points])
