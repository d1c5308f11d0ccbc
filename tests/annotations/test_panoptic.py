"""COCO's panoptic format on 2 x 3 pixels, by hand, and against datumaro's own reading."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from tasks.annotations.instances import instances_of
from tasks.annotations.panoptic import PanopticSource
from tasks.coco.masks import mask_from_rle
from tasks.records.checks import BadImageError, Check, DataError
from tasks.running.errors import UserError
from tests.annotations.files import png, write

SIZE = (2, 3)
CATEGORIES = [{"id": 1, "name": "person", "isthing": 1}, {"id": 3, "name": "car", "isthing": 1}, {"id": 187, "name": "sky", "isthing": 0}]
IDS = np.array([[0, 7, 7], [70_000, 300, 7]], np.uint32)
SEGMENTS = [
    {"id": 7, "category_id": 187, "area": 3, "bbox": [1, 0, 2, 2], "iscrowd": 0},
    {"id": 300, "category_id": 3, "area": 1, "bbox": [1, 1, 1, 1], "iscrowd": 1},
    {"id": 70_000, "category_id": 1, "area": 1, "bbox": [0, 1, 1, 1], "iscrowd": 0},
]


def colours(ids: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 3], by digits to the base of 256."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def panoptic(folder: UPath, segments: object = SEGMENTS, ids: np.ndarray = IDS, **content) -> PanopticSource:
    write(folder / "images" / "a.jpg")
    write(folder / "masks" / "a.png", png(colours(ids)))
    whole = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 2, "width": 3}],
        "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": segments}],
        "categories": CATEGORIES,
        **content,
    }
    write(folder / "panoptic.json", json.dumps(whole).encode())
    return PanopticSource(folder / "images", folder / "panoptic.json", masks=folder / "masks")


def read(source: PanopticSource) -> tuple[list[tuple], dict]:
    """Category, mask, box and whether a crowd, of each object of the only image; and what was counted."""
    listing = source.list()
    (image,) = listing.images
    instances, findings = instances_of(source.objects(image, SIZE), SIZE, {key: key for key in listing.categories})
    told = [(one.category_id, mask_from_rle(one.mask).tolist(), one.box_yxyx, one.is_crowd) for one in instances]
    return told, Counter(one.check for one in findings)


CAR = (3, [[0, 0, 0], [0, 1, 0]], (1, 1, 2, 2), True)
PERSON = (1, [[0, 0, 0], [1, 0, 0]], (1, 0, 2, 1), False)
SKY = (187, [[0, 1, 1], [0, 0, 1]], (0, 1, 2, 3), False)


def test_segments_of_things_are_objects_and_stuff_is_counted(folder):
    source = panoptic(folder)
    assert source.list().categories == {1: "person", 3: "car"}
    assert read(source) == ([CAR, PERSON], {Check.STUFF_SEGMENT: 1})


def test_numbers_may_be_written_as_text(folder):
    texts = [{**one, "id": str(one["id"]), "category_id": str(one["category_id"])} for one in SEGMENTS]
    source = panoptic(folder, texts, categories=[{**one, "id": str(one["id"]), "isthing": str(one["isthing"])} for one in CATEGORIES])
    objects, findings = read(source)
    assert objects == [CAR, PERSON]
    assert findings == {Check.STUFF_SEGMENT: 1, Check.NUMBER_AS_TEXT: 2}


def test_stuff_can_be_kept(folder):
    panoptic(folder)
    source = PanopticSource(folder / "images", folder / "panoptic.json", masks=folder / "masks", stuff="keep")
    assert source.list().categories == {1: "person", 3: "car", 187: "sky"}
    assert read(source) == ([SKY, CAR, PERSON], {})
    with pytest.raises(UserError, match="stuff is 'maybe'"):
        PanopticSource(folder, folder, masks=folder, stuff="maybe")


def test_where_all_is_stuff_the_way_out_is_told(folder):
    with pytest.raises(DataError, match="all of its 1 categories are stuff") as caught:
        panoptic(folder, categories=CATEGORIES[2:]).list()
    assert "`stuff: keep`" in caught.value.fix


def test_a_segment_without_a_pixel_is_left_out_and_counted(folder):
    unseen = {"id": 9, "category_id": 1, "area": 4, "bbox": [0, 0, 2, 2], "iscrowd": 0}
    assert read(panoptic(folder, [*SEGMENTS, unseen])) == ([CAR, PERSON], {Check.STUFF_SEGMENT: 1, Check.EMPTY_MASK: 1})


def test_an_image_of_nothing_is_empty_and_one_without_annotation_a_fault(folder):
    assert read(panoptic(folder, [], np.zeros(SIZE, np.uint32))) == ([], {})
    with pytest.raises(BadImageError, match=r"image a\.jpg has no annotation") as caught:
        read(panoptic(folder, annotations=[]))
    assert caught.value.check == Check.MASK_MISSING


@pytest.mark.parametrize(
    ("segments", "reason", "check"),
    [
        (SEGMENTS[:2], "segment 70000 is not listed there", Check.MASK_VALUES),
        ([*SEGMENTS, SEGMENTS[0]], "segment 7 is listed twice", Check.MASK_VALUES),
        ([*SEGMENTS, {**SEGMENTS[0], "id": 0}], "segment 0 is listed twice, or no segment's number", Check.MASK_VALUES),
        ([{**SEGMENTS[0], "category_id": 4}, *SEGMENTS[1:]], "has the category 4", Check.UNKNOWN_CATEGORY),
        ([{**SEGMENTS[0], "bbox": [1, 2]}, *SEGMENTS[1:]], r"bbox is \[1, 2\]", Check.ANNOTATION_MALFORMED),
        ([{**SEGMENTS[0], "iscrowd": 2}, *SEGMENTS[1:]], "iscrowd is 2", Check.ANNOTATION_MALFORMED),
    ],
)
def test_a_broken_image_is_told_and_the_others_go_on(folder, segments, reason, check):
    with pytest.raises(BadImageError, match=reason) as caught:
        read(panoptic(folder, segments))
    assert caught.value.check == check


@pytest.mark.parametrize("pixels", [np.zeros(SIZE, np.uint8), np.zeros((*SIZE, 4), np.uint8)])
def test_a_png_that_is_not_in_rgb_is_refused(folder, pixels):
    source = panoptic(folder)
    write(folder / "masks" / "a.png", png(pixels))
    with pytest.raises(BadImageError, match=r"a\.png: its pixels are not in RGB") as caught:
        read(source)
    assert caught.value.check == Check.MASK_VALUES


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"annotations": [{"image_id": 5, "segments_info": []}]}, "annotation of image 5 .*has no file_name"),
        ({"annotations": [{"image_id": 5, "file_name": "a.png"}]}, "annotation of image 5 .*has no segments_info"),
        ({"annotations": [{"image_id": 5, "file_name": 3, "segments_info": []}]}, "has file_name 3"),
        ({"annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": [3]}]}, r"has segments_info \[3\]"),
        ({"annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": [{}]}]}, "image 5: segment .*has no id"),
        ({"annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": [{"id": 1}]}]}, "image 5: segment 1 has no category_id"),
        ({"annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": []}] * 2}, r"image a\.jpg has 2 annotations"),
        ({"annotations": [{"image_id": 6, "file_name": "a.png", "segments_info": []}]}, r"annotation a\.png has image id 6"),
        ({"categories": [{"id": 1, "name": "person"}]}, "category 1 has no isthing"),
        ({"categories": [{"id": 1, "name": "person", "isthing": 2}]}, "category 1 has isthing 2"),
    ],
)
def test_a_broken_file_is_refused(folder, content, reason):
    with pytest.raises(DataError, match=rf"panoptic\.json: .*{reason}"):
        read(panoptic(folder, **content))


def test_masks_and_classes_are_those_that_datumaro_reads(tmp_path: Path):
    import datumaro

    random = np.random.default_rng(5)
    ids = random.choice(np.array([0, 1, 256, 65_536, 16_777_215], np.uint32), (20, 30))
    for name in ("images", "annotations/panoptic_train"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "images" / "a.png").write_bytes(png(random.integers(0, 255, (20, 30, 3), np.uint8)))
    (tmp_path / "annotations" / "panoptic_train" / "a.png").write_bytes(png(colours(ids)))
    segments = [{"id": value, "category_id": 1 + index % 2, "iscrowd": 0} for index, value in enumerate((1, 256, 65_536, 16_777_215))]
    content = {
        "info": {},
        "licenses": [],
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
        "annotations": [
            {"image_id": 1, "file_name": "a.png", "segments_info": [{**one, "area": 1, "bbox": [0, 0, 1, 1]} for one in segments]}
        ],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "dog", "isthing": 1}],
    }
    annotations = tmp_path / "annotations" / "panoptic_train.json"
    annotations.write_text(json.dumps(content))
    (item,) = datumaro.Dataset.import_from(str(tmp_path), "coco_panoptic")
    source = PanopticSource(tmp_path / "images", annotations, masks=tmp_path / "annotations" / "panoptic_train")
    (image,) = source.list().images
    ours = [(one.category, one.segmentation.tolist()) for one in source.objects(image, (20, 30))]
    # Its classes count from 0.
    assert ours == [(one.label + 1, one.image.astype(np.uint8).tolist()) for one in item.annotations]
