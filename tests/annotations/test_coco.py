"""The COCO reader against annotations small enough to check by hand, good and bad."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tasks.annotations.coco import CocoSource, _numeric_values
from tasks.annotations.instances import instances_of
from tasks.annotations.source import ListedImage
from tasks.coco.masks import mask_from_rle, rle_area, rle_from_segmentation
from tasks.records.checks import BadImageError, Check
from tasks.running.errors import UserError
from tests.annotations.files import LFS_POINTER

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
        instances, found = instances_of(source.objects(image, (HEIGHT, WIDTH)), (HEIGHT, WIDTH), {key: key for key in categories})
        return instances, Counter(one.check for one in found)

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
        (("images", 0, "file_name"), None, r"image 7 has no file_name"),
        (("images", 0, "file_name"), 5, r"image 7 has file_name 5"),
        (("images", 0, "file_name"), "", r"image 7 has file_name ''"),
        (("images", 0, "file_name"), "a\0.jpg", r"image 7 has file_name 'a.x00\.jpg'"),
        (("images", 0, "id"), [7], r"an image has the id \[7\]"),
        (("images", 0, "height"), 0, r"image 7 has height 0"),
        (("images", 0, "width"), "8 px", r"image 7 has width '8 px'"),
        (("images", 0, "width"), 8.5, r"image 7 has width 8\.5"),
        (("categories", 0, "name"), 5, r"category 3 is named 5"),
        (("categories", 0, "id"), True, r"category True is named 'cat'"),
        (("categories", 0, "id"), 90, r"category id 90 is taken twice, by 'cat' and 'dog'"),
        (("categories", 0, "name"), "dog", r"categories 3 and 90 have both the name 'dog'"),
        (("images",), GOOD["images"] * 2, r"image id 7 is taken twice, by a\.jpg and a\.jpg"),
        (("images",), [*GOOD["images"], {**GOOD["images"][0], "id": "7"}], r"image id 7 is taken twice"),
        (("annotations", 0, "segments_info"), [], r"this is COCO's panoptic JSON"),
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
        ({"category_id": "cow"}, Check.UNKNOWN_CATEGORY, "has the category 'cow'"),
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
        ({"area": "4 px"}, Check.ANNOTATION_MALFORMED, r"area is \['4 px'\]"),
        ({"bbox": [1, 1, "1_0", 2]}, Check.ANNOTATION_MALFORMED, r"bbox is \[1, 1, '1_0', 2\]"),
        ({"bbox": [1, 1, "nan", 2]}, Check.ANNOTATION_MALFORMED, r"bbox is \[1, 1, 'nan', 2\]"),
        ({"segmentation": SQUARE}, Check.MASK_MALFORMED, "its segmentation is one list of numbers, and a list of polygons is expected"),
        ({"segmentation": [[[1, 1], [3, 1], [3, 3]]]}, Check.MASK_MALFORMED, "its segmentation is points in pairs"),
        ({"area": -4}, Check.ANNOTATION_MALFORMED, "area is -4"),
        ({"iscrowd": 2}, Check.ANNOTATION_MALFORMED, "iscrowd is 2"),
    ],
)
def test_a_broken_annotation_is_refused_by_id_image_and_code(annotated, changes, check, reason):
    with pytest.raises(BadImageError, match=rf"instances\.json: annotation 11 of image a\.jpg:? ?.*{reason}") as caught:
        annotated(**changes)
    assert caught.value.check == check


def test_an_annotation_needs_no_id_and_is_told_by_its_place(annotated):
    assert len(annotated(id=None)[0]) == 1
    with pytest.raises(BadImageError, match=r"annotation number 1 of image a\.jpg has the category 17"):
        annotated(id=None, category_id=17)


@pytest.mark.parametrize(
    "changes",
    [
        {"bbox": [1, 1, "2.0", " 2"]},
        {"area": "4"},
        {"iscrowd": "0"},
        {"category_id": "90"},
        {"segmentation": [[*SQUARE[:-1], "3"]]},
        {"segmentation": {"size": ["6", HEIGHT + 2], "counts": [7, "2", 4, 2, 33]}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_numbers_that_are_text_are_numbers_and_counted(annotated, changes):
    (expected,), _ = annotated()
    (instance,), findings = annotated(**changes)
    assert instance == expected
    assert findings == {Check.NUMBER_AS_TEXT: 1}


def test_a_compressed_code_of_digits_is_no_number():
    """`52203` is the runs 5, 2, 2, then 0 + 2 and 3 + 2: 16 pixels, of which 4 are on."""
    code = {"size": [2, 8], "counts": "52203"}
    values, had_text = _numeric_values({"segmentation": code})
    assert (values["segmentation"], had_text) == (code, False)
    mask = rle_from_segmentation(values["segmentation"], 2, 8)
    assert mask is not None
    assert rle_area(mask) == 4


def test_numbers_of_images_and_categories_may_be_text_too(write):
    """Ids that are written differently in the lists are still the same."""
    image = {**GOOD["images"][0], "id": "7", "height": "6", "width": 8.0}
    categories = [{"id": "3", "name": "cat"}, {"id": 90.0, "name": "dog"}]
    source = write({"images": [image], "categories": categories, "annotations": [{**GOOD["annotations"][0], "image_id": 7.0}]})
    listing = source.list()
    (found,) = listing.images
    assert (found.source_id, found.size, found.findings) == ("7", (HEIGHT, WIDTH), (Check.NUMBER_AS_TEXT,))
    assert (listing.categories, listing.findings) == ({3: "cat", 90: "dog"}, {Check.NUMBER_AS_TEXT: 1})
    assert [one.category for one in source.objects(found, found.size)] == [90]


@pytest.mark.parametrize("root", ["dog", "pets"], ids=["of the same name", "of another name"])
def test_a_supercategory_that_no_object_has_is_no_class(write, root):
    categories = [{"id": 0, "name": root, "supercategory": "none"}, {"id": 90, "name": "dog", "supercategory": root}]
    listing = write({**GOOD, "categories": categories}).list()
    assert listing.categories == {90: "dog"}
    assert listing.findings == {Check.CATEGORY_ROOT: 1}
    assert f"category 0 ('{root}') is left out" in listing.notes[0]


def test_a_supercategory_with_objects_and_a_class_without_children_stay(write):
    """COCO's own file calls a person a person's supercategory, and a class may have no object in a split."""
    categories = [
        {"id": 90, "name": "animal", "supercategory": "animal"},
        {"id": 1, "name": "dog", "supercategory": "animal"},
        {"id": 2, "name": "person", "supercategory": "person"},
    ]
    listing = write({**GOOD, "categories": categories}).list()
    assert (listing.categories, listing.findings) == ({90: "animal", 1: "dog", 2: "person"}, {})


def test_a_category_of_null_is_unknown(write):
    source = write({**GOOD, "annotations": [{**GOOD["annotations"][0], "category_id": None}]})
    categories, (image,) = read(source)
    with pytest.raises(BadImageError, match="has the category None"):
        instances_of(source.objects(image, (HEIGHT, WIDTH)), (HEIGHT, WIDTH), {key: key for key in categories})


def test_lvis_says_its_files_by_their_url(write, tmp_path):
    image = {"id": 1, "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg", "height": 6, "width": 8}
    source = write({**GOOD, "images": [image], "annotations": []})
    assert read(source)[1][0].path == tmp_path / "000000000007.jpg"
    (tmp_path / "val2017").mkdir()
    assert read(source)[1][0].path == tmp_path / "val2017" / "000000000007.jpg"


def test_windows_separators_are_read_and_counted(write, tmp_path):
    source = write(changed(("images", 0, "file_name"), "sub\\deep\\a.jpg"))
    (image,) = read(source)[1]
    assert (image.path, image.findings) == (tmp_path / "sub" / "deep" / "a.jpg", (Check.PATH_SEPARATORS,))
    (tmp_path / "sub\\deep\\a.jpg").touch()
    (image,) = read(source)[1]
    assert (image.path.name, image.findings) == ("sub\\deep\\a.jpg", ())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_fault(tmp_path, encoding):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(changed(("categories", 0, "name"), "Käfer"), ensure_ascii=False), encoding=encoding)
    assert read(CocoSource(tmp_path, path))[0] == {3: "Käfer", 90: "dog"}


def test_a_pointer_to_a_large_file_is_called_so(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(LFS_POINTER)
    with pytest.raises(UserError, match=r"instances\.json: it is a Git LFS pointer.*\n.*git lfs pull"):
        CocoSource(tmp_path, path).list()


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
        findings.update(one.check for one in found)
        objects += len(instances)
        crowds += sum(instance.is_crowd for instance in instances)
    assert (len(images), objects, crowds) == (61, 91 - 3, 4)
    assert findings == {Check.DEGENERATE_POLYGON: 3}
    assert sorted(categories) == list(range(17))
