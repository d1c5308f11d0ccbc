"""VGG Image Annotator's JSON in its three forms, on 6 x 8 pixels."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tasks.annotations.instances import instances_of
from tasks.annotations.via import ViaSource
from tasks.coco.masks import rle_area, rle_extent_yxyx
from tasks.records.checks import BadImageError, Check
from tasks.running.errors import UserError
from tests.annotations.files import write

SIZE = (6, 8)
SQUARE = {"name": "polygon", "all_points_x": [1, 3, 3, 1], "all_points_y": [1, 1, 3, 3]}
BAR = {"name": "rect", "x": 2, "y": 1, "width": 5, "height": 2}


def region(shape: dict, **attributes) -> dict:
    return {"shape_attributes": shape, "region_attributes": attributes}


def entry(name: str, regions: Any) -> dict:
    return {"filename": name, "size": 12345, "regions": regions, "file_attributes": {}}


@pytest.fixture
def source(folder):
    """Writes the content of a JSON and gives the source of it."""

    def of_content(content: object, **fields) -> ViaSource:
        write(folder / "via.json", json.dumps(content).encode())
        return ViaSource(folder / "images", folder / "via.json", **fields)

    return of_content


def read(source: ViaSource) -> dict[str, list[tuple]]:
    """Category, pixels and extent of each object by image."""
    listing = source.list()
    found = {}
    for image in listing.images:
        objects = list(source.objects(image, SIZE))
        instances, _ = instances_of(objects, SIZE, dict.fromkeys(listing.categories, 1))
        masks = [instance.mask for instance in instances]
        found[image.file_name] = [(one.category, rle_area(mask), rle_extent_yxyx(mask)) for one, mask in zip(objects, masks, strict=True)]
    return found


VERSION_1 = {"b.jpg12345": entry("b.jpg", {"0": region(SQUARE, kind="cat"), "1": region(BAR, kind="ant")}), "a.jpg9": entry("a.jpg", {})}
VERSION_2 = {"b.jpg12345": entry("b.jpg", [region(SQUARE, kind="cat"), region(BAR, kind="ant")]), "a.jpg9": entry("a.jpg", [])}
PROJECT = {"_via_settings": {}, "_via_img_metadata": VERSION_2, "_via_attributes": {"region": {"kind": {"type": "text"}}, "file": {}}}


@pytest.mark.parametrize("content", [VERSION_1, VERSION_2, PROJECT], ids=["version 1", "version 2", "project"])
def test_all_forms_say_the_same(source, folder, content):
    made = source(content)
    listing = made.list()
    assert list(listing.categories.items()) == [("ant", "ant"), ("cat", "cat")]
    first = next(listing.images)
    assert (first.source_id, first.path, first.size) == ("b.jpg", folder / "images" / "b.jpg", None)
    assert json.loads(json.dumps(first.payload)) == [["cat", SQUARE], ["ant", BAR]]
    assert read(made) == {"b.jpg": [("cat", 4, (1, 1, 3, 3)), ("ant", 10, (1, 2, 3, 7))], "a.jpg": []}


def test_circles_and_ellipses(source):
    circle = {"name": "circle", "cx": 4, "cy": 3, "r": 2}
    ellipse = {"name": "ellipse", "cx": 4, "cy": 3, "rx": 3.1, "ry": 1.2}
    turned = {**ellipse, "theta": math.pi / 2}
    content = {"a": entry("a.jpg", [region(shape, kind="cat") for shape in (circle, ellipse, turned)])}
    # Centres within the ellipse: in rows 2 and 3 up to 3.1 * sqrt(1 - (0.5 / 1.2) ** 2) = 2.8 from x = 4, so 2.5 and 6 pixels.
    assert read(source(content)) == {"a.jpg": [("cat", 12, (1, 2, 5, 6)), ("cat", 12, (2, 1, 4, 7)), ("cat", 12, (0, 3, 6, 5))]}


def test_the_attribute_is_named_where_there_are_several(source):
    content = {"a": entry("a.jpg", [region(SQUARE, kind="cat", colour="black")])}
    with pytest.raises(UserError, match=r"via\.json: the regions have the attributes colour, kind") as caught:
        source(content).list()
    assert "`category_attribute`" in caught.value.fix
    assert source(content, category_attribute="colour").list().categories == {"black": "black"}


def test_a_wrong_attribute_is_told_with_those_that_are_there(source):
    content = {"a": entry("a.jpg", [region(SQUARE, kind="cat", colour="black")])}
    with pytest.raises(UserError, match=r"no region has the attribute 'kinds' of `category_attribute`; they have colour, kind\n.*`kind`"):
        source(content, category_attribute="kinds").list()
    with pytest.raises(UserError, match=r"; they have none\n.*leave `category_attribute` out"):
        source({"a": entry("a.jpg", [region(SQUARE)])}, category_attribute="kind").list()
    assert source({"a": entry("a.jpg", [])}, category_attribute="kind").list().categories == {}


def test_numbers_as_text_and_windows_paths_are_mended_and_counted(source, folder):
    made = source({"a": entry("sub\\a.jpg", [region({**SQUARE, "all_points_x": ["1", 3, 3, 1]}, kind="3"), region(BAR, kind="3")])})
    (image,) = made.list().images
    assert (image.path, image.findings) == (folder / "images" / "sub" / "a.jpg", (Check.PATH_SEPARATORS,))
    assert [one.findings for one in made.objects(image, SIZE)] == [(Check.NUMBER_AS_TEXT,), ()]
    assert read(made) == {"sub/a.jpg": [("3", 4, (1, 1, 3, 3)), ("3", 10, (1, 2, 3, 7))]}


@pytest.mark.parametrize("attributes", [{}, {"kind": "cat"}, {"kind": "cat", "colour": ""}])
def test_one_category_can_be_said_of_all_regions(source, attributes):
    made = source({"a": entry("a.jpg", [region(SQUARE, **attributes), region(BAR)])}, category="balloon")
    assert made.list().categories == {"balloon": "balloon"}
    assert read(made) == {"a.jpg": [("balloon", 4, (1, 1, 3, 3)), ("balloon", 10, (1, 2, 3, 7))]}


def test_regions_without_attributes_need_a_category(source):
    with pytest.raises(UserError, match=r"via\.json: the regions have no attributes") as caught:
        source({"a": entry("a.jpg", [region(SQUARE)])}).list()
    assert "`category`" in caught.value.fix
    assert source({"a": entry("a.jpg", [])}).list().categories == {}


def test_a_category_and_an_attribute_are_one_too_many(source):
    with pytest.raises(UserError, match="both category and category_attribute"):
        source({}, category="cat", category_attribute="kind")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (region(SQUARE), "its category is None"),
        (region(SQUARE, kind=""), "its category is ''"),
        (region(SQUARE, kind={"cat": True}), r"its category is \{'cat': True\}"),
        (5, "its category is None"),
        (region({"name": "point", "cx": 1, "cy": 1}, kind="cat"), "it is a point, which is no shape with an area"),
        (region({}, kind="cat"), "it is a None"),
        (region({**SQUARE, "all_points_x": [1, 2]}, kind="cat"), "it has 2 x and 4 y"),
        (region({**SQUARE, "all_points_x": 1}, kind="cat"), "its coordinates are 1"),
        (region({**BAR, "width": None}, kind="cat"), "it has the coordinate None"),
        (region({"name": "circle", "cx": 1, "cy": 1}, kind="cat"), "it has the coordinate None"),
    ],
)
def test_a_broken_region_is_told_by_file_and_place(source, broken, reason):
    made = source({"a": entry("a.jpg", [region(SQUARE, kind="cat"), broken])})
    with pytest.raises(BadImageError, match=rf"via\.json: a\.jpg: regions\[1\]: {reason}") as caught:
        read(made)
    assert caught.value.check == Check.ANNOTATION_MALFORMED


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"images": [], "annotations": []}, "'images' is no image"),
        ({"a": {"filename": ""}}, "'a' is no image"),
        ({"a": entry("a.jpg", []), "b": entry("a.jpg", [])}, r"a\.jpg is there twice"),
        ({"a": entry("a.jpg", "none")}, r"the regions of a\.jpg are 'none'"),
        ([], "the JSON is no object"),
    ],
)
def test_a_broken_file_is_refused(source, content, reason):
    with pytest.raises(UserError, match=rf"via\.json: {reason}"):
        source(content).list()


def test_a_missing_file_is_named(folder):
    with pytest.raises(UserError, match=r"absent\.json: the annotations cannot be opened"):
        ViaSource(folder, folder / "absent.json").list()


HEADER = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"


def csv_lines(*regions: tuple[str, dict, dict]) -> str:
    """As VIA 2 writes them: JSON in fields whose quotes are doubled."""

    def field(value: dict) -> str:
        return '"' + json.dumps(value).replace('"', '""') + '"'

    return "".join(f'{name},12345,"{{}}",{bool(shape):d},0,{field(shape)},{field(said)}\n' for name, shape, said in regions)


@pytest.mark.parametrize("start", [HEADER, "\ufeff" + HEADER, "#" + HEADER, HEADER.replace("\n", "\r\n")])
def test_a_csv_says_the_same_as_the_json(source, folder, start):
    said = {"kind": "cat"}, {"kind": "ant"}
    write(folder / "via.CSV", (start + csv_lines(("b.jpg", SQUARE, said[0]), ("b.jpg", BAR, said[1]), ("a.jpg", {}, {}))).encode())
    assert read(ViaSource(folder / "images", folder / "via.CSV")) == read(source(VERSION_2))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1,2\n", "there is no column 'filename'"),
        (HEADER + "a.jpg,1,{},1,0,{,{}\n", "Expecting property name"),
        (HEADER + "a.jpg,1\n", "JSON object must be str"),
        ("version https://git-lfs.github.com/spec/v1\nsize 9\n", "it is a Git LFS pointer"),
        (HEADER + '"a.jpg', "unexpected end of data"),
        (HEADER + csv_lines(("", SQUARE, {})), "is no image"),
    ],
)
def test_a_broken_csv_is_refused(folder, text, reason):
    write(folder / "via.csv", text.encode())
    with pytest.raises(UserError, match=rf"via\.csv: .*{reason}"):
        ViaSource(folder, folder / "via.csv").list()
    with pytest.raises(UserError, match=r"absent\.csv: the annotations cannot be opened"):
        ViaSource(folder, folder / "absent.csv").list()
