"""Datasets that the library datumaro itself has written, in several of its formats, on 6 x 8 pixels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from tasks.annotations.coco import CocoSource
from tasks.annotations.cvat import CvatSource
from tasks.annotations.datumaro import DatumaroSource
from tasks.annotations.instances import instances_of
from tasks.coco.masks import mask_from_rle
from tasks.records.checks import BadImageError, Check, DataError
from tasks.running.errors import UserError

datumaro = pytest.importorskip("datumaro", reason="the extra `formats` is not installed")

SIZE = (6, 8)
SQUARE = [1, 1, 3, 1, 3, 3, 1, 3]
BAR = np.zeros(SIZE, bool)
BAR[1:3, 2:7] = True


def dataset(annotations: dict[str, list], subset: str = "train"):
    """One image for each entry, of noise."""
    random = np.random.default_rng(1)
    items = [
        datumaro.DatasetItem(
            name, subset=subset, media=datumaro.Image.from_numpy(random.integers(0, 255, (*SIZE, 3), np.uint8)), annotations=found
        )
        for name, found in annotations.items()
    ]
    return datumaro.Dataset.from_iterable(items, categories=["cat", "dog"])


def exported(folder: Path, kind: str, annotations: dict[str, list]) -> Path:
    dataset(annotations).export(str(folder), kind, save_media=True)
    return folder


def polygon(points: list, label: int, **fields):
    return datumaro.Polygon(points, label=label, **fields)


def read(source: DatumaroSource) -> dict[str, list[tuple]]:
    """Category, mask, box and whether a crowd, of each object by image."""
    listing = source.list()
    found = {}
    for image in listing.images:
        payload = json.loads(json.dumps(image.payload))
        assert image.path.is_file()
        assert image.size in (None, SIZE)
        keys = {key: key for key in listing.categories}
        objects = source.objects(type(image)(image.source_id, image.file_name, image.path, image.size, payload), SIZE)
        instances, _ = instances_of(objects, SIZE, keys)
        found[image.source_id] = [
            (listing.categories[one.category_id], mask_from_rle(one.mask).astype(bool).tolist(), one.box_yxyx, one.is_crowd)
            for one in instances
        ]
    return found


def square(y: int = 1, x: int = 1, other_y: int = 3, other_x: int = 3) -> list:
    pixels = np.zeros(SIZE, bool)
    pixels[y:other_y, x:other_x] = True
    return pixels.tolist()


CAT = ("cat", square(), (1, 1, 3, 3), False)
DOG = ("dog", BAR.tolist(), (1, 2, 3, 7), False)


OBJECTS = {"a": [polygon(SQUARE, 0, id=1, group=1), datumaro.Mask(BAR, label=1, id=2, group=2)], "b": []}


@pytest.mark.parametrize("kind", ["datumaro", "datumaro_binary", "label_me"])
@pytest.mark.parametrize("is_named", [True, False])
def test_what_the_library_writes_is_read(tmp_path, kind, is_named):
    source = DatumaroSource(exported(tmp_path / kind, kind, OBJECTS), kind if is_named else None)
    assert read(source) == {"a": [CAT, DOG], "b": []}
    images = list(source.list().images)
    assert [image.file_name for image in images] == [f"{'Images' if kind == 'label_me' else 'images'}/train/{name}.jpg" for name in "ab"]


def test_objects_without_labels_are_of_the_category_that_is_given(tmp_path):
    """Segment Anything has none; a mask and the box beside it are one object."""
    folder = exported(tmp_path, "segment_anything", OBJECTS)
    with pytest.raises(BadImageError, match="has the category None") as caught:
        read(DatumaroSource(folder, "segment_anything"))
    assert caught.value.check == Check.UNKNOWN_CATEGORY
    assert read(DatumaroSource(folder, "segment_anything", category="thing")) == {"a": [("thing", *CAT[1:]), ("thing", *DOG[1:])]}


def test_parts_of_one_group_and_label_are_one_object(tmp_path):
    far = [4, 3, 6, 3, 6, 5, 4, 5]
    found = read(
        DatumaroSource(
            exported(
                tmp_path,
                "datumaro",
                {
                    "a": [
                        polygon(SQUARE, 0, group=1, attributes={"is_crowd": True}),
                        datumaro.Bbox(1, 1, 5, 4, label=0, group=1),
                        polygon(far, 0, group=1),
                        polygon(SQUARE, 1, group=1),  # another label, so another object
                        polygon(SQUARE, 0),
                        polygon(far, 0),  # no group
                        datumaro.Mask(BAR, label=1, group=2),
                        polygon(far, 1, group=2),
                        datumaro.Label(0),
                        datumaro.Caption("two cats"),
                    ]
                },
            )
        )
    )
    both = (np.array(square()) | square(3, 4, 5, 6)).tolist()
    assert found == {
        "a": [
            ("cat", both, (1, 1, 5, 6), True),
            ("dog", *CAT[1:]),
            CAT,
            ("cat", square(3, 4, 5, 6), (3, 4, 5, 6), False),
            ("dog", (BAR | square(3, 4, 5, 6)).tolist(), (1, 2, 5, 7), False),
        ]
    }


def test_outlines_in_hundredths_of_a_pixel_cover_the_pixels_that_they_were_drawn_on(tmp_path):
    """The library keeps float32, by which 2.30 is less, and ends on another pixel for pycocotools."""
    random = np.random.default_rng(4)
    outlines = [np.round(random.random(8) * 5 + 0.5, 2).tolist() for _ in range(40)]
    folder = exported(tmp_path, "datumaro", {"a": [polygon(outline, 0) for outline in outlines]})
    (image,) = DatumaroSource(folder).list().images
    assert [one["polygons"] for one in image.payload] == [[outline] for outline in outlines]


def test_an_ellipse_covers_the_pixels_whose_centres_are_in_it(tmp_path):
    folder = exported(tmp_path, "datumaro", {"a": [datumaro.Ellipse(0.9, 1.8, 7.1, 4.2, label=0)]})
    ((name, mask, _, _),) = read(DatumaroSource(folder))["a"]
    y, x = np.mgrid[0.5:6, 0.5:8]
    assert name == "cat"
    assert mask == (((x - 4) / 3.1) ** 2 + ((y - 3) / 1.2) ** 2 < 1).tolist()


@pytest.mark.parametrize(
    "annotation",
    [
        datumaro.Bbox(1, 1, 2, 2, label=0),
        datumaro.PolyLine([1, 1, 3, 3], label=0),
        datumaro.Points([1, 1], label=0),
    ],
    ids=lambda annotation: annotation.type.name,
)
def test_what_has_no_area_is_an_object_without_a_mask(tmp_path, annotation):
    folder = exported(tmp_path, "datumaro", {"a": [annotation]})
    with pytest.raises(BadImageError, match=rf"a: annotations\[0\] \({annotation.type.name}\) has no mask") as caught:
        read(DatumaroSource(folder))
    assert caught.value.check == Check.MASK_MISSING


def test_a_mask_of_another_size_is_told(tmp_path):
    folder = exported(tmp_path, "datumaro", {"a": [datumaro.Mask(BAR.T, label=0)]})
    with pytest.raises(BadImageError, match=r"its mask has size \[8, 6\]") as caught:
        read(DatumaroSource(folder))
    assert caught.value.check == Check.MASK_SIZE_SWAPPED


def test_subsets(tmp_path):
    both = dataset({"a": [polygon(SQUARE, 0)]})
    both.update(dataset({"a": [], "b": []}, "val"))
    both.export(str(tmp_path), "datumaro", save_media=True)
    assert read(DatumaroSource(tmp_path)) == {"train/a": [CAT], "val/a": [], "val/b": []}
    assert read(DatumaroSource(tmp_path, subset="val")) == {"a": [], "b": []}
    with pytest.raises(DataError, match="it has no subset 'test'") as caught:
        DatumaroSource(tmp_path, subset="test").list()
    assert "train, val" in caught.value.fix


def test_a_missing_image_is_listed_where_it_should_be(tmp_path):
    folder = exported(tmp_path, "datumaro", OBJECTS)
    (folder / "images" / "train" / "a.jpg").unlink()
    first, _ = DatumaroSource(folder).list().images
    assert not first.path.exists()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"{", "the library datumaro cannot read it: (?!Failed to import dataset).+"),
        (b'{"categories": {}}', "the library datumaro cannot read it: .*items"),
        (b'{"categories": {}, "items": [{"id": "a", "annotations": [{"type": "polygon"}]}]}', "the library datumaro cannot read it"),
    ],
)
def test_a_broken_file_is_refused_with_the_librarys_reason(tmp_path, broken, reason):
    folder = exported(tmp_path, "datumaro", OBJECTS)
    (folder / "annotations" / "train.json").write_bytes(broken)
    with pytest.raises(DataError, match=reason) as caught:
        read(DatumaroSource(folder, "datumaro"))
    assert caught.value.check == Check.SOURCE_MALFORMED


def test_what_the_library_does_not_recognise_is_told(tmp_path):
    with pytest.raises(DataError, match="absent: there is no such folder"):
        DatumaroSource(tmp_path / "absent").list()
    (tmp_path / "note.md").write_text("nothing")
    with pytest.raises(DataError, match="the library datumaro knows no such format") as caught:
        DatumaroSource(tmp_path).list()
    assert "label_me" in caught.value.fix
    with pytest.raises(UserError, match="reader is 'labelme'") as caught:
        DatumaroSource(tmp_path, "labelme").list()
    assert "`label_me`" in caught.value.fix
    with pytest.raises(UserError, match="is a URL") as caught:
        DatumaroSource(UPath("memory://set")).list()


def test_our_own_readers_are_named_where_there_is_one(tmp_path):
    with pytest.raises(UserError, match="cvat is a format that needs no library") as caught:
        DatumaroSource(tmp_path, "cvat").list()
    assert "`format: cvat`" in caught.value.fix


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datumaro", None)
    with pytest.raises(UserError, match="needs the library of that name") as caught:
        DatumaroSource(tmp_path).list()
    assert "maskline[formats]" in caught.value.fix


def test_the_library_is_loaded_for_its_format_only():
    asked = "import sys, tasks.materialize; print('datumaro' in sys.modules, 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout == "False False\n"


@pytest.mark.parametrize("kind", ["cvat", "datumaro", "label_me"])
def test_cocos_own_objects_come_back_to_the_pixel_through_other_formats(shared_data, tmp_path, kind):
    """815 objects of 80 photographs, which the library reads from COCO's JSON and writes as another tool's."""
    images, annotations = shared_data / "coco_tiny" / "val2017", shared_data / "coco_tiny" / "annotations" / "instances_val2017.json"
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "annotations" / "instances_val.json").write_bytes(annotations.read_bytes())
    (tmp_path / "coco" / "images").symlink_to(images)
    out = tmp_path / kind
    datumaro.Dataset.import_from(str(tmp_path / "coco"), "coco_instances").export(str(out), kind, save_media=kind == "datumaro")
    source = CvatSource(images, next(out.glob("*.xml"))) if kind == "cvat" else DatumaroSource(out, kind)
    ours, theirs = (masks_by_image(one) for one in (CocoSource(images, annotations), source))
    assert sum(map(len, ours.values())) == 815
    assert theirs == ours


def masks_by_image(source) -> dict[str, list[tuple]]:
    """Category's name and run-length code of each object, in an order of their own."""
    listing = source.list()
    names = dict(enumerate(listing.categories.values(), start=1))
    keys = {key: index for index, key in enumerate(listing.categories, start=1)}
    return {
        Path(image.file_name).stem: sorted(
            (names[one.category_id], one.mask["counts"]) for one in instances_of(source.objects(image, image.size), image.size, keys)[0]
        )
        for image in listing.images
    }
