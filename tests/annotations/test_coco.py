"""The COCO reader against annotations small enough to check by hand, good and bad."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tasks.annotations.coco import CocoSource
from tasks.annotations.instances import instances_of
from tasks.annotations.source import ListedImage
from tasks.coco.masks import mask_from_rle
from tasks.errors import UserError
from tasks.records.checks import BadImageError, Check

HEIGHT, WIDTH = 6, 8
SQUARE = [1, 1, 3, 1, 3, 3, 1, 3]
"""Pixels 1 and 2 both ways; its box is x 1, y 1, 2 wide, 2 high."""

GOOD = {
    "images": [{"id": 7, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}],
    "annotations": [
        {
            "id": 11,
            "image_id": 7,
            "category_id": 90,
            "segmentation": [SQUARE],
            "bbox": [1, 1, 2, 2],
            "area": 4,
            "iscrowd": 0,
        }
    ],
}


@pytest.fixture
def write(tmp_path: Path):
    """Writes COCO content to a file; the source that it is."""

    def write_content(content) -> CocoSource:
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return CocoSource(tmp_path, path)

    return write_content


def read(source: CocoSource) -> tuple[dict, list[ListedImage]]:
    listing = source.list()
    return dict(listing.categories), list(listing.images)


@pytest.fixture
def annotated(write):
    """The instances of the only image of GOOD, its annotation changed, and the findings."""

    def annotate_changed(**changes):
        content = copy.deepcopy(GOOD)
        annotation = content["annotations"][0]
        for key, value in changes.items():
            if value is None:
                del annotation[key]
            else:
                annotation[key] = value
        source = write(content)
        categories, (image,) = read(source)
        return instances_of(source.objects(image, (HEIGHT, WIDTH)), (HEIGHT, WIDTH), {key: key for key in categories})

    return annotate_changed


def test_an_image_keeps_what_the_file_says(write, tmp_path):
    categories, (image,) = read(write(GOOD))
    assert categories == {3: "cat", 90: "dog"}
    assert (image.source_id, image.file_name, image.size) == ("7", "a.jpg", (HEIGHT, WIDTH))
    assert image.path == tmp_path / "a.jpg"


def test_an_instance_keeps_what_the_file_says(annotated):
    (instance,), findings = annotated()
    assert instance.category_id == 90
    assert instance.box_yxyx == (1, 1, 3, 3)
    assert instance.area == 4
    assert not instance.is_crowd
    assert mask_from_rle(instance.mask).sum() == 4
    assert findings == Counter()


def test_images_come_in_the_files_order_each_with_its_own_annotations(write):
    """The lists may stand in any order in the file, and annotations in any order in theirs."""
    content = {
        "annotations": [{**GOOD["annotations"][0], "id": number, "image_id": image} for number, image in ((1, 9), (2, "b"), (3, 9))],
        "images": [{**GOOD["images"][0], "id": image} for image in ("b", 9, 7)],
        "categories": GOOD["categories"],
    }
    source = write(content)
    found = {image.source_id: [one.where for one in source.objects(image, image.size)] for image in read(source)[1]}
    assert list(found) == ["b", "9", "7"]
    assert [[where.split("annotation ")[1][0] for where in own] for own in found.values()] == [["2"], ["1", "3"], []]


def test_the_area_is_the_files_own_and_the_masks_where_it_has_none(annotated):
    assert annotated(area=5.5)[0][0].area == 5.5
    for area in (None, 0):
        (instance,), findings = annotated(area=area)
        assert instance.area == 4
        assert findings == {Check.AREA_FROM_MASK: 1}


def test_missing_iscrowd_is_no_crowd(annotated):
    assert not annotated(iscrowd=None)[0][0].is_crowd


@pytest.mark.parametrize("segmentation", [[SQUARE], {"size": [HEIGHT, WIDTH], "counts": [7, 2, 4, 2, 33]}], ids=["polygon", "runs"])
def test_a_crowd_is_a_crowd_however_its_mask_is_written(annotated, segmentation):
    (instance,), _ = annotated(iscrowd=1, segmentation=segmentation)
    assert instance.is_crowd
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[1:3, 1:3] = 1
    np.testing.assert_array_equal(mask_from_rle(instance.mask), expected)


@pytest.mark.parametrize(
    ("bbox", "box_yxyx", "finding"),
    [
        ([-1, 1, 4, 2], (1, 0, 3, 3), Check.BOX_CLIPPED),
        ([1, 1, 100, 100], (1, 1, 3, 3), Check.BOX_OFF_MASK),
        ([1, 1, 4, 2], (1, 1, 3, 5), None),
        ([20, 1, 2, 2], (1, 1, 3, 3), Check.BOX_FROM_MASK),
        ([1, 1, 0, 2], (1, 1, 3, 3), Check.BOX_FROM_MASK),
        (None, (1, 1, 3, 3), Check.BOX_FROM_MASK),
    ],
    ids=["left of the image", "far beyond its mask", "half its mask", "outside", "empty", "missing"],
)
def test_a_box_ends_inside_the_image_and_is_counted(annotated, bbox, box_yxyx, finding):
    (instance,), findings = annotated(bbox=bbox)
    assert instance.box_yxyx == box_yxyx
    assert findings == ({finding: 1} if finding else {})


@pytest.mark.parametrize(
    ("segmentation", "finding"),
    [
        ([[1, 1, 3, 3]], Check.DEGENERATE_POLYGON),
        ([[20, 20, 22, 20, 22, 22]], Check.OBJECT_OUTSIDE),
        ([[2, 2, 2.1, 2, 2.1, 2.1]], Check.EMPTY_MASK),
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, Check.EMPTY_MASK),
    ],
    ids=["line", "outside the image", "smaller than a pixel", "empty runs"],
)
def test_an_object_without_a_pixel_is_left_out_and_counted(annotated, segmentation, finding):
    instances, findings = annotated(segmentation=segmentation)
    assert instances == ()
    assert findings == {finding: 1}


def changed(path: tuple, value: object) -> dict:
    """GOOD with the entry at `path` set to `value`, or removed where that is None."""
    content = copy.deepcopy(GOOD)
    target = content
    for key in path[:-1]:
        target = target[key]
    if value is None:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("images",), None, r"there is no list 'images'"),
        (("annotations",), {}, r"there is no list 'annotations'"),
        (("categories",), ["cat"], r"an entry of 'categories' is no object"),
        (("annotations", 0, "category_id"), None, r"annotation 11 has no category_id"),
        (("annotations", 0, "image_id"), 8, r"annotation 11 has image id 8, which is not among"),
        (("annotations", 0, "image_id"), None, r"annotation 11 has no image_id"),
        (("annotations", 0, "id"), None, r"annotation \(without id\) has no id"),
        (("images", 0, "file_name"), None, r"image 7 has no file_name"),
        (("images", 0, "file_name"), 5, r"image 7 has file_name 5"),
        (("images", 0, "file_name"), "", r"image 7 has file_name ''"),
        (("images", 0, "file_name"), "a\0.jpg", r"image 7 has file_name 'a.x00\.jpg'"),
        (("images", 0, "id"), [7], r"an image has the id \[7\]"),
        (("images", 0, "height"), 0, r"image 7 has height 0"),
        (("images", 0, "width"), "8", r"image 7 has width '8'"),
        (("categories", 0, "name"), 5, r"category 3 is named 5"),
        (("categories", 0, "id"), True, r"category True is named 'cat'"),
        (("categories", 0, "id"), 90, r"a category id is taken twice"),
        (("images",), GOOD["images"] * 2, r"an image id is taken twice"),
    ],
)
def test_a_broken_file_is_refused_by_name(write, path, value, reason):
    with pytest.raises(UserError, match=rf"instances\.json: {reason}"):
        read(write(changed(path, value)))


@pytest.mark.parametrize(
    ("changes", "check", "reason"),
    [
        ({"category_id": 17}, Check.UNKNOWN_CATEGORY, "has the category 17"),
        ({"category_id": [90]}, Check.UNKNOWN_CATEGORY, r"has the category \[90\]"),
        ({"segmentation": None}, Check.MASK_MISSING, "has no mask"),
        ({"segmentation": []}, Check.MASK_MISSING, "has no mask"),
        (
            {"segmentation": {"size": [WIDTH, HEIGHT], "counts": [48]}},
            Check.MASK_SIZE_SWAPPED,
            r"has size \[8, 6\], and its image is \[6, 8\]",
        ),
        ({"segmentation": {"size": [5, 5], "counts": [25]}}, Check.MASK_SIZE, r"has size \[5, 5\]"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [7]}}, Check.MASK_MALFORMED, "has runs of 7 pixels together"),
        ({"segmentation": [[1, 1, 1e9, 1, 1e9, 3]]}, Check.MASK_MALFORMED, "100000 pixels away"),
        ({"bbox": [1, 2, 3]}, Check.ANNOTATION_MALFORMED, r"bbox is \[1, 2, 3\]"),
        ({"area": "4"}, Check.ANNOTATION_MALFORMED, r"area is \['4'\]"),
        ({"area": -4}, Check.ANNOTATION_MALFORMED, "area is -4"),
        ({"iscrowd": 2}, Check.ANNOTATION_MALFORMED, "iscrowd is 2"),
    ],
)
def test_a_broken_annotation_is_refused_by_id_image_and_code(annotated, changes, check, reason):
    with pytest.raises(BadImageError, match=rf"instances\.json: annotation 11 of image a\.jpg:? ?.*{reason}") as caught:
        annotated(**changes)
    assert caught.value.check == check


@pytest.mark.parametrize("content", ["", "[1, 2", "[]", "7"])
def test_what_is_no_coco_json_is_refused(tmp_path, content):
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"instances\.json: (not JSON|there is no list)"):
        CocoSource(tmp_path, path).list()


def test_wrong_paths_are_named(tmp_path):
    folder = tmp_path
    with pytest.raises(UserError, match=r"absent\.json: the annotations cannot be opened"):
        CocoSource(folder, folder / "absent.json").list()
    with pytest.raises(UserError, match="absent: there is no such folder"):
        CocoSource(folder / "absent", folder / "instances.json").list()


def test_real_faults_are_found_where_their_source_says(shared_data: Path):
    folder = shared_data / "dali_coco" / "db" / "coco"
    source = CocoSource(folder / "images", folder / "instances.json")
    categories, images = read(source)
    findings: Counter[Check] = Counter()
    crowds = objects = 0
    for image in images:
        assert image.size is not None
        instances, found = instances_of(source.objects(image, image.size), image.size, dict.fromkeys(categories, 1))
        findings.update(found)
        objects += len(instances)
        crowds += sum(instance.is_crowd for instance in instances)
    assert (len(images), objects, crowds) == (61, 91 - 3, 4)
    assert findings == {Check.DEGENERATE_POLYGON: 3}
    assert sorted(categories) == list(range(17))
