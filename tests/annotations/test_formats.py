"""What a dataset's YAML says of a source, and the source that it becomes."""

from __future__ import annotations

import pytest
from upath import UPath

from tasks.annotations.formats import FORMATS, fields_of, make_source
from tasks.annotations.id_png import IdPngSource
from tasks.annotations.voc import VocSource

FOLDER = UPath("/data/sets")


def test_the_formats_and_the_keys_that_each_must_have():
    assert {name: [key for key, is_required in fields_of(name).items() if is_required] for name in FORMATS} == {
        "coco": ["images", "annotations"],
        "cvat": ["images", "annotations"],
        "datumaro": ["folder"],
        "id_png": ["images", "masks"],
        "instance_png": ["images"],
        "labelme": ["annotations"],
        "lvis": ["images", "annotations"],
        "panoptic": ["images", "annotations", "masks"],
        "pets": ["folder"],
        "supervisely": ["folder"],
        "tfrecord": ["records", "label_map"],
        "via": ["images", "annotations"],
        "voc": ["folder"],
        "yolo": [],
    }


def test_values_become_what_the_fields_are():
    values = {"images": "images", "masks": "/elsewhere", "categories": {24: "person"}, "divisor": 1000, "mask_ending": "_instanceIds"}
    expected = IdPngSource(
        UPath("/data/sets/images"), UPath("/elsewhere"), categories={24: "person"}, divisor=1000, mask_ending="_instanceIds"
    )
    assert make_source("id_png", values, FOLDER) == expected
    voc = make_source("voc", {"folder": "memory://voc", "image_set": None, "categories": ["leaf", "stem"]}, FOLDER)
    assert voc == VocSource(UPath("memory://voc"), categories=("leaf", "stem"))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("coco", {"images": 3}),
        ("voc", {"image_set": 2007}),
        ("voc", {"categories": ["leaf", 2]}),
        ("id_png", {"categories": {"person": 24}}),
        ("id_png", {"categories": {True: "person"}}),
        ("id_png", {"divisor": "1000"}),
        ("id_png", {"ignore": True}),
    ],
)
def test_a_value_of_another_type_is_told_by_its_key(name, values):
    with pytest.raises(ValueError, match=f"{next(iter(values))} is "):
        make_source(name, values, FOLDER)
