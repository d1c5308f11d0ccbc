"""LabelMe's shapes on 6 x 8 pixels that are counted by hand."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from upath import UPath

from tasks.annotations.instances import instances_of
from tasks.annotations.labelme import LabelMeSource
from tasks.annotations.source import SourceObject
from tasks.coco.masks import mask_from_rle
from tasks.records.checks import BadImageError, Check
from tasks.running.errors import UserError
from tests.annotations.files import LFS_POINTER, png, write

SIZE = (6, 8)
SQUARE = {"label": "cat", "shape_type": "polygon", "points": [[1, 1], [3, 1], [3, 3], [1, 3]], "group_id": None}
"""Pixels 1 and 2 both ways."""
FAR = {"label": "cat", "shape_type": "rectangle", "points": [[7, 5], [5, 4]], "group_id": None}
"""Row 4, columns 5 and 6."""


def drawn(pixels: np.ndarray, x: int, y: int, **changes) -> dict:
    """A mask as LabelMe's brush writes it: its upper left pixel, the lower right one, and a PNG of what lies between."""
    points = [[x, y], [x + pixels.shape[1] - 1, y + pixels.shape[0] - 1]]
    return {"label": "cat", "shape_type": "mask", "points": points, "mask": base64.b64encode(png(pixels)).decode(), **changes}


def write_json(folder: UPath, *shapes: dict, name: str = "a", **changes) -> None:
    content = {"version": "5.4.1", "flags": {}, "imagePath": f"{name}.jpg", "imageData": None, "imageHeight": 6, "imageWidth": 8}
    write(folder / f"{name}.json", json.dumps({**content, "shapes": shapes, **changes}).encode())


def objects(folder: UPath) -> list:
    source = LabelMeSource(folder)
    (image,) = source.list().images
    return list(source.objects(image, SIZE))


def masks(folder: UPath) -> list[np.ndarray]:
    """Of each object, rasterized where all formats are."""
    instances, _ = instances_of(objects(folder), SIZE, {"cat": 1, "dog": 2})
    return [mask_from_rle(instance.mask) for instance in instances]


def on(*pixels: tuple[int, int]) -> np.ndarray:
    """The mask of these pixels, each (y, x)."""
    mask = np.zeros(SIZE, np.uint8)
    for place in pixels:
        mask[place] = 1
    return mask


def test_an_image_is_what_its_json_says(folder):
    write_json(folder, SQUARE, {**FAR, "label": "ant"}, name="b")
    write_json(folder, name="a", imageHeight=None, imageWidth=None)
    write(folder / "a.jpg")
    listing = LabelMeSource(folder).list()
    assert list(listing.categories.items()) == [("ant", "ant"), ("cat", "cat")]
    first, second = listing.images
    assert (first.source_id, first.file_name, first.path, first.size) == ("a", "a.jpg", folder / "a.jpg", None)
    assert (second.source_id, second.size, second.payload) == ("b", SIZE, [SQUARE, {**FAR, "label": "ant"}])


@pytest.mark.parametrize("image_path", ["../images/a.jpg", "..\\images\\a.jpg"])
def test_an_image_lies_where_its_path_leads_or_in_the_folder_that_is_given(folder, image_path):
    write_json(folder / "json", imagePath=image_path)
    (image,) = LabelMeSource(folder / "json").list().images
    assert (image.path, image.file_name) == (folder / "images" / "a.jpg", "a.jpg")
    (image,) = LabelMeSource(folder / "json", folder / "pictures").list().images
    assert image.path == folder / "pictures" / "a.jpg"


def test_polygons_and_rectangles(folder):
    write_json(folder, SQUARE, FAR, {key: value for key, value in SQUARE.items() if key != "shape_type"})
    square = on((1, 1), (1, 2), (2, 1), (2, 2))
    np.testing.assert_array_equal(masks(folder), [square, on((4, 5), (4, 6)), square])


def test_a_circle_goes_through_its_second_point(folder):
    write_json(folder, {**SQUARE, "shape_type": "circle", "points": [[4, 3], [4, 1]]})
    (mask,) = masks(folder)
    # The centres of pixels within 2 of the corner (4, 3): all of 4 x 4 but its corners, whose distance is 2.1.
    expected = np.zeros(SIZE, np.uint8)
    expected[1:5, 2:6] = [[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]]
    np.testing.assert_array_equal(mask, expected)


def test_a_brushed_mask_lies_where_its_box_is(folder):
    write_json(folder, drawn(np.array([[255, 0, 255], [0, 255, 0]], np.uint8), x=5, y=4))
    np.testing.assert_array_equal(masks(folder), [on((4, 5), (4, 7), (5, 6))])


def test_one_label_and_one_group_are_one_object(folder):
    dog = {**FAR, "label": "dog", "group_id": 4}
    write_json(folder, {**SQUARE, "group_id": 4}, dog, {**FAR, "group_id": 4}, SQUARE, {**FAR, "group_id": 5})
    found = objects(folder)
    assert [one.category for one in found] == ["cat", "dog", "cat", "cat"]
    square, far = on((1, 1), (1, 2), (2, 1), (2, 2)), on((4, 5), (4, 6))
    np.testing.assert_array_equal(masks(folder), [square + far, far, square, far])


def test_outlines_and_masks_of_a_group_are_joined(folder):
    write_json(folder, {**SQUARE, "group_id": 1}, drawn(np.ones((2, 1), np.uint8), x=2, y=2, group_id=1))
    np.testing.assert_array_equal(masks(folder), [on((1, 1), (1, 2), (2, 1), (2, 2), (3, 2))])


@pytest.mark.parametrize("kind", ["rectangle", "rotation", "quadrilateral"])
def test_a_rectangle_of_four_corners_may_be_turned(folder, kind):
    """A square on its tip around (4, 3), from corner to corner 4: half of 4 x 4 pixels."""
    write_json(folder, {**SQUARE, "shape_type": kind, "points": [[4, 1], [6, 3], [4, 5], [2, 3]], "direction": 0.785})
    (mask,) = masks(folder)
    (expected,), _ = instances_of([SourceObject("", "cat", [[4, 1, 6, 3, 4, 5, 2, 3]])], SIZE, {"cat": 1})
    np.testing.assert_array_equal(mask, mask_from_rle(expected.mask))
    assert 6 <= mask.sum() <= 10


def test_numbers_that_are_text_are_numbers_and_counted(folder):
    write_json(folder, {**SQUARE, "points": [["1", "1.0"], [3, 1], [3, "3"], [1, 3]]}, imageHeight="6", imageWidth=8)
    (image,) = LabelMeSource(folder).list().images
    assert (image.size, image.findings) == (SIZE, (Check.NUMBER_AS_TEXT,))
    (one,) = objects(folder)
    assert one.findings == (Check.NUMBER_AS_TEXT,)
    np.testing.assert_array_equal(masks(folder), [on((1, 1), (1, 2), (2, 1), (2, 2))])


def test_difficult_shapes_are_marked(folder):
    write_json(folder, {**SQUARE, "difficult": True}, FAR)
    assert [one.is_difficult for one in objects(folder)] == [True, False]


def test_the_image_inside_the_json_stands_in_for_one_that_is_not_there(folder):
    inside, beside = png(np.zeros((*SIZE, 3), np.uint8)), png(np.full((*SIZE, 3), 9, np.uint8))
    write_json(folder, SQUARE, imageData=base64.b64encode(inside).decode())
    source = LabelMeSource(folder)
    (image,) = source.list().images
    assert (image.file_name, image.path, source.image_bytes(image)) == ("a.jpg", folder / "a.json", inside)
    write(folder / "a.jpg", beside)
    (image,) = source.list().images
    assert (image.path, source.image_bytes(image)) == (folder / "a.jpg", beside)


def test_an_image_inside_the_json_that_is_none_is_a_fault(folder):
    write_json(folder, SQUARE, imageData="?")
    source = LabelMeSource(folder)
    (image,) = source.list().images
    with pytest.raises(BadImageError, match=r"a\.json: its imageData is not in base 64"):
        source.image_bytes(image)


def test_files_may_lie_at_any_depth(folder):
    write_json(folder / "labels" / "day", SQUARE)
    write_json(folder / "labels" / "night", {**SQUARE, "label": "dog"}, imagePath="..\\b.jpg")
    listing = LabelMeSource(folder / "labels").list()
    assert list(listing.categories) == ["cat", "dog"]
    day, night = listing.images
    assert (day.source_id, day.path) == ("day/a", folder / "labels" / "day" / "a.jpg")
    assert (night.path, night.findings) == (folder / "labels" / "b.jpg", (Check.PATH_SEPARATORS,))
    (one,) = LabelMeSource(folder / "labels").objects(night, SIZE)
    assert one.where.endswith("night/a.json: shapes[0]")


def test_a_folder_without_a_json_is_told_what_it_holds(folder):
    write(folder / "a.jpg")
    write(folder / "a.txt")
    with pytest.raises(UserError, match=r"there is no JSON of LabelMe in it, but a\.jpg, a\.txt\n.*`format` of their own"):
        LabelMeSource(folder).list()


def test_byte_order_marks_and_pointers(folder):
    write_json(folder, SQUARE)
    (folder / "a.json").write_bytes(b"\xef\xbb\xbf" + (folder / "a.json").read_bytes())
    assert list(LabelMeSource(folder).list().categories) == ["cat"]
    (folder / "a.json").write_bytes(LFS_POINTER.encode())
    with pytest.raises(UserError, match=r"a\.json: it is a Git LFS pointer"):
        LabelMeSource(folder).list()


@pytest.mark.parametrize(
    ("shape", "check", "reason"),
    [
        ({**SQUARE, "shape_type": "line"}, Check.ANNOTATION_MALFORMED, "it is a line, which is no shape with an area"),
        ({**SQUARE, "shape_type": "circle"}, Check.ANNOTATION_MALFORMED, "it is a circle of 4 points instead of 2"),
        ({**SQUARE, "label": ""}, Check.ANNOTATION_MALFORMED, "it has no label"),
        ({**SQUARE, "label": 3}, Check.ANNOTATION_MALFORMED, "it has no label"),
        ({**SQUARE, "group_id": [1]}, Check.ANNOTATION_MALFORMED, r"its group_id is \[1\]"),
        ({**SQUARE, "points": None}, Check.ANNOTATION_MALFORMED, "its points are no list"),
        ({**SQUARE, "points": [[1, 1], [3]]}, Check.ANNOTATION_MALFORMED, "its points are no list"),
        ({**SQUARE, "points": [[1, "one"], [3, 3], [4, 1]]}, Check.ANNOTATION_MALFORMED, "it has the coordinate 'one'"),
        ({**SQUARE, "shape_type": "rotation", "points": [[1, 1], [3, 3]]}, Check.ANNOTATION_MALFORMED, "it is a rotation of 2 points"),
        ({**SQUARE, "shape_type": "rectangle", "points": [[1, 1]]}, Check.ANNOTATION_MALFORMED, "it is a rectangle of 1 points"),
        (drawn(np.ones((2, 2), np.uint8), x=7, y=0), Check.MASK_SIZE, "its mask's box leaves the image"),
        (drawn(np.ones((2, 2), np.uint8), x=0, y=0, points=[[0, 0], [2, 1]]), Check.MASK_SIZE, "the mask is 2 x 2"),
        (drawn(np.full((2, 2), 7, np.uint8), x=0, y=0), Check.MASK_VALUES, "it has the values 7"),
        (drawn(np.ones((2, 2), np.uint8), x=0, y=0, mask="?"), Check.MASK_MALFORMED, "its mask is not in base 64"),
        (drawn(np.ones((2, 2), np.uint8), x=0, y=0, mask="AAAA"), Check.MASK_MALFORMED, "the mask cannot be read: it is no PNG"),
        (drawn(np.ones((2, 2), np.uint8), x=0, y=0, mask=None), Check.MASK_MALFORMED, "its mask is not in base 64"),
    ],
)
def test_a_broken_shape_is_told_by_file_and_place(folder, shape, check, reason):
    write_json(folder, SQUARE, shape)
    with pytest.raises(BadImageError, match=rf"a\.json: shapes\[1\]: ({reason})") as caught:
        objects(folder)
    assert caught.value.check == check


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "the JSON is no object"),
        (b'{"imagePath": "a.jpg"}', "there is no list `shapes`"),
        (b'{"imagePath": "a.jpg", "shapes": ""}', "there is no list `shapes`"),
        (b'{"imagePath": "a.jpg", "shapes": [1]}', "there is no list `shapes`"),
        (b'{"shapes": []}', "imagePath is None"),
    ],
)
def test_a_broken_file_is_refused_by_name(folder, content, reason):
    write(folder / "a.json", content)
    with pytest.raises(UserError, match=rf"a\.json: {reason}"):
        list(LabelMeSource(folder).list().images)
