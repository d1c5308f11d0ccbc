"""Small photographs to materialize, on a disk or under a URL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from upath import UPath

from tasks.records.record_index import scan
from tasks.records.tfrecord import index_path, print_places
from tests.annotations.files import png, write

_SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]


def write_source(folder: Path, images: int = 12) -> None:
    """PNG photographs of 16 x 24, one square on each but the last, and the dataset.yaml of one hashed source."""
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    for index in range(images):
        write(UPath(folder / "images" / f"{index}.png"), png(np.random.default_rng(index).integers(0, 256, (16, 24, 3), np.uint8)))
        content["images"].append({"id": index, "file_name": f"{index}.png", "height": 16, "width": 24})
        if index < images - 1:
            content["annotations"].append(
                {"id": 100 + index, "image_id": index, "category_id": 1, "segmentation": [_SQUARE], "bbox": [2, 2, 10, 10], "area": 100}
            )
    (folder / "all.json").write_text(json.dumps(content))
    values = {"name": "tiny", "source": {"images": "images", "annotations": "all.json"}, "split": {"train": 0.5, "val": 0.5}}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(values))


def validation_source(folder: Path, category_id: int = 1, category: str = "cat") -> dict[str, str]:
    """A photograph of its own with one square, and the source that it is: what a dataset needs beside the split that a test is about."""
    write(UPath(folder / "validation" / "v.png"), png(np.random.default_rng(99).integers(0, 256, (16, 24, 3), np.uint8)))
    square = {"id": 900, "image_id": 900, "category_id": category_id, "segmentation": [_SQUARE], "area": 100, "bbox": [2, 2, 10, 10]}
    image = {"id": 900, "file_name": "v.png", "height": 16, "width": 24}
    content = {"images": [image], "annotations": [square], "categories": [{"id": category_id, "name": category}]}
    (folder / "validation.json").write_text(json.dumps(content))
    return {"images": "validation", "annotations": "validation.json"}


def change_annotations(source: Path, change: Callable[[Any], None]) -> None:
    content = json.loads((source / "all.json").read_text())
    change(content)
    (source / "all.json").write_text(json.dumps(content))


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file's content by its path in the folder; none where there is no such folder."""
    folder = UPath(folder)
    return {path.removeprefix(f"{folder.path}/"): folder.fs.cat_file(path) for path in sorted(folder.fs.find(folder.path))}


def assert_indexes_are_of_their_shards(folder: Path) -> None:
    """Of every shard in a folder there is an index, which tells what lies where as a scan of the file finds it; there are no others."""
    shards = sorted(folder.glob("*.record-*-of-*"))
    assert sorted(path.name for path in (folder / "index").iterdir()) == [f"{shard.name}.idx" for shard in shards]
    for shard in shards:
        content = shard.read_bytes()
        found = scan(lambda offset, length, content=content: content[offset : offset + length], len(content))  # type: ignore[misc]
        assert index_path(shard).read_text() == print_places(found.places.tolist())
