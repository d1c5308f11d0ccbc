"""The sizes of batches, from a manifest and from records alone, against sizes that a person resizes by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.input.config import DataConfig
from tasks.mask_rcnn.config import ImageResizer
from tasks.planning.batch_shapes import BatchShape, batch_shapes
from tasks.running.workspace import DatasetDir, read_json, write_json
from tests.records.small_records import HEIGHT, WIDTH, square, write_dataset

# 60 x 80 pixels become 30 x 40.
RESIZER = ImageResizer(min_dimension=30, max_dimension=100)


def data_of(dataset: DatasetDir, objects: Sequence[int], **settings: object) -> DataConfig:
    write_dataset(dataset, {"train": [[square(1, 5)] * count for count in objects]}, {1: "cat"})
    return DataConfig(input_path=dataset.shard_pattern("train", 1), label_map_path=str(dataset.label_map), **settings)


@pytest.mark.parametrize("with_manifest", [True, False])
def test_one_size(tmp_path: Path, with_manifest: bool) -> None:
    dataset = DatasetDir(tmp_path / "tiny")
    data = data_of(dataset, [1, 4, 0], max_number_of_boxes=3)
    if not with_manifest:
        dataset.manifest.unlink()
    assert (HEIGHT, WIDTH) == (60, 80)
    shapes = batch_shapes(data, RESIZER, 2)
    assert shapes.usual == shapes.largest == BatchShape(2, 30, 40, objects=3)
    assert shapes.images_looked_at == 3


def test_batch_is_as_high_and_as_wide_as_any_of_its_images(tmp_path: Path) -> None:
    dataset = DatasetDir(tmp_path / "tiny")
    data = data_of(dataset, [2, 2])
    manifest = read_json(dataset.manifest)
    manifest["splits"]["train"]["statistics"]["image_sizes"] = {"60 x 80": 1, "80 x 60": 1}
    write_json(dataset.manifest, manifest)
    # Half of the images stand upright, so half of the pairs have one of each: 40 x 40, and the others 30 x 40 or 40 x 30.
    shapes = batch_shapes(data, RESIZER, 2)
    assert shapes.largest == BatchShape(2, 40, 40, objects=2)
    assert shapes.usual.height * shapes.usual.width == pytest.approx(1400, rel=0.05)
    assert shapes.usual.height == pytest.approx(37.5, abs=1)
    alone = batch_shapes(data, RESIZER, 1).largest
    assert alone.height * alone.width == 1200


def test_padding_to_a_square(tmp_path: Path) -> None:
    data = data_of(DatasetDir(tmp_path / "tiny"), [2])
    shapes = batch_shapes(data, ImageResizer(min_dimension=30, max_dimension=100, pad_to_max_dimension=True), 1)
    assert shapes.largest == BatchShape(1, 100, 100, objects=2)
