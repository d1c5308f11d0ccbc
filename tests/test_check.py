"""Faults that are put into records, one at a time, are found under their codes and nothing else is."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.check import check
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir
from tests.records.original_tools import original_features, png_of, serialized, write_records

HEIGHT, WIDTH = 24, 40


def mask_of(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[rows, columns] = 1
    return mask


MASKS = [mask_of(slice(2, 12), slice(5, 25)), mask_of(slice(4, 20), slice(30, 40))]


def features(seed: int) -> dict:
    return original_features(MASKS, ["cat", "dog"], size=(HEIGHT, WIDTH), source_id=f"id{seed}", seed=seed)


@pytest.fixture
def labels(tmp_path: Path) -> str:
    (tmp_path / "labels.pbtxt").write_text("item { id: 1 name: 'cat' } item { id: 2 name: 'dog' }")
    return str(tmp_path / "labels.pbtxt")


def image(kind: str, mode: str = "RGB", **options) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (WIDTH, HEIGHT)).save(stream, kind, **options)
    return stream.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def new_image(content: bytes, name: bytes = b"jpeg") -> dict:
    return {"image/encoded": [content], "image/format": [name], "image/key/sha256": []}


BOX = "image/object/bbox/"
NOT_THERE = [0.9, 0.75]
FAULTS: dict[str, tuple[Callable[[], dict], dict[str, int]]] = {
    "no fault": (dict, {}),
    "format by its short name": (lambda: {"image/format": [b"JPG"]}, {}),
    "no area": (lambda: {"image/object/area": []}, {"area-from-mask": 2}),
    "a box beyond the image": (lambda: {f"{BOX}xmax": [25 / WIDTH, 1.1]}, {"box-clipped": 1}),
    "a box at another place": (lambda: {f"{BOX}xmin": NOT_THERE, f"{BOX}xmax": [1.0, 1.0]}, {"box-off-mask": 1}),
    "a box without area": (lambda: {f"{BOX}xmin": [0.5, 0.75], f"{BOX}xmax": [0.5, 1.0]}, {"box-from-mask": 1}),
    "an empty mask": (lambda: {"image/object/mask": [png_of(MASKS[0]), png_of(MASKS[1] * 0)]}, {"empty-mask": 1}),
    "grey masks": (lambda: {"image/object/mask": [png_of(MASKS[0] + MASKS[1] * 2)] * 2}, {"mask-values": 1}),
    "turned masks": (lambda: {"image/object/mask": [png_of(mask.T) for mask in MASKS]}, {"mask-size-swapped": 1}),
    "swapped sizes": (
        lambda: {"image/height": [WIDTH], "image/width": [HEIGHT]},
        {"image-size-swapped": 1, "mask-size-swapped": 1},
    ),
    "another size": (lambda: {"image/height": [HEIGHT + 1]}, {"image-size": 1, "mask-size": 1}),
    "too few areas": (lambda: {"image/object/area": [1.0]}, {"record-malformed": 1}),
    "an unknown class": (lambda: {"image/object/class/text": [b"cat", b"cow"]}, {"unknown-category": 1}),
    "an old hash": (lambda: {"image/key/sha256": [b"0" * 64]}, {"image-hash": 1}),
    "a misnamed image": (lambda: new_image(image("PNG")), {"image-misnamed": 1}),
    "a grey image": (lambda: new_image(image("PNG", "L"), b"png"), {"image-grey": 1}),
    "half an image": (lambda: new_image(image("PNG")[:-30], b"png"), {"image-unreadable": 1}),
    "no image": (lambda: new_image(b""), {"image-empty": 1}),
    "an image that TensorFlow reads too": (lambda: new_image(image("BMP")), {"image-misnamed": 1, "image-reencoded": 1}),
    "a WebP image, which it reads too": (lambda: new_image(image("WEBP")), {"image-misnamed": 1, "image-reencoded": 1}),
    "an image that it does not read": (lambda: new_image(image("TIFF")), {"image-misnamed": 1, "image-unreadable": 1}),
    "a BMP whose palette it does not read": (lambda: new_image(image("BMP", "P")), {"image-misnamed": 1, "image-unreadable": 1}),
    "a BMP in black and white": (lambda: new_image(image("BMP", "1")), {"image-misnamed": 1, "image-unreadable": 1}),
    "a PNG with a palette": (lambda: new_image(image("PNG", "P"), b"png"), {"image-palette": 1}),
    "boxes in pixels": (
        lambda: {f"{BOX}ymin": [2.0, 4.0], f"{BOX}xmin": [5.0, 30.0], f"{BOX}ymax": [12.0, 20.0], f"{BOX}xmax": [25.0, 40.0]},
        {"box-from-mask": 2},
    ),
    "swapped corners": (lambda: {f"{BOX}ymin": [12 / HEIGHT, 4 / HEIGHT], f"{BOX}ymax": [2 / HEIGHT, 20 / HEIGHT]}, {"box-from-mask": 1}),
    "a coordinate that is no number": (lambda: {f"{BOX}ymin": [float("nan"), 0.2]}, {"annotation-malformed": 1}),
    "masks of equal colours": (lambda: {"image/object/mask": [png_of(np.dstack([mask] * 3) * 255) for mask in MASKS]}, {}),
    "a mask of 16 bits, in which TensorFlow sees nothing": (
        lambda: {"image/object/mask": [png_of(MASKS[0]), png_of(MASKS[1].astype(np.uint16))]},
        {"empty-mask": 1},
    ),
    "an image that viewers turn": (
        lambda: new_image(image("JPEG", exif=turned())) | {"image/height": [WIDTH], "image/width": [HEIGHT]},
        {"image-size-swapped": 1, "mask-size-swapped": 1},
    ),
}


@pytest.mark.parametrize(("changes", "findings"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_found_and_placed(tmp_path, labels, changes, findings):
    write_records(tmp_path / "x.record", [serialized(features(0)), serialized(features(1) | changes())])
    summary = check(str(tmp_path / "x.record"), labels).summary
    assert summary["findings"] == findings
    assert summary["records"] == 2
    for places in summary["places"].values():
        assert [(place["shard"], place["record"], place["source_id"]) for place in places] == [("x.record", 1, "id1")]


FIT = {"area-from-mask", "image-misnamed", "image-hash", "image-grey", "image-reencoded", "image-palette"}
"""What training reads as materialization would have written it."""


@pytest.mark.parametrize(("changes", "findings"), FAULTS.values(), ids=FAULTS.keys())
def test_what_materialization_would_mend_is_unfit_unless_training_reads_the_same(tmp_path, labels, changes, findings):
    write_records(tmp_path / "x.record", [serialized(features(1) | changes())])
    assert set(check(str(tmp_path / "x.record"), labels).summary["bad"]) == findings.keys() - FIT


def test_a_box_that_rounding_has_put_beyond_its_image_is_told_and_fit(tmp_path, labels):
    write_records(tmp_path / "x.record", [serialized(features(1) | {f"{BOX}xmax": [25 / WIDTH, 1.001]})])
    summary = check(str(tmp_path / "x.record"), labels).summary
    assert (summary["findings"], summary["bad"]) == ({"box-clipped": 1}, [])
    (place,) = summary["places"]["box-clipped"]
    assert place["message"] == "object 1: the box [4.0, 30.0, 20.0, 40.0] becomes [4.0, 30.0, 20.0, 40.0]"


def test_copies_are_found_within_and_across_splits(tmp_path, labels, capsys):
    for name, seeds in {"a-00000-of-00002": [0, 1, 0], "a-00001-of-00002": [2, 1], "b-00000-of-00001": [3, 2]}.items():
        write_records(tmp_path / name, [serialized(features(seed)) for seed in seeds])
    summary = check(str(tmp_path / "[ab]-*"), labels).summary
    assert summary["findings"] == {"duplicate-image": 2, "split-leakage": 1}
    assert summary["bad"] == ["split-leakage"]
    assert [(place["shard"][0], place["record"]) for place in summary["places"]["duplicate-image"]] == [("a", 2), ("a", 1)]
    assert "  b-00000-of-00001: record 1 (source id id2)\n" in capsys.readouterr().out


def test_damage_ends_its_file_alone(tmp_path, labels):
    for name in "xy":
        write_records(tmp_path / f"{name}.record", [serialized(features(ord(name) + index)) for index in range(3)])
    content = bytearray((tmp_path / "x.record").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "x.record").write_bytes(content)
    summary = check(str(tmp_path / "*.record"), labels).summary
    assert summary["records"] == 1 + 3
    assert summary["places"] == {"record-damaged": [{"shard": "x.record", "record": 1, "source_id": "", "message": ""}]}


def test_few_places_are_told_and_all_are_counted_by_any_number_of_workers(tmp_path, labels):
    for shard in range(3):
        records = [serialized(features(10 * shard + index) | {"image/object/area": [1.0]}) for index in range(2)]
        write_records(tmp_path / f"x-0000{shard}-of-00003", records)
    one, two = (check(str(tmp_path / "x-*"), labels, workers).summary for workers in (1, 2))
    assert one == two
    assert one["findings"] == {"record-malformed": 6}
    assert [(place["shard"], place["record"]) for place in one["places"]["record-malformed"]] == [
        ("x-00000-of-00003", 0),
        ("x-00000-of-00003", 1),
        ("x-00001-of-00003", 0),
    ]
    assert one["places"]["record-malformed"][0]["message"] == "image/object/area holds 1 values, 2 expected"


def test_what_materialize_wrote_is_whole(scenes: DatasetDir):
    assert check(str(scenes.root)).summary == {"records": 6, "findings": {}, "places": {}, "bad": []}


def test_records_without_a_label_map_are_not_guessed_at(tmp_path):
    write_records(tmp_path / "x.record", [serialized(features(0))])
    with pytest.raises(UserError, match=r"x\.record: nothing says which classes"):
        check(str(tmp_path / "x.record"))
    with pytest.raises(UserError, match="--workers is 0"):
        check(str(tmp_path / "x.record"), workers=0)


@pytest.mark.parametrize(("changes", "code"), [({}, 0), ({"image/object/area": []}, 0), ({"image/height": [7]}, 1)])
def test_how_the_command_ends(tmp_path, labels, changes, code):
    write_records(tmp_path / "x.record", [serialized(features(0) | changes)])
    arguments = ["check", str(tmp_path / "x.record"), "--label-map", labels, "--result", str(tmp_path / "answer.json")]
    program = f"import sys, atexit; sys.argv = {['maskline', *arguments]!r}\nfrom tasks.cli import main\n"
    program += "atexit.register(lambda: print('tensorflow' in sys.modules))\nmain()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout.split()[-1] == "False"
    assert json.loads((tmp_path / "answer.json").read_text())["summary"]["records"] == 1


def test_an_index_of_another_file_is_told_and_does_no_harm(scenes: DatasetDir, tmp_path, capsys):
    folder = shutil.copytree(scenes.root, tmp_path / "copy")
    assert check(str(folder)).summary["findings"] == {}
    index = folder / "index" / "train.record-00000-of-00001.idx"
    index.write_text(index.read_text().replace("0 ", "1 ", 1))
    found = check(str(folder)).summary
    assert (found["findings"], found["bad"]) == ({"index-stale": 1}, [])
    assert str(index) in capsys.readouterr().out
