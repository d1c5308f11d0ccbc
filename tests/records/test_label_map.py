"""Label maps as people write them, and the ids that the original allows."""

from __future__ import annotations

import pytest

from tasks.records.annotated_image import Category
from tasks.records.label_map import LabelMap, label_map, parse_label_map, print_label_map, read_label_map
from tasks.running.errors import UserError

PET_STYLE = """
# comments are allowed
item {
  id: 2
  name: 'Abyssinian cat'
}
item: { name: "dog" id: 1, display_name: "Dog" }
"""


def test_items_in_any_order_and_style():
    labels = parse_label_map(PET_STYLE, "pets.pbtxt")
    assert labels.categories == (Category(1, "dog"), Category(2, "Abyssinian cat"))
    assert labels.num_classes == 2
    assert labels.names == {1: "dog", 2: "Abyssinian cat"}


def test_the_number_of_classes_counts_gaps():
    assert parse_label_map('item { id: 90 name: "toothbrush" } item { id: 1 name: "person" }', "coco").num_classes == 90


def test_a_named_background_is_left_out():
    assert parse_label_map('item { id: 0 name: "background" } item { id: 1 name: "a" }', "x").categories == (Category(1, "a"),)


def test_the_display_name_stands_in_for_a_missing_name():
    assert parse_label_map('item { id: 1 display_name: "Cat" }', "x").categories == (Category(1, "Cat"),)


@pytest.mark.parametrize("text", ["item { id: '1' name: 'cat' }", 'item {\n  id: "1"\n  name: "cat"\n}', 'item { name: "cat", id:" 1 " }'])
def test_an_id_that_is_text_is_the_number_and_told(capsys, text):
    assert parse_label_map(text, "x.pbtxt").names == {1: "cat"}
    assert capsys.readouterr().out == "x.pbtxt: 1 ids are written as text; they are read as the numbers\n"
    with pytest.raises(UserError, match=r"x\.pbtxt:"):
        parse_label_map('item { id: "one" name: "cat" }', "x.pbtxt")


def test_a_name_that_looks_like_an_id_stays():
    text = """item { id: 1 name: "has id: '2'" }"""
    assert parse_label_map(text, "x").names == {1: "has id: '2'"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_fault(tmp_path, encoding):
    (tmp_path / "x.pbtxt").write_text('item { id: 1 name: "Käfer" }', encoding=encoding)
    assert read_label_map(tmp_path / "x.pbtxt").names == {1: "Käfer"}


def test_fields_we_do_not_use_are_passed_over():
    text = 'item { id: 1 name: "a" frequency: FREQUENT keypoints { id: 3 label: "ear" } }'
    assert parse_label_map(text, "lvis").categories == (Category(1, "a"),)


OPEN_IMAGES = """
item { id: 1 name: "/m/01g317" display_name: "person" }
item { id: 2 name: "NA" }
item { id: 3 name: "NA" display_name: "street sign" }
item { id: 4 name: "/m/0bt9lr" display_name: "dog" }
item { id: 5 name: "dog" display_name: "hot dog" }
"""


def test_a_text_is_a_name_or_else_a_display_name():
    """As in the later original; a name is no other item's display name, and what two items are called means neither."""
    labels = parse_label_map(OPEN_IMAGES, "x")
    assert labels.names == {1: "/m/01g317", 2: "NA (2)", 3: "NA (3)", 4: "/m/0bt9lr", 5: "dog"}
    known = {text: labels.ids.get(text) for text in ("person", "/m/01g317", "NA", "street sign", "dog", "hot dog")}
    assert known == {"person": 1, "/m/01g317": 1, "NA": None, "street sign": 3, "dog": 5, "hot dog": 5}


def test_display_names_and_repeated_names_are_printed_as_they_were():
    labels = parse_label_map(OPEN_IMAGES, "x")
    assert parse_label_map(print_label_map(labels), "x") == labels
    assert print_label_map(labels).count('name: "NA"') == 2


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["without", "with a byte order mark"])
def test_a_label_map_of_a_windows_editor_is_read(tmp_path, mark):
    (tmp_path / "labels.pbtxt").write_bytes(mark + b"item {\r\n  id: 1\r\n  name: 'cat'\r\n}\r\n")
    assert read_label_map(tmp_path / "labels.pbtxt").names == {1: "cat"}


@pytest.mark.parametrize("name", ["cat", 'a "quoted" name', "back\\slash", "Köttbullar", "日本", "two\nlines", "'"])
def test_printed_and_parsed_is_the_same(name):
    labels = LabelMap((Category(1, name), Category(5, "other")))
    assert parse_label_map(print_label_map(labels), "x") == labels


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there are no categories"),
        ('item { id: 0 name: "cat" }', "'cat' has id 0"),
        ('item { id: -1 name: "cat" }', "'cat' has id -1"),
        ('item { name: "cat" }', r"item 0 \('cat'\) has no id"),
        ("item { id: 1 }", "category 1 has no name"),
        ('item { id: 1 name: "a" } item { id: 1 name: "b" }', "2 categories have the id 1"),
        ('item { id: 1 name: "a"', "1:"),
        ('item { id: one name: "a" }', "1:"),
    ],
)
def test_what_is_wrong_is_named(text, reason):
    with pytest.raises(UserError, match=rf"labels\.pbtxt:.*{reason}"):
        parse_label_map(text, "labels.pbtxt")


def test_two_splits_categories_are_sorted():
    assert label_map([Category(9, "b"), Category(2, "a")], "x").categories == (Category(2, "a"), Category(9, "b"))


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.pbtxt: the label map cannot be opened"):
        read_label_map(tmp_path / "absent.pbtxt")
    (tmp_path / "binary.pbtxt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary\.pbtxt: the label map is not text"):
        read_label_map(tmp_path / "binary.pbtxt")
