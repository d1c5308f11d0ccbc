"""Pascal VOC's folders: 3 x 4 pixels of two objects, with boxes counted from 1 as in its XML."""

from __future__ import annotations

import numpy as np
import pytest
from upath import UPath

from tasks.annotations.voc import VocSource
from tasks.records.checks import BadImageError, Check
from tasks.running.errors import UserError
from tests.annotations.files import png, voc_xml, write

SIZE = (3, 4)
NUMBERS = np.array([[1, 1, 255, 2], [1, 255, 2, 2], [0, 0, 0, 0]], np.uint8)
CLASSES = np.array([[15, 15, 255, 8], [15, 255, 8, 8], [0, 0, 0, 0]], np.uint8)
PERSON = ("person", (1, 1, 2, 2), False)
CAT = ("cat", (3, 1, 4, 2), True)


def write_image(folder: UPath, stem: str = "2007_000032", numbers=NUMBERS, classes=CLASSES, xml: bytes | None = None, mode="P") -> None:
    write(folder / "JPEGImages" / f"{stem}.jpg")
    write(folder / "SegmentationObject" / f"{stem}.png", png(numbers, mode))
    write(folder / "SegmentationClass" / f"{stem}.png", png(classes, mode))
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
    with pytest.raises(UserError, match=r"train\.txt: the list cannot be read"):
        list(VocSource(folder, "train").list().images)


def test_lists_may_have_flags_blanks_and_windows_paths(folder):
    for stem in ("a", "b 1", "sub/c"):
        write_image(folder, stem)
    write(folder / "ImageSets" / "Segmentation" / "val.txt", "\ufeffa  1\r\nb 1\r\nsub\\c\r\n".encode())
    images = list(VocSource(folder, "val").list().images)
    assert [(image.source_id, image.findings) for image in images] == [("a", ()), ("b 1", ()), ("sub/c", (Check.PATH_SEPARATORS,))]
    assert images[2].path == folder / "JPEGImages" / "sub" / "c.jpg"


def test_an_xml_with_a_byte_order_mark_is_read(folder):
    write_image(folder, xml=b"\xef\xbb\xbf" + voc_xml(PERSON, CAT))
    assert read(VocSource(folder))[0].box_yxyx == (0, 0, 2, 2)


def test_an_image_that_has_gone_is_listed_still(folder):
    write_image(folder)
    (folder / "JPEGImages" / "2007_000032.jpg").unlink()
    write(folder / "JPEGImages" / "2007_000033.jpg")  # without masks, as most of VOC's are
    (image,) = VocSource(folder).list().images
    assert image.path == folder / "JPEGImages" / "2007_000032.jpg"


def colours(indices: np.ndarray, table: dict[int, tuple[int, int, int]]) -> np.ndarray:
    return np.array([[table[value] for value in row] for row in indices.tolist()], np.uint8)


LABELMAP = b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:250,50,83::\ncat:50,183,250::\n"
CVAT_COLOURS = {0: (0, 0, 0), 255: (0, 0, 0), 15: (50, 183, 250), 8: (250, 50, 83)}
"""Class 15 of the test is a cat then, class 8 a dog."""
NUMBER_COLOURS = {0: (0, 0, 0), 255: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0)}


def test_cvats_colours_are_its_label_maps_and_objects_are_the_palettes_places(folder):
    """CVAT's `Segmentation mask 1.1` has no JPEGImages; the images are where they were."""
    write_image(folder, numbers=colours(NUMBERS, NUMBER_COLOURS), classes=colours(CLASSES, CVAT_COLOURS), mode=None)
    write(folder / "labelmap.txt", LABELMAP)
    (folder / "JPEGImages" / "2007_000032.jpg").rename(folder / "2007_000032.jpg")
    source = VocSource(folder, images=folder)
    assert source.list().categories == {1: "dog", 2: "cat"}
    cat, dog = read(source)
    assert (cat.category, dog.category) == (2, 1)
    assert cat.segmentation.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert dog.segmentation.tolist() == [[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]]


def test_a_palettes_colours_are_the_label_maps_where_it_has_them(folder):
    write_image(folder)
    write(folder / "labelmap.txt", b"background:0,0,0::\ncat:50,183,250::\ndog:128,0,64::\n")  # `png` makes all colours (128, 0, 64)
    assert [one.category for one in read(VocSource(folder))] == [2, 2]
    write(folder / "labelmap.txt", b"background:0,0,0::\n" + b"".join(b"c%d:%d,1,1::\n" % (one, one) for one in range(1, 16)))
    assert [one.category for one in read(VocSource(folder))] == [15, 8]


def test_colours_without_a_label_map_are_voc_s_own(folder):
    """Class 15 is (192, 128, 128) there, class 8 (64, 0, 0), the border (224, 224, 192); a colour that it lacks is a fault."""
    own = {0: (0, 0, 0), 255: (224, 224, 192), 15: (192, 128, 128), 8: (64, 0, 0)}
    write_image(folder, numbers=colours(NUMBERS, {**NUMBER_COLOURS, 2: (9, 9, 9)}), classes=colours(CLASSES, own), mode=None)
    assert [one.category for one in read(VocSource(folder))] == [15, 8]
    write_image(folder, classes=colours(CLASSES, CVAT_COLOURS), mode=None, numbers=NUMBERS)
    with pytest.raises(BadImageError, match=r"it has \(50, 183, 250\), \(250, 50, 83\), which no class has\n.*labelmap\.txt"):
        read(VocSource(folder))


@pytest.mark.parametrize("name", ["class_names.txt", "labels.txt", "classes.txt"])
@pytest.mark.parametrize("text", ["_background_\ncat\ndog\n", "__ignore__\n_background_\ncat\ndog\n", "\ufeffcat\r\ndog\r\n"])
def test_a_list_of_names_beside_the_masks_names_the_classes(folder, name, text):
    write_image(folder, classes=np.where(CLASSES == 15, 2, np.where(CLASSES == 8, 1, CLASSES)).astype(np.uint8))
    write(folder / name, text.encode())
    source = VocSource(folder)
    assert source.list().categories == {1: "cat", 2: "dog"}
    assert [one.category for one in read(source)] == [2, 1]


def test_a_list_that_contradicts_what_is_asked_is_refused(folder):
    write_image(folder)
    write(folder / "class_names.txt", b"_background_\ncat\ndog\n")
    assert VocSource(folder, categories=("cat", "dog")).list().categories == {1: "cat", 2: "dog"}
    with pytest.raises(UserError, match=r"class_names\.txt names the classes cat, dog, and `categories` in the dataset's YAML dog, cat"):
        VocSource(folder, categories=("dog", "cat")).list()
    write(folder / "labelmap.txt", LABELMAP)
    with pytest.raises(UserError, match=r"class_names\.txt names the classes cat, dog, and labelmap\.txt beside it dog, cat"):
        VocSource(folder).list()


def test_labelmes_older_folders_of_pictures_are_read(folder):
    write_image(folder)
    for kind in ("SegmentationObject", "SegmentationClass"):
        write(folder / f"{kind}PNG" / "2007_000032.png", (folder / kind / "2007_000032.png").read_bytes())
        (folder / kind / "2007_000032.png").unlink()
        write(folder / kind / "2007_000032.npy")
    assert [one.category for one in read(VocSource(folder))] == [15, 8]


def test_names_that_are_none_of_voc_s_need_a_list(folder):
    write_image(folder, xml=voc_xml(("leaf", (1, 1, 2, 2), False)))
    with pytest.raises(
        BadImageError, match=r"has the objects leaf, which are none of Pascal VOC's twenty classes\n.*`categories`"
    ) as caught:
        read(VocSource(folder))
    assert caught.value.check == Check.UNKNOWN_CATEGORY
    names = tuple(f"class {number}" for number in range(1, 16))
    assert [one.box_yxyx for one in read(VocSource(folder, categories=names))] == [None, None]


def test_masks_of_classes_alone_are_told_to_be_too_little(folder):
    write(folder / "JPEGImages" / "a.jpg")
    write(folder / "SegmentationClass" / "a.png", png(CLASSES, "P"))
    with pytest.raises(
        UserError, match=r"SegmentationObject: the folder of the objects' masks is missing; SegmentationClass alone"
    ) as caught:
        list(VocSource(folder).list().images)
    assert "export instances too" in caught.value.fix


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
