"""YOLO's segmentation labels in the folders that tools write, on 6 x 8 pixels; numbers by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as pycoco
from upath import UPath

from tasks.annotations.instances import instances_of
from tasks.annotations.yolo import YoloSource
from tasks.coco.masks import mask_from_rle
from tasks.records.checks import BadImageError, Check, DataError
from tasks.running.errors import UserError
from tests.annotations.files import write

SIZE = (6, 8)
SQUARE = "0 0.125 0.1666667 0.375 0.1666667 0.375 0.5 0.125 0.5\n"
"""From pixel (1, 1) to before (3, 3): x in eighths, y in sixths."""
BAR = "1 0.25 0.1666667 0.875 0.1666667 0.875 0.5 0.25 0.5"
NAMES = "names: [cat, dog]\n"


def yaml(folder, text: str, split: str = "train") -> YoloSource:
    write(folder / "data.yaml", text.encode())
    return YoloSource(folder / "data.yaml", split)


def read(source: YoloSource) -> dict[str, list[tuple]]:
    """Category, and first and last pixel (y, x) and number of its pixels, of each object by image."""
    listing = source.list()
    found = {}
    for image in listing.images:
        objects = list(source.objects(image, SIZE))
        instances, _ = instances_of(objects, SIZE, dict.fromkeys(listing.categories, 1))
        masks = [np.argwhere(mask_from_rle(instance.mask)) for instance in instances]
        found[image.source_id] = [
            (listing.categories[one.category], *map(tuple, (pixels[0].tolist(), pixels[-1].tolist())), len(pixels))
            for one, pixels in zip(objects, masks, strict=True)
        ]
    return found


CAT = ("cat", (1, 1), (2, 2), 4)
DOG = ("dog", (1, 2), (2, 6), 10)


@pytest.mark.parametrize(
    ("images", "labels", "train"),
    [
        ("images/train", "labels/train", "images/train"),  # Ultralytics
        ("train/images", "train/labels", "../train/images"),  # Roboflow, whose file lies beside `train` all the same
        ("train/images", "train/labels", "train\\images"),
        ("images/images", "images/labels", "images/images"),  # the last `images` is the one that counts
        ("obj_train_data", "obj_train_data", "[obj_train_data]"),  # CVAT: beside the images
    ],
)
@pytest.mark.parametrize("names", [NAMES, "names: {1: dog, 0: cat}\n", "nc: 2\nnames:\n- cat\n- dog\n"])
def test_labels_are_found_where_each_tool_puts_them(folder, images, labels, train, names):
    for name in ("a.rf.0b1.jpg", "b.PNG", "c.jpg"):
        write(folder / images / name)
    write(folder / labels / "a.rf.0b1.txt", b"\xef\xbb\xbf" + SQUARE.replace("\n", "\r\n").encode() + BAR.encode())
    write(folder / labels / "b.txt")  # empty: as c, which has none
    source = yaml(folder, names + f"train: {train}\nval: elsewhere\n")
    listing = source.list()
    assert listing.categories == {0: "cat", 1: "dog"}
    assert [image.path for image in listing.images] == [folder / images / name for name in ("a.rf.0b1.jpg", "b.PNG", "c.jpg")]
    assert read(source) == {f"{images}/a.rf.0b1": [CAT, DOG], f"{images}/b": [], f"{images}/c": []}


def test_path_is_where_lists_start(folder):
    write(folder / "sets" / "one" / "images" / "a.jpg")
    write(folder / "sets" / "one" / "labels" / "a.txt", SQUARE.encode())
    assert read(yaml(folder, NAMES + "path: sets/one\ntrain: images\n")) == {"images/a": [CAT]}
    # Where it is another machine's, the file's own folder stands in, and that is told.
    moved = yaml(folder, NAMES + "path: /content/sets\ntrain: sets/one/images\n")
    assert read(moved) == {"sets/one/images/a": [CAT]}
    assert moved.list().notes == (f"{folder / 'data.yaml'}: there is no folder /content/sets, its `path`; its own folder stands in",)


def test_a_split_can_be_several_folders_or_a_list_of_files(folder):
    for name in ("a", "b"):
        write(folder / name / "images" / f"{name}.jpg")
        write(folder / name / "labels" / f"{name}.txt", SQUARE.encode())
    assert list(read(yaml(folder, NAMES + "train: [b/images, a/images]\n"))) == ["b/images/b", "a/images/a"]
    write(folder / "train.txt", b"./b/images/b.jpg\r\n\na\\images\\a.jpg\n")
    listed = yaml(folder, NAMES + "train: train.txt\n")
    assert list(read(listed)) == ["b/images/b", "a/images/a"]
    assert [image.findings for image in listed.list().images] == [(), (Check.PATH_SEPARATORS,)]


@pytest.mark.parametrize("key", ["val", "valid", "validation"])
def test_validation_has_several_names(folder, key):
    write(folder / "val" / "images" / "a.jpg")
    write(folder / "val" / "labels" / "a.txt", SQUARE.encode())
    assert read(yaml(folder, NAMES + f"train: elsewhere\n{key}: val/images\n", "val")) == {"val/images/a": [CAT]}


def test_a_folder_with_names_in_a_file_as_label_studio_exports_it(folder):
    write(folder / "images" / "a.jpg")
    write(folder / "labels" / "a.txt", SQUARE.encode())
    write(folder / "classes.txt", b"cat\ndog\n")
    write(folder / "labels" / "classes.txt", b"cat\ndog\n")  # as labelImg has it: no label file
    assert read(YoloSource(images=folder / "images", classes=folder / "classes.txt")) == {"a": [CAT]}
    assert read(YoloSource(images=folder / "images", labels=folder / "labels", categories=("cat",))) == {"a": [CAT]}


def test_a_label_file_without_its_image_is_missed(folder):
    write(folder / "images" / "a.jpg")
    for name in ("a", "b"):
        write(folder / "labels" / f"{name}.txt", SQUARE.encode())
    images = list(YoloSource(images=folder / "images", categories=("cat",)).list().images)
    assert [image.path for image in images] == [folder / "images" / "a.jpg", folder / "images" / "b.jpg"]


def test_images_of_which_none_is_labelled_are_no_negatives(folder):
    write(folder / "images" / "a.jpg")
    with pytest.raises(DataError, match=r"images: none of its 1 images has a label file, such as .*labels/a\.txt") as caught:
        list(YoloSource(images=folder / "images", categories=("cat",)).list().images)
    assert caught.value.check == Check.SOURCE_MISSING


def test_a_line_of_five_words_is_a_box_without_a_mask(folder):
    write(folder / "images" / "a.jpg")
    write(folder / "labels" / "a.txt", b"1 0.5 0.5 0.25 0.5\n")
    source = YoloSource(images=folder / "images", categories=("cat", "dog"))
    (image,) = source.list().images
    (one,) = source.objects(image, SIZE)
    assert (one.category, one.segmentation, one.box_yxyx) == (1, None, (1.5, 3.0, 4.5, 5.0))
    with pytest.raises(BadImageError) as caught:
        instances_of([one], SIZE, {1: 1})
    assert caught.value.check == Check.MASK_MISSING


@pytest.mark.parametrize(
    ("line", "reason", "check"),
    [
        ("0 0.1 0.1 0.2 0.1 0.2", "its class is followed by 5 numbers", Check.ANNOTATION_MALFORMED),
        ("0 0.1 0.1 0.2 0.1 0.2 0.3 0.9", "its class is followed by 7 numbers", Check.ANNOTATION_MALFORMED),
        ("0", "its class is followed by 0 numbers", Check.ANNOTATION_MALFORMED),
        ("cat 0.1 0.1 0.2 0.1 0.2 0.3", "no number: 'cat", Check.ANNOTATION_MALFORMED),
        ("0,0.1,0.1", "no number", Check.ANNOTATION_MALFORMED),
        ("0.5 0.1 0.1 0.2 0.1 0.2 0.3", r"its class is 0\.5", Check.ANNOTATION_MALFORMED),
        ("nan 0.1 0.1 0.2 0.1 0.2 0.3", "its class is nan", Check.ANNOTATION_MALFORMED),
        ("0 nan 0.1 0.2 0.1 0.2 0.3", "no shares", Check.ANNOTATION_MALFORMED),
        ("0 1 1 3 1 3 3 1 3", "no shares", Check.ANNOTATION_MALFORMED),
        ("0 -0.2 0.1 0.2 0.1 0.2 0.3", "no shares", Check.ANNOTATION_MALFORMED),
        ("2 0.1 0.1 0.2 0.1 0.2 0.3", "has the category 2", Check.UNKNOWN_CATEGORY),
        ("-1 0.1 0.1 0.2 0.1 0.2 0.3", "has the category -1", Check.UNKNOWN_CATEGORY),
        ("\xff", "cannot be read: it is no text", Check.ANNOTATION_MALFORMED),
    ],
)
def test_a_broken_line_is_told_by_file_and_number(folder, line, reason, check):
    write(folder / "images" / "a.jpg")
    write(folder / "labels" / "a.txt", (SQUARE + line).encode("latin-1"))
    with pytest.raises(BadImageError, match=rf"a\.txt: .*{reason}|a\.txt: line 2 {reason}") as caught:
        read(YoloSource(images=folder / "images", categories=("cat", "dog")))
    assert caught.value.check == check


def test_a_pointer_of_git_lfs_is_called_so(folder):
    write(folder / "images" / "a.jpg")
    write(folder / "labels" / "a.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(BadImageError, match=r"a\.txt: it is a Git LFS pointer"):
        read(YoloSource(images=folder / "images", categories=("cat",)))


def test_outlines_that_end_just_outside_are_cut_at_the_border(folder):
    write(folder / "images" / "a.jpg")
    write(folder / "labels" / "a.txt", b"0.0 -0.005 0 1.005 0 1.005 0.5 -0.005 0.5\n")
    assert read(YoloSource(images=folder / "images", categories=("cat",))) == {"a": [("cat", (0, 0), (2, 7), 24)]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- a", "no mapping"),
        ("a: [", "not YAML"),
        ("train: images", "names is None"),
        ("train: images\nnames: []", r"names is \[\]"),
        ("train: images\nnames: {1: cat}", "names is"),
        ("train: images\nnames: [cat]\nnc: 2", "nc is 2, and there are 1 names"),
        ("val: images\nnames: [cat]", "it lists no train"),
        ("train: 3\nnames: [cat]", "it lists no train"),
        ("train: images\nnames: [cat]\nkpt_shape: [17, 3]", "its labels are of poses"),
    ],
)
def test_a_broken_description_is_refused(folder, text, reason):
    with pytest.raises(DataError, match=rf"data\.yaml: {reason}") as caught:
        yaml(folder, text).list()
    assert caught.value.check == Check.SOURCE_MALFORMED


def test_what_is_missing_is_named(folder):
    with pytest.raises(DataError, match=r"data\.yaml: the file cannot be read") as caught:
        YoloSource(folder / "data.yaml", "train").list()
    assert caught.value.check == Check.SOURCE_MISSING
    with pytest.raises(DataError, match="absent: the folder cannot be listed") as caught:
        list(yaml(folder, NAMES + "train: absent").list().images)
    assert caught.value.check == Check.SOURCE_MISSING


@pytest.mark.parametrize("keys", [(), ("data",), ("data", "split", "classes"), ("images",), ("images", "classes", "categories")])
def test_fields_that_contradict_each_other_are_refused(folder, keys):
    with pytest.raises(UserError, match="is given"):
        YoloSource(**{key: ("cat",) if key == "categories" else "train" if key == "split" else folder for key in keys})


def test_masks_are_those_that_numpy_and_pycocotools_make_of_the_text(tmp_path: Path):
    random = np.random.default_rng(3)
    height, width = 60, 80
    write(UPath(tmp_path / "images" / "a.png"))
    lines = [f"{index % 2} " + " ".join(f"{share:.6f}" for share in random.random(2 * index + 6)) for index in range(6)]
    write(UPath(tmp_path / "labels" / "a.txt"), "\n".join(lines).encode())
    source = YoloSource(images=tmp_path / "images", categories=("cat", "dog"))
    (image,) = source.list().images
    instances, _ = instances_of(source.objects(image, (height, width)), (height, width), {0: 1, 1: 2})
    for line, instance in zip(lines, instances, strict=True):
        category, *shares = np.fromstring(line, sep=" ")
        points = np.reshape(shares, (-1, 2)) * (width, height)
        (expected,) = pycoco.frPyObjects([points.ravel().tolist()], height, width)
        assert (instance.category_id, instance.mask["counts"]) == (category + 1, expected["counts"])
