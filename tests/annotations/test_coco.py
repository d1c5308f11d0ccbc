"""The COCO reader against annotations small enough to check by hand, good and bad."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tasks.annotations.coco import annotate, read_coco_file, shared_category_ids
from tasks.coco.masks import mask_from_rle
from tasks.errors import UserError
from tasks.records.annotated_image import Category, Finding

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
def read(tmp_path: Path):
    """Writes COCO content to a file and reads it."""

    def read_content(content, name="instances.json"):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return read_coco_file(path, tmp_path)

    return read_content


@pytest.fixture
def annotated(read):
    """The only image of GOOD, its annotation changed, and the findings."""

    def annotate_changed(**changes):
        content = copy.deepcopy(GOOD)
        annotation = content["annotations"][0]
        for key, value in changes.items():
            if value is None:
                del annotation[key]
            else:
                annotation[key] = value
        file = read(content)
        return annotate(file.path, file.images[0], shared_category_ids([file]).by_coco_id)

    return annotate_changed


def test_an_instance_keeps_what_the_file_says(annotated):
    image, findings = annotated()
    assert (image.source_id, image.filename, image.height, image.width) == ("7", "a.jpg", HEIGHT, WIDTH)
    (instance,) = image.instances
    assert instance.category_id == 90
    assert instance.box_yxyx == (1, 1, 3, 3)
    assert instance.area == 4
    assert not instance.is_crowd
    assert mask_from_rle(instance.mask).sum() == 4
    assert findings == Counter()


def test_the_area_is_the_files_own_and_the_masks_where_it_has_none(annotated):
    assert annotated(area=5.5)[0].instances[0].area == 5.5
    image, findings = annotated(area=None)
    assert image.instances[0].area == 4
    assert findings == {Finding.AREA_FROM_MASK: 1}


def test_missing_iscrowd_is_no_crowd(annotated):
    assert not annotated(iscrowd=None)[0].instances[0].is_crowd


@pytest.mark.parametrize("segmentation", [[SQUARE], {"size": [HEIGHT, WIDTH], "counts": [7, 2, 4, 2, 33]}], ids=["polygon", "runs"])
def test_a_crowd_is_a_crowd_however_its_mask_is_written(annotated, segmentation):
    (instance,) = annotated(iscrowd=1, segmentation=segmentation)[0].instances
    assert instance.is_crowd
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[1:3, 1:3] = 1
    np.testing.assert_array_equal(mask_from_rle(instance.mask), expected)


@pytest.mark.parametrize(
    ("bbox", "box_yxyx", "finding"),
    [
        ([-1, 1, 4, 2], (1, 0, 3, 3), Finding.BOX_CLIPPED),
        ([1, 1, 100, 100], (1, 1, HEIGHT, WIDTH), Finding.BOX_CLIPPED),
        ([20, 1, 2, 2], (1, 1, 3, 3), Finding.BOX_FROM_MASK),
        ([1, 1, 0, 2], (1, 1, 3, 3), Finding.BOX_FROM_MASK),
        (None, (1, 1, 3, 3), Finding.BOX_FROM_MASK),
    ],
    ids=["left of the image", "beyond the image", "outside", "empty", "missing"],
)
def test_a_box_ends_inside_the_image_and_is_counted(annotated, bbox, box_yxyx, finding):
    image, findings = annotated(bbox=bbox)
    assert image.instances[0].box_yxyx == box_yxyx
    assert findings == {finding: 1}


@pytest.mark.parametrize(
    ("segmentation", "finding"),
    [
        ([[1, 1, 3, 3]], Finding.DEGENERATE_POLYGON),
        ([], Finding.DEGENERATE_POLYGON),
        ([[20, 20, 22, 20, 22, 22]], Finding.EMPTY_MASK),
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, Finding.EMPTY_MASK),
    ],
    ids=["line", "no part", "outside the image", "empty runs"],
)
def test_an_object_without_a_pixel_is_left_out_and_counted(annotated, segmentation, finding):
    image, findings = annotated(segmentation=segmentation)
    assert image.instances == ()
    assert findings == {finding: 1}


def test_sparse_ids_stay(read):
    ids = shared_category_ids([read(GOOD)])
    assert ids.label_map.categories == (Category(3, "cat"), Category(90, "dog"))
    assert ids.label_map.num_classes == 90
    assert not ids.renumbered


def test_ids_from_zero_are_all_renumbered_in_order(read):
    content = copy.deepcopy(GOOD)
    content["categories"] = [{"id": 90, "name": "dog"}, {"id": 0, "name": "cat"}, {"id": 4, "name": "cow"}]
    file = read(content)
    ids = shared_category_ids([file])
    assert ids.label_map.categories == (Category(1, "cat"), Category(2, "cow"), Category(3, "dog"))
    assert ids.by_coco_id == {0: 1, 4: 2, 90: 3}
    assert ids.renumbered
    assert annotate(file.path, file.images[0], ids.by_coco_id)[0].instances[0].category_id == 3


def test_splits_share_one_label_map(read):
    other = copy.deepcopy(GOOD)
    other["categories"].append({"id": 1, "name": "cow"})
    ids = shared_category_ids([read(GOOD), read(other, "other.json")])
    assert ids.label_map.names == {1: "cow", 3: "cat", 90: "dog"}


def test_splits_that_contradict_each_other_are_refused(read):
    other = copy.deepcopy(GOOD)
    other["categories"][0]["name"] = "cow"
    with pytest.raises(UserError, match=r"other\.json: category 3 is 'cow', in another split it is 'cat'"):
        shared_category_ids([read(GOOD), read(other, "other.json")])


def test_one_name_for_two_categories_is_refused(read):
    content = copy.deepcopy(GOOD)
    content["categories"][0]["name"] = "dog"
    with pytest.raises(UserError, match=r"instances\.json: 2 categories have the name 'dog'"):
        shared_category_ids([read(content)])


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
        (("annotations", 0, "category_id"), 17, r"annotation 11 has category id 17, which is not among"),
        (("annotations", 0, "category_id"), [90], r"annotation 11 has category id \[90\]"),
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
        (("images",), GOOD["images"] * 2, r"image id 7 is taken twice"),
    ],
)
def test_a_broken_file_is_refused_by_name(read, path, value, reason):
    with pytest.raises(UserError, match=rf"instances\.json: {reason}"):
        read(changed(path, value))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"segmentation": None}, "has no segmentation"),
        ({"segmentation": {"size": [WIDTH, HEIGHT], "counts": [48]}}, r"has size \[8, 6\], and its image is \[6, 8\]"),
        ({"bbox": [1, 2, 3]}, r"bbox is \[1, 2, 3\]"),
        ({"area": "4"}, r"area is \['4'\]"),
        ({"area": -4}, "area is -4"),
        ({"segmentation": [[1, 1, 1e9, 1, 1e9, 3]]}, "100000 pixels away"),
        ({"iscrowd": 2}, "iscrowd is 2"),
    ],
)
def test_a_broken_annotation_is_refused_by_id_and_image(annotated, changes, reason):
    with pytest.raises(UserError, match=rf"instances\.json: annotation 11 of image a\.jpg:? ?.*{reason}"):
        annotated(**changes)


@pytest.mark.parametrize("content", ["", "[1, 2", "[]", "7"])
def test_what_is_no_coco_json_is_refused(tmp_path, content):
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"instances\.json: (not JSON|there is no list)"):
        read_coco_file(path, tmp_path)


def test_wrong_paths_are_named(tmp_path, read):
    with pytest.raises(UserError, match=r"absent\.json: the annotations cannot be opened"):
        read_coco_file(tmp_path / "absent.json", tmp_path)
    path = read(GOOD).path
    with pytest.raises(UserError, match="absent: there is no such folder"):
        read_coco_file(path, tmp_path / "absent")


def test_real_faults_are_found_where_their_source_says(shared_data: Path):
    folder = shared_data / "dali_coco" / "db" / "coco"
    file = read_coco_file(folder / "instances.json", folder / "images")
    ids = shared_category_ids([file])
    findings: Counter[Finding] = Counter()
    objects = crowds = 0
    for image in file.images:
        annotated_image, found = annotate(file.path, image, ids.by_coco_id)
        findings.update(found)
        objects += len(annotated_image.instances)
        crowds += sum(instance.is_crowd for instance in annotated_image.instances)
    assert (len(file.images), objects, crowds) == (61, 91 - 3, 4)
    assert findings == {Finding.DEGENERATE_POLYGON: 3}
    assert ids.renumbered
    assert ids.label_map.num_classes == 17
