"""Every code of docs/checks.md, met on the way from files to records: one image, or one object, that has exactly that fault."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from upath import UPath

from tasks.annotations.catalog import Catalog
from tasks.materialize import Effort, materialize
from tasks.records.checks import Check, DataError, Outcome
from tasks.records.manifest import read_manifest
from tasks.records.tfrecord import read_shard, write_shard
from tasks.running.errors import UserError
from tests.annotations.files import png, write
from tests.small_dataset import change_annotations, files_of, validation_source, write_source

SIZE = (16, 24)
PIXELS = np.random.default_rng(4).integers(0, 256, (*SIZE, 3), np.uint8)
CORNER = [12, 4, 20, 4, 20, 12, 12, 12]
"""A square of 8 x 8, far enough from the image's corner for corners to differ from sizes."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve images in the split `train`; it is number 4 that goes wrong."""
    write_source(tmp_path / "in")
    describe(tmp_path / "in", {"images": "images", "annotations": "all.json"})
    return tmp_path / "in"


def describe(folder: Path, source: dict) -> None:
    splits = {"train": source, "val": validation_source(folder)}
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"name": "tiny", "splits": splits}))


def run(source: Path, out: Path, max_bad: int = 0, **options: Any) -> Any:
    return materialize(source / "dataset.yaml", out, effort=Effort(max_bad=max_bad, **options))


def quarantined(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]


def annotation(**changes: object) -> Callable[[Path], None]:
    """Changes the only object of image 4; None removes a key."""

    def change(content: dict) -> None:
        own = {**content["annotations"][4], **changes}
        content["annotations"][4] = {key: value for key, value in own.items() if value is not None}

    return lambda source: change_annotations(source, change)


def entry(**changes: object) -> Callable[[Path], None]:
    """Changes what the annotations say of image 4."""
    return lambda source: change_annotations(source, lambda content: content["images"][4].update(changes))


def file(content: bytes | None) -> Callable[[Path], None]:
    path = Path("images", "4.png")
    return lambda source: (source / path).unlink() if content is None else (source / path).write_bytes(content)


def saved(name: str, image: Image.Image, **options: Any) -> Callable[[Path], None]:
    """Another file in place of image 4's."""

    def replace(source: Path) -> None:
        image.save(source / "images" / name, **options)
        entry(file_name=name)(source)

    return replace


def turned(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def twice(**changes: object) -> Callable[[Path], None]:
    """Image 4 is listed again, under the id 40, with a copy of its object that is changed."""

    def change(content: dict) -> None:
        content["images"].append({**content["images"][4], "id": 40})
        content["annotations"].append({**content["annotations"][4], "id": 140, "image_id": 40, **changes})

    return lambda source: change_annotations(source, change)


def in_windows_folder(source: Path) -> None:
    (source / "images" / "sub").mkdir()
    (source / "images" / "4.png").rename(source / "images" / "sub" / "4.png")
    entry(file_name="sub\\4.png")(source)


def as_panoptic(source: Path) -> None:
    """The images with a PNG of segments for each, segment 1 on the square; that of image 4 is of stuff."""
    square = np.zeros((*SIZE, 3), np.uint8)
    square[2:12, 2:12, 0] = 1

    def convert(content: dict) -> None:
        content["categories"] = [{**content["categories"][0], "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
        content["annotations"] = [{"image_id": index, "file_name": f"{index}.png", "segments_info": []} for index in range(12)]
        for index, annotation in enumerate(content["annotations"]):
            write(UPath(source / "masks" / f"{index}.png"), png(square * (index < 11)))
            own = {"id": 1, "category_id": 2 if index == 4 else 1, "bbox": [2, 2, 10, 10], "area": 100, "iscrowd": 0}
            annotation["segments_info"] = [own] * (index < 11)

    change_annotations(source, convert)
    describe(source, {"format": "panoptic", "images": "images", "annotations": "all.json", "masks": "masks"})


PICTURE = Image.fromarray(PIXELS)

COUNTED = {
    Check.BOX_CLIPPED: annotation(bbox=[-2, 2, 14, 10]),
    Check.BOX_FROM_MASK: annotation(bbox=None),
    Check.BOX_OFF_MASK: annotation(segmentation=[CORNER], bbox=[12, 4, 20, 12], area=64),
    Check.AREA_FROM_MASK: annotation(area=None),
    Check.IMAGE_TURNED: saved("b.png", Image.fromarray(PIXELS.swapaxes(0, 1).copy()), **turned(6)),
    Check.IMAGE_SIXTEEN_BIT: saved("b.png", Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)),
    Check.IMAGE_PALETTE: saved("b.png", PICTURE.convert("P")),
    Check.IMAGE_CMYK: saved("b.jpg", PICTURE.convert("CMYK")),
    Check.IMAGE_ALPHA: saved("b.png", PICTURE.convert("RGBA")),
    Check.IMAGE_REENCODED: saved("b.bmp", PICTURE),
    Check.IMAGE_GREY: saved("b.png", PICTURE.convert("L")),
    Check.IMAGE_MISNAMED: saved("b.png", PICTURE, format="JPEG"),
    Check.NUMBER_AS_TEXT: annotation(bbox=[2, 2, "10.0", "10.0"]),
    Check.PATH_SEPARATORS: in_windows_folder,
    Check.DEGENERATE_POLYGON: annotation(segmentation=[[2, 2, 12, 12]]),
    Check.EMPTY_MASK: annotation(segmentation={"size": list(SIZE), "counts": [16 * 24]}),
    Check.OBJECT_OUTSIDE: annotation(segmentation=[[30, 2, 40, 2, 40, 12]]),
    Check.STUFF_SEGMENT: as_panoptic,
    Check.DUPLICATE_IMAGE: twice(),
}


@pytest.mark.parametrize("check", COUNTED, ids=str)
def test_what_is_mended_or_left_out_is_counted(source, tmp_path, check):
    COUNTED[check](source)
    run(source, tmp_path / "out")
    split = read_manifest(tmp_path / "out" / "manifest.json").splits["train"]
    assert split.findings == {check: 1}
    assert [line["code"] for line in findings(tmp_path / "out")] == [check]
    assert split.quarantined == {}
    assert quarantined(tmp_path / "out") == []
    loses_its_object = check in (Check.DEGENERATE_POLYGON, Check.EMPTY_MASK, Check.OBJECT_OUTSIDE, Check.STUFF_SEGMENT)
    assert (split.images, split.objects) == (12, 10 if loses_its_object else 11)


def as_mask_files(mask: np.ndarray | None) -> Callable[[Path], None]:
    """The images with a mask file for each but the last; that of image 4 shows `mask`, or is no folder at all."""

    def convert(source: Path) -> None:
        square = np.zeros(SIZE, np.uint8)
        square[2:12, 2:12] = 255
        for index in range(12):
            if index != 4:
                write(UPath(source / "masks" / str(index) / "1.png"), png(square))
            elif mask is not None:
                write(UPath(source / "masks" / "4" / "1.png"), png(mask))
        describe(source, {"format": "instance_png", "images": "images", "masks": "masks", "category": "cat"})

    return convert


def as_records(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """The images as records, of which image 4's is changed."""

    def convert(source: Path) -> None:
        run(source, source / "records")
        shard = source / "records" / "train.record-00000-of-00001"
        write_shard(shard, [change(record) if index == 4 else record for index, record in enumerate(list(read_shard(shard)))])
        describe(source, {"format": "tfrecord", "records": "records/train.record-*", "label_map": "records/label_map.pbtxt"})

    return convert


def findings(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "findings.jsonl").read_text().splitlines()]


OBJECT = "annotation 104 of image 4.png"
DONE = {
    Check.BOX_CLIPPED: (OBJECT, "the box [2.0, -2.0, 12.0, 12.0] becomes [2.0, 0.0, 12.0, 12.0]", 4, 0),
    Check.BOX_FROM_MASK: (OBJECT, "the box is [2.0, 2.0, 12.0, 12.0]", 4, 0),
    Check.BOX_OFF_MASK: (OBJECT, "the box [4.0, 12.0, 16.0, 32.0] becomes [4.0, 12.0, 12.0, 20.0]", 4, 0),
    Check.AREA_FROM_MASK: (OBJECT, "the area is the mask's, 100", 4, 0),
    Check.IMAGE_GREY: ("", Check.IMAGE_GREY.meaning, 4, None),
    Check.NUMBER_AS_TEXT: (OBJECT, Check.NUMBER_AS_TEXT.meaning, 4, 0),
    Check.EMPTY_MASK: (OBJECT, "the object is left out", 4, None),
    Check.OBJECT_OUTSIDE: (OBJECT, "the object is left out", 4, None),
    Check.STUFF_SEGMENT: ("annotation 1 of image 4.png", "the object is left out", 4, None),
    Check.DUPLICATE_IMAGE: ("", "left out: the same as image 4", None, None),
}


@pytest.mark.parametrize("check", DONE, ids=str)
def test_what_was_done_is_listed_with_image_and_object(source, tmp_path, check):
    COUNTED[check](source)
    run(source, tmp_path / "out")
    (line,) = findings(tmp_path / "out")
    name, done, record, index = DONE[check]
    assert (line["done"], line["record"], line["index"]) == (done, record, index)
    assert line["object"].endswith(name)
    assert bool(line["object"]) == bool(name)
    assert (line["split"], line["source"], line["code"], line["outcome"]) == ("train", "train", check, check.outcome)
    assert line["source_id"] == ("40" if check == Check.DUPLICATE_IMAGE else "4")
    assert line["image"] == ("b.png" if check == Check.IMAGE_GREY else "4.png")


def test_findings_are_the_same_for_any_number_of_workers_and_in_parts(source, tmp_path):
    for number in (1, 5, 6):
        (source / "images" / f"{number}.png").write_bytes(b"")
    change_annotations(source, lambda content: [one.pop("bbox") for one in content["annotations"]])
    for workers in (1, 2):
        run(source, tmp_path / str(workers), max_bad=3, shards=3, workers=workers)
    for part in (2, 3), (0, 1), (1, 2):
        run(source, tmp_path / "parts", max_bad=3, shards=3, shard_range=part)
    run(source, tmp_path / "parts", max_bad=3, shards=3)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2") == files_of(tmp_path / "parts")
    lines = findings(tmp_path / "1")
    assert [line["shard"][:18] for line in lines] == sorted(line["shard"][:18] for line in lines)
    assert sorted(line["image"] for line in lines if line["code"] == Check.IMAGE_EMPTY) == ["1.png", "5.png", "6.png"]
    # Of twelve images, one has no object and three are quarantined.
    assert [line["code"] for line in lines].count(Check.BOX_FROM_MASK) == 8
    manifest = read_manifest(tmp_path / "1" / "manifest.json")
    assert (manifest.findings, manifest.quarantined) == ({Check.BOX_FROM_MASK: 8}, {Check.IMAGE_EMPTY: 3})
    assert manifest.digest == run(source, tmp_path / "other", max_bad=3, shards=2).summary["digest"]


def shift(content: dict, objects: int, columns: float) -> None:
    """Moves the boxes of the first objects to the right."""
    for one in content["annotations"][:objects]:
        one["bbox"] = [one["bbox"][0] + columns, *one["bbox"][1:]]


@pytest.mark.parametrize(
    ("objects", "columns", "overruled", "warns"),
    [(1, 8, 1, False), (2, 8, 2, True), (2, 12.5, 2, True), (4, 3, 0, False)],  # of eleven objects
)
def test_many_objects_that_are_wrong_in_one_way_point_to_a_broken_export(source, tmp_path, capsys, objects, columns, overruled, warns):
    change_annotations(source, lambda content: shift(content, objects, columns))
    run(source, tmp_path / "out")
    split = read_manifest(tmp_path / "out" / "manifest.json").splits["train"]
    assert sum(split.overruled.values()) == overruled
    assert ("warning: tiny: train: 18% of all objects have " in capsys.readouterr().out) == warns
    assert bool(split.suspicious) == warns


def test_values_that_a_source_does_not_give_point_to_nothing(source, tmp_path, capsys):
    change_annotations(source, lambda content: [(one.pop("bbox"), one.pop("area")) for one in content["annotations"]])
    run(source, tmp_path / "out")
    split = read_manifest(tmp_path / "out" / "manifest.json").splits["train"]
    assert split.findings == {Check.BOX_FROM_MASK: 11, Check.AREA_FROM_MASK: 11}
    assert (split.overruled, split.suspicious) == ({}, {})
    assert "warning" not in capsys.readouterr().out


def test_codes_have_limits_of_their_own(source, tmp_path):
    for number in (1, 2):
        (source / "images" / f"{number}.png").write_bytes(b"")
    (source / "images" / "7.png").unlink()
    change_annotations(source, lambda content: shift(content, 8, 8))
    limits = {Check.IMAGE_EMPTY.value: 2, Check.BOX_OFF_MASK.value: 5}
    assert run(source, tmp_path / "out", max_bad=1, limits=limits).status == "done"
    assert run(source, tmp_path / "out", max_bad=1, limits=limits).status == "skipped"
    for stricter, message in (
        ({Check.IMAGE_EMPTY.value: 1}, "image-empty is found more than 1 times"),
        ({Check.BOX_OFF_MASK.value: 4}, "box-off-mask"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            run(source, tmp_path / "out", max_bad=1, limits=limits | stricter, shards=2)
        assert caught.value.check == Check.TOO_MANY_BAD
    with pytest.raises(DataError, match=r"7\.png: the image file cannot be opened"):
        run(source, tmp_path / "out", limits=limits)


def large(source: Path) -> None:
    """Image 4 has 30 x 20 = 600 pixels, the others 384."""
    saved("b.png", Image.new("RGB", (30, 20)))(source)
    entry(width=30, height=20)(source)


def test_the_limit_of_an_image_s_size_is_named_and_can_be_set(source, tmp_path, monkeypatch):
    large(source)
    monkeypatch.setenv("MASKLINE_MAX_IMAGE_PIXELS", "599")
    with pytest.raises(DataError, match=r"b\.png: the image is too large: it has 20 x 30 = 600 pixels .* the limit is 599") as caught:
        run(source, tmp_path / "out")
    assert caught.value.check == Check.IMAGE_TOO_LARGE
    assert "set MASKLINE_MAX_IMAGE_PIXELS=600" in caught.value.fix
    assert "tiles" in caught.value.fix
    monkeypatch.setenv("MASKLINE_MAX_IMAGE_PIXELS", "600")
    assert run(source, tmp_path / "out", workers=2, shards=2).summary["images"]["train"] == 12


@pytest.mark.parametrize("value", ["0", "many", "536870912"])
def test_a_limit_that_is_none_is_refused(source, tmp_path, monkeypatch, value):
    monkeypatch.setenv("MASKLINE_MAX_IMAGE_PIXELS", value)
    with pytest.raises(UserError, match=f"MASKLINE_MAX_IMAGE_PIXELS is '{value}'"):
        run(source, tmp_path / "out")


QUARANTINED = {
    Check.IMAGE_MISSING: (file(None), r"4\.png: the image file cannot be opened"),
    Check.IMAGE_EMPTY: (file(b""), r"4\.png: the image file is empty"),
    Check.IMAGE_UNREADABLE: (file(b"no picture"), r"4\.png: the image cannot be read: it is of no known format$"),
    Check.IMAGE_SIZE: (entry(width=25), r"4\.png: the image is 16 x 24 .* annotations say 16 x 25$"),
    Check.IMAGE_SIZE_SWAPPED: (entry(width=16, height=24), r"4\.png: .* annotations say 24 x 16 .*swapped"),
    Check.IMAGE_ORIENTATION: (saved("b.png", PICTURE, **turned(3)), r"b\.png: EXIF orientation 3"),
    Check.IMAGE_FRAMES: (
        saved("b.gif", PICTURE, save_all=True, append_images=[Image.new("RGB", PICTURE.size)]),
        r"b\.gif: the file holds 2 images",
    ),
    Check.IMAGE_MODE: (saved("b.tiff", Image.new("F", PICTURE.size)), r"b\.tiff: pixels of mode F"),
    Check.DUPLICATE_DIFFERS: (twice(segmentation=[CORNER]), r"4\.png: image 40 is the same as image 4, and has other objects"),
    Check.UNKNOWN_CATEGORY: (annotation(category_id=9), r"annotation 104 of image 4\.png has the category 9"),
    Check.MASK_MISSING: (annotation(segmentation=None), r"annotation 104 of image 4\.png has no mask"),
    Check.MASK_MALFORMED: (
        annotation(segmentation={"size": list(SIZE), "counts": [300, 4]}),
        r"annotation 104 .* runs of 304 pixels together; its image has 384",
    ),
    Check.MASK_SIZE: (as_mask_files(np.zeros((16, 25), np.uint8)), r"1\.png: the mask is 16 x 25"),
    Check.MASK_SIZE_SWAPPED: (as_mask_files(np.zeros(SIZE[::-1], np.uint8)), r"1\.png: the mask is 24 x 16"),
    Check.MASK_VALUES: (as_mask_files(PIXELS[..., 0]), r"1\.png: it has the values"),
    Check.ANNOTATION_MALFORMED: (annotation(bbox=[1, 2]), r"annotation 104 of image 4\.png: bbox is \[1, 2\]"),
    Check.RECORD_MALFORMED: (as_records(lambda record: b"\xff\xff"), "not a tf.train.Example"),
}

OTHER_IDS = {Check.DUPLICATE_DIFFERS: "40", Check.RECORD_MALFORMED: "train.record-00000-of-00001:4"}


@pytest.mark.parametrize("check", QUARANTINED, ids=str)
def test_a_bad_image_ends_the_run_or_is_quarantined(source, tmp_path, check):
    spoil, message = QUARANTINED[check]
    spoil(source)
    with pytest.raises(DataError, match=rf"(?m){message}") as caught:
        run(source, tmp_path / "out")
    assert caught.value.check == check
    assert not (tmp_path / "out").exists()

    run(source, tmp_path / "out", max_bad=1)
    (line,) = quarantined(tmp_path / "out")
    assert list(line) == ["split", "source", "source_id", "code", "message", "fix"]
    assert (line["split"], line["source"], line["code"]) == ("train", "train", check)
    assert line["source_id"] == OTHER_IDS.get(check, "4")
    assert re.search(message, line["message"])
    assert line["fix"] == caught.value.fix
    split = read_manifest(tmp_path / "out" / "manifest.json").splits["train"]
    assert split.quarantined == {check: 1}
    assert split.images == (12 if check == Check.DUPLICATE_DIFFERS else 11)


def given_splits(source: Path, images: dict[str, list[int]], categories: dict[str, list] | None = None) -> None:
    """Splits of the named images, an object on each, over the same folder."""
    splits = {}
    for name, numbers in images.items():
        listed = [{"id": number, "file_name": f"{number}.png", "height": 16, "width": 24} for number in numbers]
        own = (categories or {}).get(name, [{"id": 1, "name": "cat"}])
        objects = [{"id": number, "image_id": number, "category_id": 1, "segmentation": [CORNER], "area": 64} for number in numbers]
        (source / f"{name}.json").write_text(json.dumps({"images": listed, "annotations": objects, "categories": own}))
        splits[name] = {"images": "images", "annotations": f"{name}.json"}
    (source / "dataset.yaml").write_text(yaml.safe_dump({"name": "tiny", "splits": splits}))


def test_an_image_of_two_given_splits_stays_in_the_first(source, tmp_path):
    given_splits(source, {"train": [0, 1, 2], "val": [3, 1]})
    with pytest.raises(DataError, match=r"1\.png: an earlier split holds the same image"):
        run(source, tmp_path / "out")
    run(source, tmp_path / "out", max_bad=1)
    (line,) = quarantined(tmp_path / "out")
    assert (line["split"], line["source_id"], line["code"]) == ("val", "1", Check.SPLIT_LEAKAGE)
    splits = read_manifest(tmp_path / "out" / "manifest.json").splits
    assert {name: split.images for name, split in splits.items()} == {"train": 3, "val": 1}
    assert (splits["train"].quarantined, splits["val"].quarantined) == ({}, {Check.SPLIT_LEAKAGE: 1})


def test_shares_by_hash_never_part_copies(source, tmp_path):
    """Each of eleven images has a copy under another name; all copies are left out, none is leaked."""

    def copy_all(content: dict) -> None:
        for index in range(11):
            (source / "images" / f"copy{index}.png").write_bytes((source / "images" / f"{index}.png").read_bytes())
            content["images"].append({**content["images"][index], "id": 50 + index, "file_name": f"copy{index}.png"})
            content["annotations"].append({**content["annotations"][index], "id": 150 + index, "image_id": 50 + index})

    change_annotations(source, copy_all)
    halves = {"source": {"images": "images", "annotations": "all.json"}, "split": {"train": 0.5, "val": 0.5}}
    (source / "dataset.yaml").write_text(yaml.safe_dump({"name": "tiny", **halves}))
    result = run(source, tmp_path / "out")
    assert sum(result.summary["images"].values()) == 12
    assert result.summary["findings"] == {Check.DUPLICATE_IMAGE: 11}


def test_empty_files_are_bad_but_no_copies_of_each_other(source, tmp_path):
    for index in (4, 5):
        (source / "images" / f"{index}.png").write_bytes(b"")
    run(source, tmp_path / "out", max_bad=2)
    assert [(line["source_id"], line["code"]) for line in quarantined(tmp_path / "out")] == [("4", "image-empty"), ("5", "image-empty")]


def test_nothing_shows_that_mask_files_are_of_the_turned_image(source, tmp_path):
    as_mask_files(np.zeros(SIZE, np.uint8))(source)
    path = source / "images" / "4.png"
    Image.fromarray(PIXELS).save(path, **turned(6))
    with pytest.raises(DataError, match=r"4\.png: EXIF orientation 6 .* the annotations do not show") as caught:
        run(source, tmp_path / "out")
    assert caught.value.check == Check.IMAGE_ORIENTATION


def test_a_repeated_point_changes_nothing(source, tmp_path):
    run(source, tmp_path / "plain")
    annotation(segmentation=[[2, 2, 2, 2, 12, 2, 12, 12, 12, 12, 2, 12, 2, 2]])(source)
    run(source, tmp_path / "repeated")
    shard = "train.record-00000-of-00001"
    assert (tmp_path / "plain" / shard).read_bytes() == (tmp_path / "repeated" / shard).read_bytes()


def cut_off(source: Path) -> None:
    as_records(lambda record: record)(source)
    shard = source / "records" / "train.record-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-1])


def not_a_number(source: Path) -> None:
    annotation(area=float("nan"))(source)


FATAL = {
    Check.SOURCE_MISSING: (lambda source: (source / "all.json").unlink(), r"all\.json: the annotations cannot be opened"),
    Check.SOURCE_MALFORMED: (not_a_number, r"(?s)all\.json: not JSON: .*JSON has no NaN"),
    Check.RECORD_DAMAGED: (cut_off, "record 11 is cut off or damaged"),
    Check.DUPLICATE_ID: (entry(id=5), r"all\.json: image id 5 is taken twice, by 4\.png and 5\.png"),
    Check.IMAGE_UNLISTED: (annotation(image_id=99), r"annotation 104 has image id 99, which is not among"),
    Check.CATEGORY_CONFLICT: (
        lambda source: given_splits(source, {"train": [1], "val": [2]}, {"val": [{"id": 1, "name": "dog"}]}),
        "val: category 1 is 'dog', in another split it is 'cat'",
    ),
    Check.SPLIT_EMPTY: (lambda source: given_splits(source, {"train": [1], "val": []}), "split 'val' gets no image"),
    Check.SPLIT_WITHOUT_OBJECTS: (
        lambda source: change_annotations(source, lambda content: [one.update(iscrowd=1) for one in content["annotations"]]),
        r"split 'train' has no object to learn or measure: all 11 are crowds .*\n.*`crowds: objects`",
    ),
    Check.TOO_MANY_BAD: (
        lambda source: [(source / "images" / f"{number}.png").unlink() for number in range(10)],
        r"more than 9 images cannot become records, the last of them: .*9\.png",
    ),
}


@pytest.mark.parametrize("check", FATAL, ids=str)
def test_what_is_wrong_with_a_whole_source_ends_the_run_and_leaves_what_was_there(source, tmp_path, check):
    run(source, tmp_path / "out")
    before = files_of(tmp_path / "out")
    spoil, message = FATAL[check]
    spoil(source)
    with pytest.raises(DataError, match=message) as caught:
        run(source, tmp_path / "out", max_bad=9)
    assert caught.value.check == check
    assert files_of(tmp_path / "out") == before


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(png(255 - PIXELS)), Path.unlink], ids=["written", "removed"])
def test_an_image_that_changes_during_the_run_ends_it(source, tmp_path, monkeypatch, change):
    arrange = Catalog.arrange

    def change_and_arrange(catalog: Catalog, limit: int | None) -> dict[str, int]:
        change(source / "images" / "4.png")
        return arrange(catalog, limit)

    monkeypatch.setattr(Catalog, "arrange", change_and_arrange)
    with pytest.raises(DataError, match=r"4\.png: the file is not what it was") as caught:
        run(source, tmp_path / "out", max_bad=9)
    assert caught.value.check == Check.IMAGE_CHANGED
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("sizes", "outcome"), [((None, SIZE), "left out"), ((SIZE[::-1], SIZE), "quarantined")])
def test_a_copy_whose_size_is_said_otherwise_is_one_where_the_first_is_good(source, tmp_path, sizes, outcome):
    for name, size in zip("ab", sizes, strict=True):
        said = {} if size is None else {"imageHeight": size[0], "imageWidth": size[1]}
        shape = {"label": "cat", "shape_type": "polygon", "points": np.reshape(CORNER, (-1, 2)).tolist()}
        write(source / "labels" / f"{name}.json", json.dumps({"imagePath": f"{name}.png", "shapes": [shape], **said}).encode())
        write(source / "labels" / f"{name}.png", png(PIXELS))
    write(source / "labels" / "c.json", json.dumps({"imagePath": "c.png", "shapes": [shape]}).encode())
    write(source / "labels" / "c.png", png(255 - PIXELS))
    describe(source, {"format": "labelme", "annotations": "labels"})
    run(source, tmp_path / "out", max_bad=2)
    split = read_manifest(tmp_path / "out" / "manifest.json").splits["train"]
    assert split.findings.get("duplicate-image", 0) == (outcome == "left out")
    assert split.quarantined == ({"image-size-swapped": 2} if outcome == "quarantined" else {})


def test_every_code_is_met_here():
    """But for those that only `maskline check` looks for, and what is counted of a whole source, or where an option asks."""
    met = {Outcome.QUARANTINED: {*QUARANTINED, Check.SPLIT_LEAKAGE, Check.IMAGE_TOO_LARGE}, Outcome.FATAL: {*FATAL, Check.IMAGE_CHANGED}}
    for outcome in met:
        assert met[outcome] == {check for check in Check if check.outcome == outcome}
    elsewhere = {Check.IMAGE_HASH, Check.INDEX_STALE, Check.CATEGORY_ROOT, Check.OBJECT_WITHOUT_MASK}
    assert {*COUNTED, *elsewhere} == {check for check in Check if check.outcome in (Outcome.FIXED, Outcome.LEFT_OUT)}


def test_a_split_whose_images_are_all_bad_ends_the_run(source, tmp_path):
    given_splits(source, {"train": [0, 1], "val": [2]})
    (source / "images" / "2.png").unlink()
    with pytest.raises(DataError, match=r"split 'val' gets no image; the first .*2\.png: the image file cannot be opened") as caught:
        run(source, tmp_path / "out", max_bad=1)
    assert "bring the file there" in caught.value.fix
    assert not (tmp_path / "out").exists()


def test_the_quarantine_is_the_same_for_any_number_of_workers(source, tmp_path):
    for number, content in ((1, b""), (4, b"no picture"), (7, b"")):
        (source / "images" / f"{number}.png").write_bytes(content)
    for workers in (1, 2):
        run(source, tmp_path / str(workers), max_bad=3, shards=3, workers=workers)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    with pytest.raises(DataError, match="more than 2 images"):
        run(source, tmp_path / "more", max_bad=2, shards=3, workers=2)
    assert not (tmp_path / "more").exists()


def test_fewer_than_no_bad_images_are_refused(source, tmp_path):
    with pytest.raises(UserError, match="--max-bad is -1"):
        run(source, tmp_path / "out", max_bad=-1)


def test_a_dataset_with_a_quarantine_is_not_good_enough_for_a_stricter_run(source, tmp_path):
    (source / "images" / "4.png").unlink()
    assert run(source, tmp_path / "out", max_bad=1).status == "done"
    assert run(source, tmp_path / "out", max_bad=1).status == "skipped"
    with pytest.raises(DataError, match=r"4\.png: the image file cannot be opened"):
        run(source, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").is_file()
