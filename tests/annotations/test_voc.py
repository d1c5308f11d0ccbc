"""Pascal VOC's folders: 3 x 4 pixels of two objects, with boxes counted from 1 as in its XML."""

from __future__ import annotations

import numpy as np
import pytest
from upath import UPath

from tasks.annotations.voc import VocSource
from tasks.errors import UserError
from tasks.records.checks import BadImageError, Check
from tests.annotations.files import png, voc_xml, write

SIZE = (3, 4)
NUMBERS = np.array([[1, 1, 255, 2], [1, 255, 2, 2], [0, 0, 0, 0]], np.uint8)
CLASSES = np.array([[15, 15, 255, 8], [15, 255, 8, 8], [0, 0, 0, 0]], np.uint8)
PERSON = ("person", (1, 1, 2, 2), False)
CAT = ("cat", (3, 1, 4, 2), True)


def write_image(folder: UPath, stem: str = "2007_000032", numbers=NUMBERS, classes=CLASSES, xml: bytes | None = None) -> None:
    write(folder / "JPEGImages" / f"{stem}.jpg")
    write(folder / "SegmentationObject" / f"{stem}.png", png(numbers, "P"))
    write(folder / "SegmentationClass" / f"{stem}.png", png(classes, "P"))
    if xml is not None:
        write(folder / "Annotations" / f"{stem}.xml", xml)


def read(source: VocSource) -> list:
    (image,) = source.list().images
    return list(source.objects(image, SIZE))


def test_objects_are_palette_indices_and_void_is_none(folder):
    write_image(folder)
    person, cat = read(VocSource(folder))
    assert (person.category, cat.category) == (15, 8)
    assert person.segmentation.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert cat.segmentation.tolist() == [[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert (person.box_yxyx, person.is_difficult) == (None, False)


def test_the_twenty_classes_are_voc_s_and_others_can_be_given(folder):
    write_image(folder)
    names = VocSource(folder).list().categories
    assert (len(names), names[1], names[8], names[15], names[20]) == (20, "aeroplane", "cat", "person", "tvmonitor")
    assert VocSource(folder, categories=("leaf", "stem")).list().categories == {1: "leaf", 2: "stem"}


def test_boxes_and_difficult_are_the_xmls_in_its_order(folder):
    write_image(folder, xml=voc_xml(PERSON, CAT))
    person, cat = read(VocSource(folder))
    assert (person.box_yxyx, person.is_difficult) == ((0, 0, 2, 2), False)
    assert (cat.box_yxyx, cat.is_difficult) == ((0, 2, 2, 4), True)


@pytest.mark.parametrize("xml", [voc_xml(CAT, PERSON), voc_xml(PERSON), voc_xml()], ids=["another order", "fewer", "none"])
def test_an_xml_of_other_objects_says_nothing(folder, xml):
    write_image(folder, xml=xml)
    assert [(found.box_yxyx, found.is_difficult) for found in read(VocSource(folder))] == [(None, False)] * 2


def test_an_image_set_names_the_images(folder):
    for stem in ("c", "b", "a"):
        write_image(folder, stem)
    write(folder / "ImageSets" / "Segmentation" / "val.txt", b"c\na\n\n")
    assert [image.source_id for image in VocSource(folder, "val").list().images] == ["c", "a"]
    assert [image.source_id for image in VocSource(folder).list().images] == ["a", "b", "c"]
    with pytest.raises(UserError, match=r"train\.txt: the list of images cannot be read"):
        list(VocSource(folder, "train").list().images)


def test_an_image_that_has_gone_is_listed_still(folder):
    write_image(folder)
    (folder / "JPEGImages" / "2007_000032.jpg").unlink()
    write(folder / "JPEGImages" / "2007_000033.jpg")  # without masks, as most of VOC's are
    (image,) = VocSource(folder).list().images
    assert image.path == folder / "JPEGImages" / "2007_000032.jpg"


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (np.where(CLASSES == 8, [[8, 8, 8, 3]], CLASSES), "object 2 has several classes, or none: 3 in 2, 8 in 1 pixels"),
        (np.where(CLASSES == 8, 0, CLASSES), "object 2 has several classes, or none: 0 in 3 pixels"),
    ],
    ids=["two", "background"],
)
def test_an_object_without_one_class_is_a_fault(folder, classes, reason):
    write_image(folder, classes=classes.astype(np.uint8))
    with pytest.raises(BadImageError, match=reason) as caught:
        read(VocSource(folder))
    assert caught.value.check == Check.MASK_VALUES


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (b"<annotation>", "it is no XML"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "it is no XML, or none to trust"),
        (voc_xml(("cat", ("left", 1, 2, 2), False)), "an object's xmin is 'left'"),
        (voc_xml(("cat", (1, "nan", 2, 2), False)), "an object's ymin is 'nan'"),
        (b"<annotation><object><name>cat</name></object></annotation>", "an object's ymin is None"),
    ],
)
def test_a_broken_xml_is_told_by_its_path(folder, xml, reason):
    write_image(folder, xml=xml)
    with pytest.raises(BadImageError, match=rf"2007_000032\.xml: {reason}") as caught:
        read(VocSource(folder))
    assert caught.value.check == Check.ANNOTATION_MALFORMED
