"""Images of records in batches of one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.evaluation.batches import batches_of_one_size
from tasks.mask_rcnn.config import ImageResizer
from tests.evaluation.scene_records import write_scenes

WIDE, TALL, SQUARE = (32, 48), (48, 32), (32, 32)


def test_every_image_comes_once_beside_others_of_its_size(tmp_path: Path) -> None:
    sizes = [WIDE, TALL, WIDE, SQUARE, WIDE, TALL, WIDE, WIDE]
    file = write_scenes(tmp_path, sizes).replace("?????", "00000")
    batches = list(batches_of_one_size(file, ImageResizer(kind="identity"), 2))
    assert [(batch.images.shape[1:3], batch.indices) for batch in batches] == [
        (WIDE, [0, 2]),
        (TALL, [1, 5]),
        (WIDE, [4, 6]),
        # Those that wait at the end, those that have waited longest first.
        (SQUARE, [3]),
        (WIDE, [7]),
    ]
    (alone,) = batches_of_one_size(write_scenes(tmp_path / "one", [WIDE]).replace("?????", "00000"), ImageResizer(kind="identity"), 2)
    np.testing.assert_array_equal(batches[0].images[:1], alone.images)
    assert batches[0].true_shapes.tolist() == [[32, 48], [32, 48]]
    assert batches[0].sizes == [WIDE, WIDE]


def test_no_more_than_some_wait(tmp_path: Path) -> None:
    sizes = [(32, 32 + number) for number in range(12)]
    file = write_scenes(tmp_path, sizes).replace("?????", "00000")
    # Four batches of two may wait; the first to come is the first to go.
    assert [batch.indices for batch in batches_of_one_size(file, ImageResizer(kind="identity"), 2)] == [[n] for n in range(12)]


def test_padded_images_of_one_padded_size_go_together(tmp_path: Path) -> None:
    file = write_scenes(tmp_path, [WIDE, TALL]).replace("?????", "00000")
    resizer = ImageResizer(kind="keep_aspect_ratio", min_dimension=32, max_dimension=64, pad_to_max_dimension=True)
    (batch,) = batches_of_one_size(file, resizer, 2)
    assert batch.images.shape == (2, 64, 64, 3)
    assert batch.true_shapes.tolist() == [[32, 48], [48, 32]]
    assert batch.sizes == [WIDE, TALL]
