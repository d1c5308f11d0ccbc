"""All real data, as it is: every set becomes records with the counts that its own SOURCE.md gives, or is refused for what that names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tasks.coco.masks import rle_area
from tasks.materialize import Effort, materialize
from tasks.records.checks import Check, DataError
from tasks.records.example import parse_example
from tasks.records.manifest import Split, read_manifest
from tasks.records.tfrecord import read_shard
from tasks.running.workspace import DatasetDir
from tests.small_dataset import validation_source

UPRIGHT, TURNED = (426, 640), (640, 426)
"""Height and width of the padlock as viewers show it, by its EXIF orientation."""

EDGE_CASES: dict[str, tuple[tuple[int, int], set[Check]]] = {
    "padlock-406986_640_no_exif.jpg": (UPRIGHT, set()),
    "padlock-406986_640_no_orientation.jpg": (UPRIGHT, set()),
    "padlock-406986_640_horizontal.jpg": (UPRIGHT, set()),
    "padlock-406986_640_rotate_90.jpg": (TURNED, {Check.IMAGE_TURNED}),
    "padlock-406986_640_rotate_270.jpg": (TURNED, {Check.IMAGE_TURNED}),
    "padlock-406986_640_mirror_horizontal_rotate_90.jpg": (TURNED, {Check.IMAGE_TURNED}),
    "padlock-406986_640_mirror_horizontal_rotate_270.jpg": (TURNED, {Check.IMAGE_TURNED}),
    "cat-lossy-2184682_640_rotate_90_cw.webp": ((640, 398), {Check.IMAGE_TURNED}),
    "rgb_16bit.tiff": ((123, 321), {Check.IMAGE_SIXTEEN_BIT}),
    "4ch16bpp.png": ((497, 497), {Check.IMAGE_SIXTEEN_BIT, Check.IMAGE_ALPHA}),
    "cat-111793_640_palette_1bit.bmp": ((426, 640), {Check.IMAGE_PALETTE}),
    "cat-1046544_640_bw_bpp1.tiff": ((475, 640), {Check.IMAGE_PALETTE}),
    "cat-300572_640_palette.tiff": ((536, 640), {Check.IMAGE_PALETTE}),
    "cat-3504008_640_gray.tiff": ((425, 640), {Check.IMAGE_REENCODED}),
    "cat-3504008_640.webp": ((425, 640), {Check.IMAGE_REENCODED}),
    "pgm.jpeg": ((423, 640), {Check.IMAGE_MISNAMED, Check.IMAGE_REENCODED}),
    "pbm.png": ((398, 640), {Check.IMAGE_MISNAMED, Check.IMAGE_PALETTE}),
}
REFUSED_EDGE_CASES: dict[str, Check] = {
    "padlock-406986_640_mirror_horizontal.jpg": Check.IMAGE_ORIENTATION,
    "padlock-406986_640_mirror_vertical.jpg": Check.IMAGE_ORIENTATION,
    "padlock-406986_640_rotate_180.jpg": Check.IMAGE_ORIENTATION,
    "rgb_1bit.tiff": Check.IMAGE_UNREADABLE,
    "cat-3449999_640_grayscale_12bit.jpg": Check.IMAGE_UNREADABLE,
    "cat-3504008_640_grayscale_16bit.jpg": Check.IMAGE_EMPTY,
}


def coco(images: Path, annotations: Path) -> dict[str, str]:
    return {"images": str(images), "annotations": str(annotations)}


def materialized(folder: Path, content: dict[str, Any], max_bad: int = 0) -> tuple[DatasetDir, dict[str, Split]]:
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"name": "real", **content}))
    materialize(folder / "dataset.yaml", folder / "out", effort=Effort(max_bad=max_bad))
    dataset = DatasetDir(folder / "out")
    return dataset, dict(read_manifest(dataset.manifest).splits)


def whole(folder: Path, source: dict[str, str]) -> dict[str, Any]:
    """All images in the split `train`; in `val` another image, with an object of the first category."""
    categories = json.loads(Path(source["annotations"]).read_text())["categories"] if "annotations" in source else []
    first = categories[0] if categories else {"id": 1, "name": source["category"]}
    return {"splits": {"train": source, "val": validation_source(folder, first["id"], first["name"])}}


def test_every_set_is_met_here(shared_data: Path):
    known = {"coco_eval_reference", "coco_tiny", "dali_coco", "dsb2018_subset", "fruits_nuts", "image_edge_cases"}
    assert {path.name for path in shared_data.iterdir() if path.is_dir()} == known


def test_coco_is_faultless(shared_data: Path, tmp_path):
    """Four boxes are more than three pixels off their masks, and still cover most of them; areas are the file's own, crowds' too."""
    folder = shared_data / "coco_tiny"
    sources = {split: coco(folder / f"{split}2017", folder / "annotations" / f"instances_{split}2017.json") for split in ("train", "val")}
    _, splits = materialized(tmp_path, {"splits": sources})
    assert {name: (split.images, split.objects, split.crowd_objects) for name, split in splits.items()} == {
        "train": (80, 705, 6),
        "val": (80, 815, 11),
    }
    for split in splits.values():
        assert sum(count > 0 for count in split.objects_per_category.values()) == 80
        assert (split.findings, split.quarantined) == ({}, {})


def test_fruits_and_nuts_are_faultless(shared_data: Path, tmp_path):
    folder = shared_data / "fruits_nuts" / "data"
    _, splits = materialized(tmp_path, whole(tmp_path, coco(folder / "images", folder / "trainval.json")))
    assert splits["train"].images == 18
    assert splits["train"].objects_per_category == {"date": 71, "fig": 41, "hazelnut": 53}
    assert (splits["train"].findings, splits["train"].quarantined) == ({}, {})


def test_lines_for_polygons_and_transparency_are_found(shared_data: Path, tmp_path):
    folder = shared_data / "dali_coco" / "db" / "coco"
    dataset, splits = materialized(tmp_path, whole(tmp_path, coco(folder / "images", folder / "instances.json")))
    assert (splits["train"].images, splits["train"].objects, splits["train"].crowd_objects) == (61, 91 - 3, 4)
    assert splits["train"].findings == {Check.DEGENERATE_POLYGON: 3, Check.IMAGE_ALPHA: 3}
    # Category 0 makes all ids one greater.
    own = {category["id"] + 1: category["name"] for category in json.loads((folder / "instances.json").read_text())["categories"]}
    assert read_manifest(dataset.manifest).label_map.names == own


def test_nuclei_keep_every_pixel(shared_data: Path, tmp_path):
    folder = shared_data / "dsb2018_subset" / "stage1_train"
    dataset, splits = materialized(tmp_path, whole(tmp_path, {"format": "instance_png", "images": str(folder), "category": "nucleus"}))
    assert (splits["train"].images, splits["train"].objects) == (54, 2384)
    # All images have an alpha channel; masks are all that is said of an object.
    assert splits["train"].findings == {Check.BOX_FROM_MASK: 2384, Check.AREA_FROM_MASK: 2384, Check.IMAGE_ALPHA: 54}
    records = [parse_example(record, shard) for shard in splits["train"].shards for record in read_shard(dataset.root / shard)]
    assert max(len(record.instances) for record in records) == 258
    for record in records:
        masks = sorted((folder / record.source_id / "masks").glob("*.png"))
        assert [rle_area(one.mask) for one in record.instances] == [np.count_nonzero(np.asarray(Image.open(mask))) for mask in masks]


def edge_case(folder: Path, name: str, size: tuple[int, int], out: Path) -> Split:
    """The only image to train on, annotated with this (height, width)."""
    (file,) = (folder / "image_edge_cases" / "db").rglob(name)
    image = {"id": 1, "file_name": name, "height": size[0], "width": size[1]}
    square = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]], "area": 100, "bbox": [2, 2, 10, 10]}
    (out / "one.json").write_text(json.dumps({"images": [image], "annotations": [square], "categories": [{"id": 1, "name": "cat"}]}))
    return materialized(out, whole(out, coco(file.parent, out / "one.json")))[1]["train"]


@pytest.mark.parametrize("name", EDGE_CASES)
def test_an_edge_case_is_kept_or_mended(shared_data: Path, tmp_path, name):
    size, checks = EDGE_CASES[name]
    split = edge_case(shared_data, name, size, tmp_path)
    assert (split.images, split.findings) == (1, dict.fromkeys(checks, 1))


@pytest.mark.parametrize("name", REFUSED_EDGE_CASES)
def test_an_edge_case_is_refused(shared_data: Path, tmp_path, name):
    with pytest.raises(DataError) as caught:
        edge_case(shared_data, name, UPRIGHT, tmp_path)
    assert caught.value.check == REFUSED_EDGE_CASES[name]


def test_every_edge_case_has_its_row(shared_data: Path):
    files = [path.name for path in (shared_data / "image_edge_cases" / "db").rglob("*") if path.is_file()]
    assert sorted([*EDGE_CASES, *REFUSED_EDGE_CASES]) == sorted(files)
    assert len(files) == 23


def test_a_reference_without_images_is_refused(shared_data: Path, tmp_path):
    folder = shared_data / "coco_eval_reference"
    source = whole(tmp_path, coco(folder, folder / "instances_val2014_100.json"))
    with pytest.raises(DataError) as caught:
        materialized(tmp_path, source)
    assert caught.value.check == Check.IMAGE_MISSING
    with pytest.raises(DataError, match="split 'train' gets no image"):
        materialized(tmp_path, source, max_bad=100)
