"""Folders as tools write them, without a description: what each is taken for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from upath import UPath

from tasks.annotations.dataset import read_dataset_config
from tasks.annotations.folder_tree import split_of
from tasks.annotations.recognition import description_of, recognise
from tasks.materialize import Effort, materialize
from tasks.preflight import preflight
from tasks.running.errors import UserError
from tests.annotations.files import png, write

COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 6, "width": 8}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 3, 1, 3, 3]], "bbox": [1, 1, 2, 2], "iscrowd": 0}],
    "categories": [{"id": 1, "name": "cat", "isthing": 1}],
}
PANOPTIC = {**COCO, "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": []}]}
LVIS_IMAGE = {"id": 1, "coco_url": "http://images.cocodataset.org/train2017/a.png", "height": 6, "width": 8, "neg_category_ids": []}
LABELME = {"shapes": [], "imagePath": "a.png", "imageHeight": 6, "imageWidth": 8}
VIA = {"a.png9": {"filename": "a.png", "regions": [{"shape_attributes": {}, "region_attributes": {"kind": "cat"}}]}}
CVAT = '<?xml version="1.0"?><annotations><meta/><image id="0" name="a.png" width="8" height="6"/></annotations>'
VOC_XML = "<annotation><filename>a.png</filename></annotation>"
LABEL = b"0 0.125 0.1666667 0.375 0.1666667 0.375 0.5"
BINARY = b"\x00"
HALVES = {"train": 0.8, "val": 0.2}


def files(folder: Path, **contents: object) -> Path:
    """Files by their paths: JSON of what is no bytes and no text."""
    for path, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content) if not isinstance(content, bytes) else ""
        write(UPath(folder / path), content if isinstance(content, bytes) else text.encode())
    return folder


def both(name: str, values: dict) -> dict:
    """The splits of a folder for each."""
    return {"splits": {split: {"format": name, **{key: text.format(split) for key, text in values.items()}} for split in ("train", "val")}}


def one(name: str, **values: object) -> dict:
    return {"source": {"format": name, **values}, "split": HALVES}


FOLDERS = {
    "COCO's own": (
        {
            **{f"{split}2017/a.png": BINARY for split in ("train", "val")},
            **{f"annotations/instances_{split}2017.json": COCO for split in ("train", "val")},
            "annotations/person_keypoints_val2017.json": {**COCO, "annotations": [{**COCO["annotations"][0], "keypoints": []}]},
            "annotations/captions_val2017.json": {"images": [], "annotations": [{"image_id": 1, "caption": "a"}]},
        },
        both("coco", {"images": "{}2017", "annotations": "annotations/instances_{}2017.json"}),
    ),
    "Roboflow's COCO": (
        {
            f"{split}/{name}": content
            for split in ("train", "valid", "test")
            for name, content in (("a.png", BINARY), ("_annotations.coco.json", COCO))
        },
        {
            "splits": {
                split: {"format": "coco", "images": folder, "annotations": f"{folder}/_annotations.coco.json"}
                for split, folder in (("train", "train"), ("val", "valid"), ("test", "test"))
            }
        },
    ),
    "Label Studio's COCO": (
        {"images/a.png": BINARY, "result.json": {**COCO, "images": [{**COCO["images"][0], "file_name": "images\\a.png"}]}},
        one("coco", images=".", annotations="result.json"),
    ),
    "LVIS": (
        {"train2017/a.png": BINARY, **{f"lvis_v1_{split}.json": {**COCO, "images": [LVIS_IMAGE]} for split in ("train", "val")}},
        both("lvis", {"images": ".", "annotations": "lvis_v1_{}.json"}),
    ),
    "panoptic": (
        {
            **{f"{split}2017/a.jpg": BINARY for split in ("train", "val")},
            **{f"annotations/panoptic_{split}2017.json": PANOPTIC for split in ("train", "val")},
            **{f"annotations/panoptic_{split}2017/a.png": BINARY for split in ("train", "val")},
        },
        both("panoptic", {"images": "{}2017", "masks": "annotations/panoptic_{}2017", "annotations": "annotations/panoptic_{}2017.json"}),
    ),
    "LabelMe": ({"a.png": BINARY, "a.json": LABELME}, one("labelme", annotations=".")),
    "LabelMe beside images": (
        {"images/a.png": BINARY, "labels/a.json": {**LABELME, "imagePath": "..\\elsewhere\\a.png"}},
        one("labelme", annotations="labels", images="images"),
    ),
    "LabelMe with the images inside": ({"a.json": {**LABELME, "imageData": "aGVsbG8="}}, one("labelme", annotations=".")),
    "VIA": (
        {
            f"balloon/{split}/{name}": content
            for split in ("train", "val")
            for name, content in (("a.png", BINARY), ("via_region_data.json", VIA))
        },
        both("via", {"images": "balloon/{}", "annotations": "balloon/{}/via_region_data.json"}),
    ),
    "VIA's CSV": (
        {"a.png": BINARY, "via.csv": "filename,file_size,region_shape_attributes\na.png,9,{}\n"},
        one("via", images=".", annotations="via.csv"),
    ),
    "Supervisely": (
        {"meta.json": {"classes": []}, "ds/img/a.png": BINARY, "ds/ann/a.png.json": {"size": {}, "objects": []}},
        one("supervisely", folder="."),
    ),
    "Supervisely with datasets for splits": (
        {
            "p/meta.json": {"classes": []},
            **{f"p/{name}/img/a.png": BINARY for name in ("training", "val", "more")},
            **{f"p/{name}/ann/a.png.json": {"size": {}, "objects": []} for name in ("training", "val")},
        },
        {"splits": {s: {"format": "supervisely", "folder": "p", "dataset": name} for s, name in (("train", "training"), ("val", "val"))}},
    ),
    "CVAT": ({"images/a.png": BINARY, "annotations.xml": CVAT}, one("cvat", images="images", annotations="annotations.xml")),
    "Ultralytics": (
        {
            **{f"images/{split}/a.png": BINARY for split in ("train", "val")},
            **{f"labels/{split}/a.txt": LABEL for split in ("train", "val")},
            "data.yaml": "path: ../datasets/x\ntrain: images/train\nval: images/val\ntest: images/test\nnames: {0: cat}\n",
        },
        both("yolo", {"data": "data.yaml", "split": "{}"}),
    ),
    "Ultralytics' coco8, whose val is train": (
        {"images/train/a.png": BINARY, "labels/train/a.txt": LABEL, "data.yaml": "train: images/train\nval: images/train\nnames: [cat]\n"},
        {**one("yolo", data="data.yaml"), "source": {"format": "yolo", "data": "data.yaml", "split": "train"}},
    ),
    "Label Studio's YOLO": (
        {"images/a.png": BINARY, "labels/a.txt": LABEL, "classes.txt": "cat\n", "notes.json": {"categories": [], "info": {}}},
        one("yolo", images="images", classes="classes.txt"),
    ),
    "VOC": (
        {
            **{f"VOC2012/{folder}/a.png": BINARY for folder in ("JPEGImages", "SegmentationObject", "SegmentationClass")},
            **{f"VOC2012/ImageSets/Segmentation/{name}.txt": "a\n" for name in ("train", "val", "trainval")},
            "VOC2012/Annotations/a.xml": VOC_XML,
        },
        {"splits": {split: {"format": "voc", "folder": "VOC2012", "image_set": split} for split in ("train", "val")}},
    ),
    "VOC without lists": (
        {f"{folder}/a.png": BINARY for folder in ("JPEGImages", "SegmentationObject", "SegmentationClass")},
        one("voc", folder="."),
    ),
    "Pets": (
        {
            "images/a.jpg": BINARY,
            "annotations/trimaps/a.png": BINARY,
            "annotations/xmls/a.xml": VOC_XML,
            "annotations/trainval.txt": "a 1\n",
        },
        {"splits": {split: {"format": "pets", "folder": ".", "split": split} for split in ("train", "val")}},
    ),
    "a folder of masks for each image": (
        {"images/a.jpg": BINARY, "masks/a/0.png": BINARY},
        one("instance_png", images="images", masks="masks", category="object"),
    ),
    "a folder of masks for each category of each image": (
        {"images/a.jpg": BINARY, "masks/a/cat/0.png": BINARY},
        one("instance_png", images="images", masks="masks"),
    ),
    "a folder for each image": (
        {f"stage1_train/{name}/{folder}/{name}.png": BINARY for name in ("a", "b") for folder in ("images", "masks")},
        one("instance_png", images="stage1_train", category="object"),
    ),
    "TFRecords": (
        {
            **{f"pet_faces_{split}.record-0000{index}-of-00002": BINARY for split in ("train", "val") for index in (0, 1)},
            "label_map.pbtxt": "",
        },
        both("tfrecord", {"records": "pet_faces_{}.record-?????-of-00002", "label_map": "label_map.pbtxt"}),
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_what_a_folder_is_taken_for(tmp_path, name):
    contents, expected = FOLDERS[name]
    files(tmp_path, **contents)
    assert recognise(tmp_path).description == expected
    assert read_dataset_config(description_of(tmp_path)).name == tmp_path.name


def test_cityscapes(tmp_path):
    for split in ("train", "val"):
        files(
            tmp_path, **{f"leftImg8bit/{split}/aachen/a_leftImg8bit.png": BINARY, f"gtFine/{split}/aachen/a_gtFine_instanceIds.png": BINARY}
        )
    found = recognise(tmp_path).description["splits"]
    assert found["val"]["categories"][33] == "bicycle"
    assert {split: (source["format"], source["images"], source["masks"]) for split, source in found.items()} == {
        split: ("id_png", f"leftImg8bit/{split}", f"gtFine/{split}") for split in ("train", "val")
    }


def test_what_the_library_knows_is_told_where_we_do_not(tmp_path):
    files(
        tmp_path,
        **{"Annotations/train/a.xml": "<annotation><filename>a.jpg</filename><folder>train</folder></annotation>"},
    )
    files(tmp_path, **{"Images/train/a.jpg": BINARY})
    pytest.importorskip("datumaro", reason="the extra `formats` is not installed")
    assert recognise(tmp_path).description == one("datumaro", folder=".", reader="label_me")


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        ({"readme.txt": "nothing"}, "there are no annotations that are known; looked for JSONs of COCO"),
        ({"a.png": BINARY, "a.json": LABELME, "all.json": COCO}, r"it may be coco \(all\.json\) or labelme \(a\.json\)"),
        ({"a.png": BINARY, "one.json": COCO, "two.json": COCO}, r"one\.json and two\.json are both of no split that is named"),
        ({"a.png": BINARY, "train.json": COCO, "train2.json": COCO}, r"train\.json and train2\.json are both of split 'train'"),
        (
            {"a.png": BINARY, "train.json": COCO, "test.json": COCO},
            r"images of test \(test\.json\), train \(train\.json\), and training reads",
        ),
        ({"all.json": COCO}, r"all\.json: its images are not in "),
        (
            {"images/a.jpg": BINARY, "images/b.jpg": BINARY, "masks/a.png": BINARY},
            "masks has a PNG for each image, and nothing shows whether",
        ),
        ({"train.record": BINARY, "label_map.pbtxt": "", "manifest.json": "{}"}, "it is a materialized dataset"),
    ],
)
def test_what_cannot_be_told_is_said(tmp_path, contents, told):
    with pytest.raises(UserError, match=told) as caught:
        description_of(files(tmp_path, **contents))
    assert caught.value.fix
    assert not (tmp_path / "maskline.yaml").exists()


def test_a_split_that_is_passed_over_is_told(tmp_path):
    contents, _ = FOLDERS["Ultralytics"]
    _, *notes = recognise(files(tmp_path, **contents)).notes
    assert notes == ["data.yaml: `test` has no labels, or the images of another split, and is passed over"]


def test_supervisely_datasets_that_are_no_splits_stay_together(tmp_path):
    names = ("train", "val", "extra")
    files(tmp_path, **{"meta.json": {}, **{f"{name}/ann/a.png.json": {"size": {}, "objects": []} for name in names}})
    assert recognise(tmp_path).description == one("supervisely", folder=".")


def test_hidden_files_do_not_count(tmp_path):
    contents = {"a.png": BINARY, "all.json": COCO, ".old/all.json": COCO, "__MACOSX/._all.json": COCO, ".ipynb_checkpoints/a.json": LABELME}
    assert recognise(files(tmp_path, **contents)).description == one("coco", images=".", annotations="all.json")


def test_the_yaml_is_written_once_and_never_over_a_persons(tmp_path, capsys):
    folder = files(tmp_path / "my set (2)", **{"a.png": BINARY, "all.json": COCO})
    path = description_of(folder)
    assert path == folder / "maskline.yaml"
    assert yaml.safe_load(path.read_text()) == {"name": "my_set_2_", **one("coco", images=".", annotations="all.json")}
    assert f"written to {path}" in capsys.readouterr().out
    path.write_text("mine: true\n")
    assert description_of(folder) == path
    assert path.read_text() == "mine: true\n"
    assert f"is described by {path}" in capsys.readouterr().out
    path.unlink()
    write(UPath(folder / "dataset.yaml"), b"name: own\nsource: {images: ., annotations: all.json}\n")
    assert description_of(folder) == folder / "dataset.yaml"
    write(UPath(folder / "dataset.yaml"), b"names: [cat]\ntrain: images\n")  # Ultralytics'
    assert description_of(folder) == path


def test_what_is_no_folder_is_left_alone(tmp_path):
    assert description_of(tmp_path / "absent.yaml") == tmp_path / "absent.yaml"
    assert description_of(UPath("memory://set")) == UPath("memory://set")


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("annotations/instances_train2017.json", "train"),
        ("valid/_annotations.coco.json", "val"),
        ("Testing/labels", "test"),
        ("train/val.json", "val"),
        ("constraint/trainval.json", None),
        (".", None),
    ],
)
def test_splits_by_name(path, split):
    assert split_of(path) == split


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    files(tmp_path, **{"a.png": BINARY, "all.json": COCO})
    (tmp_path / "all.json").unlink()
    (tmp_path / "all.json").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"all\.json cannot be read: No such file") as caught:
        recognise(tmp_path)
    assert "get the right to read it" in caught.value.fix


def test_where_the_yaml_cannot_be_written_its_text_is_told(tmp_path, monkeypatch):
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("tasks.annotations.recognition.write_text", refuse)
    with pytest.raises(UserError, match=r"maskline\.yaml cannot be written: Permission denied") as caught:
        description_of(files(tmp_path, **{"a.png": BINARY, "all.json": COCO}))
    assert "annotations: all.json" in caught.value.fix


def test_a_pipeline_run_looks_at_the_same_description(tmp_path):
    folder = files(tmp_path / "cats", **{"a.png": BINARY, "all.json": COCO})
    assert preflight(folder, []).summary["dataset"] == "cats"
    assert (folder / "maskline.yaml").is_file()


def test_a_folder_goes_the_whole_way(tmp_path):
    """Three drawings of one square each, as YOLO has them, without a word of description."""
    random = np.random.default_rng(1)
    for split, number in (("train", 2), ("val", 1)):
        for index in range(number):
            pixels = random.integers(0, 255, (6, 8, 3), np.uint8)
            files(tmp_path / "set", **{f"images/{split}/{index}.png": png(pixels), f"labels/{split}/{index}.txt": LABEL})
    files(tmp_path / "set", **{"data.yaml": "train: images/train\nval: images/val\nnames: [cat]\n"})
    result = materialize(tmp_path / "set", tmp_path / "out")
    assert result.summary["images"] == {"train": 2, "val": 1}
    assert result.summary["objects"] == {"train": 2, "val": 1}
    assert materialize(tmp_path / "set", tmp_path / "out", effort=Effort()).status == "skipped"
