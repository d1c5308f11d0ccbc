"""Corrections laid over annotations: what the records hold then, what is counted, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pycocotools import mask as pycoco

from tasks.annotations.record_choice import read_options
from tasks.evaluation.image_results import Settings, image_truth
from tasks.materialize import Effort, materialize
from tasks.preflight import preflight
from tasks.records.label_map import read_label_map
from tasks.records.record_set import materialized
from tasks.records.tfrecord import read_shard
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, StepResult
from tests.annotations.files import png, write
from tests.small_dataset import files_of, write_source

SQUARE, MOVED = [2, 2, 12, 2, 12, 12, 2, 12], [8, 2, 18, 2, 18, 12, 8, 12]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve photographs of cats, as `write_source` has them, and a dog on the last, which had nothing."""
    write_source(tmp_path / "in")
    content = json.loads((tmp_path / "in" / "all.json").read_text())
    content["categories"].append({"id": 2, "name": "dog"})
    content["annotations"].append(
        {"id": 200, "image_id": 11, "category_id": 2, "segmentation": [SQUARE], "bbox": [2, 2, 10, 10], "area": 100}
    )
    (tmp_path / "in" / "all.json").write_text(json.dumps(content))
    return tmp_path / "in"


def of_images(source: Path, *names: str) -> dict[str, Any]:
    """The annotations of some of the source's images, as they are."""
    content = json.loads((source / "all.json").read_text())
    images = [one for one in content["images"] if one["file_name"] in names]
    ids = {one["id"] for one in images}
    return content | {"images": images, "annotations": [one for one in content["annotations"] if one["image_id"] in ids]}


def laid_over(source: Path, corrections: dict[str, Any], output: str = "out") -> tuple[StepResult, dict[str, list[tuple[str, list[int]]]]]:
    """The step's result, and of each image the objects in the records: class and mask's extent x, y, width, height."""
    file = source / "corrections.json"
    file.write_text(json.dumps(corrections))
    options = read_options({"corrections": [file]}, "command line", source)
    result = materialize(source / "dataset.yaml", source / output, options)
    return result, objects_of(source / output)


def objects_of(folder: Path) -> dict[str, list[tuple[str, list[int]]]]:
    records = materialized(DatasetDir(folder))
    labels = read_label_map(DatasetDir(folder).label_map)
    found = {}
    for pattern in records.patterns.values():
        for file in sorted(folder.glob(pattern)):
            for record in read_shard(file):
                truth = image_truth(Settings(labels, with_masks=True), record, "here")
                found[truth.file_name] = [
                    (labels.names[labels.categories[category].id], pycoco.toBbox(mask).astype(int).tolist())
                    for category, mask in zip(truth.categories.tolist(), truth.masks or (), strict=True)
                ]
    return found


def test_objects_are_replaced_added_and_removed_by_their_ids(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = materialize(source / "dataset.yaml", source / "before")
    held = objects_of(source / "before")
    changed = of_images(source, "0.png", "1.png", "2.png", "11.png") | {"info": {"maskline": {"source_ids": True, "first_new_id": 201}}}
    by_id = {one["id"]: one for one in changed["annotations"]}
    by_id[100]["category_id"] = 2
    by_id[101] |= {"segmentation": [MOVED], "bbox": [8, 2, 10, 10]}
    changed["annotations"] = [one for one in changed["annotations"] if one["id"] != 200]
    changed["annotations"].append(
        {"id": 201, "image_id": 2, "category_id": 2, "segmentation": [MOVED], "bbox": [8, 2, 10, 10], "area": 100}
    )
    capsys.readouterr()
    result, found = laid_over(source, changed)
    assert "tiny: corrections of 4 images; objects: 2 replaced, 1 added, 1 removed, 1 as they were" in capsys.readouterr().out
    assert result.summary["corrections"] == {"images": 4, "replaced": 2, "added": 1, "removed": 1, "unchanged": 1}
    square, moved = [2, 2, 10, 10], [8, 2, 10, 10]
    assert found == held | {
        "0.png": [("dog", square)],
        "1.png": [("cat", moved)],
        "2.png": [("cat", square), ("dog", moved)],
        "11.png": [],
    }
    assert result.summary["digest"] != before.summary["digest"]
    # The same again is skipped, and counted again.
    again, _ = laid_over(source, changed)
    assert (again.status, again.summary["corrections"]) == ("skipped", result.summary["corrections"])
    # Corrections that change nothing give the data set that was there.
    same, _ = laid_over(source, of_images(source, "0.png"), "same")
    assert same.summary["corrections"] == {"images": 1, "replaced": 0, "added": 0, "removed": 0, "unchanged": 1}
    assert same.summary["digest"] == before.summary["digest"]
    # In parts, and by processes of their own, it is the same.
    options = read_options({"corrections": source / "corrections.json"}, "command line", source)
    (source / "corrections.json").write_text(json.dumps(changed))
    for first in (0, 1):
        materialize(source / "dataset.yaml", source / "parts", options, Effort(shard_range=(first, first + 1)))
    materialize(source / "dataset.yaml", source / "parts", options, Effort(workers=2))
    assert files_of(source / "parts") == files_of(source / "out")


def test_a_file_that_a_tool_has_numbered_anew_is_told_by_shapes(source: Path) -> None:
    """As CVAT writes it: ids from 1 on, other category ids, polygons that it has rounded, and a class that a person has changed."""
    written = of_images(source, "0.png", "1.png", "2.png")
    written["categories"] = [{"id": 7, "name": "dog"}, {"id": 8, "name": "cat"}]
    for number, one in enumerate(written["images"], start=1):
        one["id"] = number
    cat, dog, moved = (copy.deepcopy(written["annotations"][place]) for place in range(3))
    rounded = [2, 2, 12, 2, 12, 12.2, 2, 12.2]
    cat |= {"id": 1, "image_id": 1, "category_id": 8, "segmentation": [rounded]}
    dog |= {"id": 2, "image_id": 2, "category_id": 7}
    moved |= {"id": 3, "image_id": 3, "category_id": 8, "segmentation": [MOVED], "bbox": [8, 2, 10, 10]}
    result, found = laid_over(source, written | {"annotations": [cat, dog, moved]})
    # The one that was moved by more than half of it is another one.
    assert result.summary["corrections"] == {"images": 3, "replaced": 1, "added": 1, "removed": 1, "unchanged": 1}
    assert [found[f"{number}.png"] for number in range(3)] == [
        [("cat", [2, 2, 10, 10])],
        [("dog", [2, 2, 10, 10])],
        [("cat", [8, 2, 10, 10])],
    ]


def test_a_source_without_ids_is_corrected_too_and_keeps_what_was_not_moved(source: Path) -> None:
    """Of masks in PNG files: one is as it was, the other is gone."""
    for number in range(4):
        write(source / "pngs" / "images" / f"{number}.png", png(np.random.default_rng(number).integers(0, 256, (16, 24, 3), np.uint8)))
        for place, (rows, columns) in enumerate(((slice(2, 12), slice(2, 12)), (slice(2, 6), slice(16, 22)))):
            mask = np.zeros((16, 24), np.uint8)
            mask[rows, columns] = 255
            write(source / "pngs" / "masks" / str(number) / f"{place}.png", png(mask))
    values = {"images": "pngs/images", "masks": "pngs/masks", "format": "instance_png"}
    described = {"name": "pngs", "source": {**values, "category": "cat"}, "split": {"train": 0.5, "val": 0.5}}
    (source / "dataset.yaml").write_text(yaml.safe_dump(described))
    corrections = of_images(source, "0.png") | {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    result, found = laid_over(source, corrections)
    assert result.summary["corrections"] == {"images": 1, "replaced": 0, "added": 0, "removed": 1, "unchanged": 1}
    assert found["0.png"] == [("cat", [2, 2, 10, 10])]
    assert len(found["1.png"]) == 2


def unknown_id(content: dict[str, Any]) -> None:
    content["annotations"][0]["id"] = 55


def id_of_another_image(content: dict[str, Any]) -> None:
    content["annotations"][0]["id"] = 105


def the_same_id_twice(content: dict[str, Any]) -> None:
    content["annotations"].append(content["annotations"][0])


def unknown_image(content: dict[str, Any]) -> None:
    content["images"][0]["file_name"] = "upload/0.png"


def image_twice(content: dict[str, Any]) -> None:
    content["images"].append(content["images"][0])


def another_size(content: dict[str, Any]) -> None:
    content["images"][0]["height"] = 160


def unknown_category(content: dict[str, Any]) -> None:
    content["categories"][0]["name"] = "caat"


def unlisted_category(content: dict[str, Any]) -> None:
    content["annotations"][0]["category_id"] = 9


def no_images(content: dict[str, Any]) -> None:
    del content["images"]


def annotation_of_no_image(content: dict[str, Any]) -> None:
    content["annotations"][0]["image_id"] = 77


def another_source(content: dict[str, Any]) -> None:
    content["info"]["maskline"]["source"] = "test"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unknown_id, r"annotation 55 is none of the image 0.png in the dataset\n.*an id from 201 on"),
        (id_of_another_image, r"annotation 105 is none of the image 0.png"),
        (the_same_id_twice, r"annotation 100 is there twice"),
        (unknown_image, r"1 of 2 images are not in the dataset, upload/0.png first; others are there, such as 1.png"),
        (image_twice, r"has an image twice"),
        (another_size, r"0.png is 160 x 24 pixels .* there, and 16 x 24 pixels .* in the dataset"),
        (unknown_category, r"annotation 100 of 0.png has the category 'caat', which the dataset does not have\n.*did you mean 'cat'"),
        (unlisted_category, r"has the category 9, which the file does not list"),
        (no_images, r"corrections.json lacks 'images'\n.*`images`, `annotations` and `categories`"),
        (annotation_of_no_image, r"corrections.json lacks 77"),
        (another_source, r"2 of 2 images are not in the dataset of test"),
    ],
)
def test_what_corrects_nothing_that_is_there_is_refused(source: Path, spoil: Any, message: str) -> None:
    content = of_images(source, "0.png", "1.png") | {"info": {"maskline": {"source_ids": True, "first_new_id": 201}}}
    spoil(content)
    with pytest.raises(UserError, match=message):
        laid_over(source, content)
    assert not (source / "out").exists()


def test_files_that_are_none_and_the_key_in_the_yaml(source: Path) -> None:
    described = yaml.safe_load((source / "dataset.yaml").read_text()) | {"corrections": "mine.json"}
    (source / "dataset.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(UserError, match=r"mine.json: the corrections cannot be opened: No such file"):
        materialize(source / "dataset.yaml", source / "out")
    with pytest.raises(UserError, match=r"mine.json: the corrections cannot be opened: No such file"):
        preflight(source / "dataset.yaml", [])
    (source / "mine.json").write_text("{")
    with pytest.raises(UserError, match=r"mine.json is no JSON"):
        materialize(source / "dataset.yaml", source / "out")
    changed = of_images(source, "0.png")
    changed["annotations"] = []
    (source / "mine.json").write_text(json.dumps(changed))
    assert materialize(source / "dataset.yaml", source / "out").summary["corrections"]["removed"] == 1
    assert objects_of(source / "out")["0.png"] == []
    # Of an image that two files have, the later one counts.
    (source / "dataset.yaml").write_text(yaml.safe_dump(described | {"corrections": ["mine.json", "later.json"]}))
    (source / "later.json").write_text(json.dumps(of_images(source, "0.png", "1.png")))
    assert materialize(source / "dataset.yaml", source / "out").summary["corrections"] == {
        "images": 2,
        "replaced": 0,
        "added": 0,
        "removed": 0,
        "unchanged": 2,
    }
