"""Predictions of a model that finds the same on every image, so that all that is written is known beforehand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pycocotools import mask as pycoco
from pycocotools.coco import COCO

from tasks.evaluation.thresholds import OWN, Rule, Threshold, Thresholds, write_thresholds
from tasks.predict import Options, image_files, predict
from tasks.running.errors import UserError
from tasks.running.workspace import read_json

# The middle of the image, all of it, and the place for a third that is none.
BOXES = [[0.25, 0.25, 0.75, 0.75], [0, 0, 1, 1], [0, 0, 0, 0]]
SCORES = [0.875, 0.25, 0]
CLASSES = [2, 3, 1]


def write_model(file: Path, size: Sequence[int | str] = ("batch", "height", "width", 3), names: bool = True, masks: bool = True) -> Path:
    """Its masks are solid."""
    values: dict[str, Any] = {
        "num_detections": [2],
        "detection_boxes": [BOXES],
        "detection_scores": [SCORES],
        "detection_classes": [CLASSES],
    }
    if masks:
        values["detection_masks"] = np.ones((1, 3, 5, 5))
    arrays = {name: np.array(value, np.float32) for name, value in values.items()}
    # The mean of the image is lost on the way: it is read, and makes no difference.
    nodes = [
        helper.make_node("Cast", ["inputs"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        *(helper.make_node("Add", [f"{name}/constant", "nothing"], [name]) for name in arrays),
    ]
    constants = [numpy_helper.from_array(np.float32(0), "zero")]
    constants += [numpy_helper.from_array(array, f"{name}/constant") for name, array in arrays.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in arrays.items()]
    inputs = [helper.make_tensor_value_info("inputs", TensorProto.UINT8, list(size))]
    graph = helper.make_graph(nodes, "constant", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if names:
        model.metadata_props.add(key="class_names", value=json.dumps({"1": "bolt", "2": "nut", "3": "washer"}))
    onnx.checker.check_model(model)
    onnx.save(model, file)
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """`a.png` of 40 x 80 pixels (height x width), and `below/B.JPG` of 60 x 60."""
    (tmp_path / "photos" / "below").mkdir(parents=True)
    Image.new("RGB", (80, 40), (200, 60, 60)).save(tmp_path / "photos" / "a.png")
    Image.new("RGB", (60, 60), (60, 60, 200)).save(tmp_path / "photos" / "below" / "B.JPG")
    (tmp_path / "photos" / "notes.md").write_text("no image")
    return tmp_path / "photos"


def test_results_are_cocos(model: Path, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = predict(model, [str(photos)], output, Options(min_score=0.2))
    assert (result.status, result.summary["images"], result.summary["detections"]) == ("done", 2, 4)
    images = read_json(output / "images.json")
    assert [(image["id"], image["file_name"], image["height"], image["width"]) for image in images["images"]] == [
        (1, str(photos / "a.png"), 40, 80),
        (2, str(photos / "below" / "B.JPG"), 60, 60),
    ]
    assert images["categories"] == [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}, {"id": 3, "name": "washer"}]
    boxes = read_json(output / "detections_boxes.json")
    assert boxes[0] == {"image_id": 1, "category_id": 2, "score": 0.875, "bbox": [20, 10, 40, 20]}
    assert boxes[3] == {"image_id": 2, "category_id": 3, "score": 0.25, "bbox": [0, 0, 60, 60]}
    masks = read_json(output / "detections.json")
    assert [mask["category_id"] for mask in masks] == [2, 3, 2, 3]
    assert "bbox" not in masks[0]
    # A mask's corners lie on the box's corners, and the pixels of 80 on 79 steps between the image's: 20 to 59 of them are inside.
    decoded = pycoco.decode(masks[0]["segmentation"])
    assert decoded.shape == (40, 80)
    assert np.flatnonzero(decoded.any(axis=0)).tolist() == list(range(20, 60))
    assert decoded.sum() == 40 * 20
    whole = COCO(str(output / "images.json")).loadRes(str(output / "detections.json"))
    assert whole.anns[2]["area"] == 40 * 80


def test_pictures_show_what_was_found(model: Path, photos: Path, tmp_path: Path) -> None:
    predict(model, [str(photos)], tmp_path / "out")
    names = sorted(file.name for file in (tmp_path / "out" / "pictures").iterdir())
    assert names == ["000001_a.jpg", "000002_B.jpg"]
    picture = np.asarray(Image.open(tmp_path / "out" / "pictures" / "000001_a.jpg")).astype(int)
    # Enlarged. The object in the middle is tinted; around it the picture is as it was, but for the object's name.
    height, width = picture.shape[:2]
    assert height / width == 0.5
    tinted, plain = picture[height // 2, width // 2], picture[height * 15 // 16, width // 16]
    assert np.abs(plain - [200, 60, 60]).max() < 8
    assert np.abs(tinted - plain).max() > 40


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("{photos}", ["a.png", "below/B.JPG"]),
        ("{photos}/below/B.JPG", ["below/B.JPG"]),
        ("{photos}/*.png", ["a.png"]),
        ("{photos}/**/*.JPG", ["below/B.JPG"]),
        ("{photos}/bel*", ["below/B.JPG"]),
        ("{photos}/list.txt", ["below/B.JPG", "a.png"]),
    ],
)
def test_images_are_named_in_many_ways(photos: Path, name: str, expected: list[str]) -> None:
    (photos / "list.txt").write_text(f"below/B.JPG\n\n{photos / 'a.png'}\n")
    found = image_files([name.format(photos=photos)] * 2, photos / "out")
    assert [file.relative_to(photos).as_posix() for file in found] == expected


def test_pictures_of_an_earlier_run_are_no_images(model: Path, photos: Path) -> None:
    predict(model, [str(photos)], photos / "out")
    result = predict(model, [str(photos)], photos / "out", Options(min_score=0.1))
    assert (result.status, result.summary["images"]) == ("done", 2)
    with pytest.raises(UserError, match="all images that are named lie in"):
        predict(model, [str(photos / "out" / "pictures")], photos / "out")


@pytest.mark.parametrize(
    ("name", "problem"),
    [("nowhere.jpg", "does not exist, and matches nothing"), ("*.webp", "matches nothing"), ("empty", "empty holds no image")],
)
def test_names_that_stand_for_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, problem: str) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=problem):
        predict(model, [name], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_images_are_counted_listed_and_left_out(model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("broken.jpg", "broken_2.jpg"):
        (photos / name).write_bytes((photos / "below" / "B.JPG").read_bytes()[:200])
    (photos / "empty.png").touch()
    (photos / "gone.txt").write_text("gone.png\n")
    result = predict(model, [str(photos), str(photos / "gone.txt")], tmp_path / "out")
    assert (result.summary["images"], result.summary["bad_images"]) == (2, 4)
    lines = [json.loads(line) for line in (tmp_path / "out" / "bad_images.jsonl").read_text().splitlines()]
    assert [(Path(line["file"]).name, line["code"]) for line in lines] == [
        ("broken.jpg", "image-unreadable"),
        ("broken_2.jpg", "image-unreadable"),
        ("empty.png", "image-empty"),
        ("gone.png", "image-missing"),
    ]
    told = capsys.readouterr().out
    assert told.count("left out: ") == 3
    assert "4 files could not be read" in told
    with pytest.raises(UserError, match=r"none of 1 files could be read; the first: .*empty.png: the image file is empty"):
        predict(model, [str(photos / "empty.png")], tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_photographs_are_turned_as_viewers_show_them(model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (80, 40)).save(tmp_path / "turned.jpg", exif=exif)
    predict(model, [str(tmp_path / "turned.jpg")], tmp_path / "out")
    (image,) = read_json(tmp_path / "out" / "images.json")["images"]
    assert (image["height"], image["width"]) == (80, 40)
    assert read_json(tmp_path / "out" / "detections_boxes.json")[0]["bbox"] == [10, 20, 20, 40]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16", "CMYK"])
def test_images_of_every_kind_are_read(model: Path, tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.new(mode, (8, 6)).save(file)
    assert predict(model, [str(file)], tmp_path / "out").summary["images"] == 1


def test_the_same_again_is_skipped_and_another_is_not(model: Path, photos: Path, tmp_path: Path) -> None:
    def again(**options: Any) -> str:
        return predict(model, [str(photos)], tmp_path / "out", Options(**options)).status

    assert [again(), again(), again(min_score=0.3), again(min_score=0.3)] == ["done", "skipped", "done", "skipped"]
    Image.new("RGB", (30, 30)).save(photos / "c.png")
    assert [again(min_score=0.3), again(min_score=0.3)] == ["done", "skipped"]
    write_model(tmp_path / "other.onnx", names=False)
    assert predict(tmp_path / "other.onnx", [str(photos)], tmp_path / "out", Options(min_score=0.3)).status == "done"


def test_a_folder_with_something_else_in_it_is_left_alone(model: Path, photos: Path) -> None:
    before = sorted(photos.rglob("*"))
    with pytest.raises(UserError, match="is not empty, and holds no earlier prediction"):
        predict(model, [str(photos)], photos)
    assert sorted(photos.rglob("*")) == before


def test_a_prediction_that_fails_leaves_the_earlier_one(model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*rest: Any) -> bytes:
        raise OSError(28, "No space left on device")

    predict(model, [str(photos)], tmp_path / "out")
    before = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*.js*")}
    monkeypatch.setattr("tasks.predict.draw_objects", full)
    with pytest.raises(OSError, match="No space left"):
        predict(model, [str(photos)], tmp_path / "out", Options(min_score=0.1))
    assert {file: file.read_bytes() for file in (tmp_path / "out").rglob("*.js*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]


def test_choices_of_what_is_written(model: Path, photos: Path, tmp_path: Path) -> None:
    image = [str(photos / "below" / "B.JPG")]
    result = predict(model, image, tmp_path / "outlines", Options(polygons=True, pictures=False))
    assert read_json(tmp_path / "outlines" / "detections.json")[0]["segmentation"] == [[15, 15, 45, 15, 45, 45, 15, 45]]
    assert "pictures" not in result.outputs
    assert not (tmp_path / "outlines" / "pictures").exists()
    boxes_only = write_model(tmp_path / "boxes.onnx", masks=False)
    predict(boxes_only, image, tmp_path / "boxes")
    assert [found["bbox"] for found in read_json(tmp_path / "boxes" / "detections.json")] == [[15, 15, 30, 30]]
    assert not (tmp_path / "boxes" / "detections_boxes.json").exists()
    with pytest.raises(UserError, match="--min-score is 40"):
        predict(model, image, tmp_path / "percent", Options(min_score=40))


def test_operating_thresholds_count_instead_of_one_score(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"has no operating thresholds: there is no .*thresholds.json\n.*evaluate the model"):
        predict(model, [str(photos)], tmp_path / "none", Options(thresholds="own"))
    # The surer one of the two detections is just too unsure for its category, and the other just sure enough.
    chosen = (Threshold(2, "nut", 0.876, 20, OWN), Threshold(3, "washer", 0.25, 20, OWN))
    write_thresholds(
        tmp_path / "thresholds.json", Thresholds(Rule(0.9), chosen, {"split": "val", "dataset": "parts", "dataset_digest": "abc"})
    )
    result = predict(model, [str(photos)], tmp_path / "own", Options(thresholds="own", pictures=False))
    assert result.summary["detections"] == 2
    told = capsys.readouterr().out
    assert "operating thresholds (precision=0.9), chosen on val of parts abc: nut 0.876, washer 0.25" in told
    assert "no threshold is chosen for bolt: 0.5 holds" in told
    assert "2 detections scored their category's threshold or more on 2 images" in told
    assert {one["category_id"] for one in read_json(tmp_path / "own" / "detections_boxes.json")} == {3}
    # Of a file elsewhere, and others again are another prediction.
    moved = (tmp_path / "thresholds.json").rename(tmp_path / "mine.json")
    predict(model, [str(photos)], tmp_path / "mine", Options(thresholds=str(moved), pictures=False))
    assert (tmp_path / "mine" / "detections.json").read_bytes() == (tmp_path / "own" / "detections.json").read_bytes()
    write_thresholds(moved, Thresholds(Rule(), chosen[1:], {}))
    again = predict(model, [str(photos)], tmp_path / "mine", Options(thresholds=str(moved), pictures=False))
    assert (again.status, again.summary["detections"]) == ("done", 4)


def test_names_come_from_the_model_from_beside_it_or_from_the_command_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def named(file: Path, label_map: Path | None = None) -> list[str]:
        predict(file, [str(photos)], tmp_path / "out", label_map=label_map)
        return [category["name"] for category in read_json(tmp_path / "out" / "images.json")["categories"]]

    unnamed = write_model(tmp_path / "model.onnx", names=False)
    assert named(unnamed) == ["#2"]
    assert "says no classes' names" in capsys.readouterr().out
    (tmp_path / "label_map.pbtxt").write_text('item { id: 2 name: "beside" }')
    # The folder of an export is a model too.
    assert named(unnamed) == named(tmp_path) == ["beside"]
    (tmp_path / "other.pbtxt").write_text('item { id: 2 name: "given" } item { id: 7 name: "never" }')
    assert named(unnamed, tmp_path / "other.pbtxt") == ["given", "never"]


def test_a_model_of_one_size_gets_images_of_that_size(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixed = write_model(tmp_path / "fixed.onnx", (1, 32, 48, 3))
    predict(fixed, [str(photos)], tmp_path / "out")
    assert read_json(tmp_path / "out" / "detections_boxes.json")[0]["bbox"] == [20, 10, 40, 20]
    assert "takes images of 32 x 48 pixels (height x width): others are resized to that" in capsys.readouterr().out


def a_file(tmp_path: Path) -> Path:
    (tmp_path / "model.h5").touch()
    return tmp_path / "model.h5"


def a_graph_alone(tmp_path: Path) -> Path:
    (tmp_path / "frozen_inference_graph.pb").touch()
    return tmp_path / "frozen_inference_graph.pb"


def no_onnx(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    return tmp_path / "model.onnx"


def a_classifier(tmp_path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "classifier.onnx")
    return tmp_path / "classifier.onnx"


def a_run(tmp_path: Path) -> Path:
    (tmp_path / "run" / "resnet").mkdir(parents=True)
    (tmp_path / "run" / "resnet" / "pipeline.config").touch()
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("make", "problem", "fix"),
    [
        (a_file, "model.h5 is no model", "an ONNX file"),
        (a_graph_alone, "is a checkpoint without a pipeline.config beside it", "--config"),
        (no_onnx, "is no ONNX file that onnxruntime runs", "export the model again"),
        (a_classifier, "is no detection model", "maskline export"),
        (a_run, "run holds several models", "run/resnet"),
    ],
)
def test_what_is_no_model_is_named(photos: Path, tmp_path: Path, make: Callable[[Path], Path], problem: str, fix: str) -> None:
    with pytest.raises(UserError, match=problem) as error:
        predict(make(tmp_path), [str(photos)], tmp_path / "out")
    assert fix in error.value.fix


def test_the_command_needs_no_tensorflow_for_an_onnx_file(model: Path, photos: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules['tensorflow'] = None; from tasks.cli import main; main()"
    words = ["predict", model, photos, "--output", tmp_path / "out", "--result", tmp_path / "result.json", "--min-score", "0.9"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "0 detections scored 0.9 or more on 2 images" in done.stdout
    assert read_json(tmp_path / "result.json")["summary"]["detections"] == 0
