"""The files of an analysis: numbers by slices, and pictures that can be read."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from tasks.coco.figures import figures
from tasks.coco.matches import Matches
from tasks.evaluation.analysis import write_analysis
from tasks.evaluation.slices import read_attributes, slices_of, unsliced, with_attributes
from tasks.running.errors import UserError
from tests.coco.scenes import found_of, matches_of, scenes, truth_of

NAMES = ("summary", "categories", "curves", "calibration", "confusion", "errors", "operating")


def with_cameras(images: int = 12, cameras: tuple[str, ...] = ("left", "right")) -> Matches:
    found = enumerate(scenes(images, seed=2))
    return matches_of([(dataclasses.replace(truth, attributes={"camera": cameras[n % len(cameras)]}), one) for n, (truth, one) in found])


def test_every_attribute_has_the_seven_as_numbers_and_pictures(tmp_path: Path) -> None:
    matches = with_cameras()
    assert write_analysis(matches, tmp_path) == ["object_size", "objects_in_image", "camera"]
    folders = [tmp_path / "analysis", *(tmp_path / "slices" / name for name in ("object_size", "objects_in_image", "camera"))]
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {f"{name}.{kind}" for name in NAMES for kind in ("json", "png")}
        for name in NAMES:
            assert Image.open(folder / f"{name}.png").width > 300
    read = {name: json.loads((tmp_path / "analysis" / f"{name}.json").read_text()) for name in NAMES}
    assert all((one["attribute"], one["by"], list(one["parts"])) == ("all", "mask", ["all"]) for one in read.values())
    # The same as the published figures.
    published = figures(matches)
    summary = read["summary"]["parts"]["all"]
    for kind, prefix in (("mask", "Masks"), ("box", "Boxes"), ("boundary", "Boundaries")):
        assert summary[f"{kind} AP"] == pytest.approx(published[f"Detection{prefix}_Precision/mAP"])
        assert summary[f"{kind} AP75"] == pytest.approx(published[f"Detection{prefix}_Precision/mAP@.75IOU"])
    apples = read["categories"]["parts"]["all"]["apple"]
    assert apples["mask AP"] == pytest.approx(published["DetectionMasks_PerformanceByCategory/mAP/apple"])
    curves = read["curves"]["parts"]["all"]["precision"]
    assert np.mean(curves["0.50:0.95"]) == pytest.approx(published["DetectionMasks_Precision/mAP"], abs=1e-5)
    sizes = json.loads((tmp_path / "slices" / "object_size" / "summary.json").read_text())["parts"]
    assert {"small", "medium"} <= set(sizes)
    for size, one in sizes.items():
        assert one["mask AP"] == pytest.approx(published[f"DetectionMasks_Precision/mAP ({size})"])
    # What one camera's images alone give.
    left = matches_of([image for number, image in enumerate(scenes(12, seed=2)) if number % 2 == 0])
    cameras = json.loads((tmp_path / "slices" / "camera" / "summary.json").read_text())["parts"]
    assert cameras["left"]["images"] == 6
    assert cameras["left"]["boundary AP50"] == pytest.approx(figures(left)["DetectionBoundaries_Precision/mAP@.50IOU"])


def test_writing_again_replaces_what_was_there(tmp_path: Path) -> None:
    write_analysis(with_cameras(4), tmp_path)
    assert write_analysis(with_cameras(4, cameras=("one",)), tmp_path) == ["object_size", "objects_in_image"]
    assert {path.name for path in (tmp_path / "slices").iterdir()} == {"object_size", "objects_in_image", "unsliced.json"}


def test_attributes_that_tell_single_images_apart_are_named_instead(tmp_path: Path) -> None:
    matches = with_cameras(24, cameras=tuple(f"number {number}" for number in range(24)))
    assert unsliced(matches) == {"camera": 24}
    assert "camera" not in write_analysis(matches, tmp_path)
    assert json.loads((tmp_path / "slices" / "unsliced.json").read_text()) == {"camera": 24}


def test_an_attribute_s_name_may_be_no_folder_s(tmp_path: Path) -> None:
    images = [(dataclasses.replace(truth, attributes={"lens/type": str(n % 2)}), one) for n, (truth, one) in enumerate(scenes(4, seed=2))]
    write_analysis(matches_of(images), tmp_path)
    (folder,) = (tmp_path / "slices").glob("lens_type*")
    assert json.loads((folder / "summary.json").read_text())["attribute"] == "lens/type"


def test_crowding_and_size_of_images() -> None:
    boxes = [[index * 20, 0, index * 20 + 10, 10] for index in range(11)]
    images = [(truth_of(n + 1, boxes[:count], [0] * count), found_of([], [], [])) for n, count in enumerate((0, 1, 3, 4, 11))]
    images.append((truth_of(6, [], [], size=(100, 1300)), found_of([], [], [])))
    slices = slices_of(matches_of(images))
    assert {part.name: part.images.nonzero()[0].tolist() for part in slices["objects_in_image"]} == {
        "no object": [0, 5],
        "1 to 3 objects": [1, 2],
        "4 to 10 objects": [3],
        "11 objects or more": [4],
    }
    assert {part.name: part.images.sum() for part in slices["image_size"]} == {"up to 640 pixels": 5, "above 1280 pixels": 1}


def test_a_side_file_names_images_by_file_or_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "attributes.csv"
    file.write_text("image,source,hour\n1.jpg,web,7\n2,phone,8\n")
    matches = with_attributes(with_cameras(3), read_attributes(file), file)
    assert matches.images.attributes["source"].tolist() == ["web", "phone", ""]
    assert matches.images.attributes["camera"].tolist() == ["left", "right", "left"]
    assert f"{file} says nothing of 1 of 3 images" in capsys.readouterr().out
    assert [part.name for part in slices_of(matches)["source"]] == ["(none)", "phone", "web"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no attribute"),
        ("image\n1.jpg\n", "holds no attribute"),
        ("image,camera\n", "holds no attribute"),
        ("image,camera,camera\n1.jpg,a,b\n", "its columns are image, camera, camera"),
        ("image,camera\n1.jpg,a,b\n", "line 2 has 3 columns, the first 2"),
        ("image,camera\n1.jpg,a\n1.jpg,b\n", "line 3 names 1.jpg again"),
        ("image,camera\nother.jpg,a\n", r"names none of the 3 images, but other.jpg\n.*1.jpg or 1"),
    ],
)
def test_a_side_file_that_says_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "attributes.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        with_attributes(with_cameras(3), read_attributes(file), file)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, to look into them."""
    made: list[Figure] = []

    class Kept(Figure):  # type: ignore[misc]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr("tasks.evaluation.analysis_pictures.Figure", Kept)
    return made


@pytest.mark.parametrize("cameras", [("one",), ("left", "a camera whose name somebody made very long and then longer", "")])
def test_no_text_leaves_its_picture(tmp_path: Path, drawn: list[Figure], cameras: tuple[str, ...]) -> None:
    write_analysis(with_cameras(6, cameras), tmp_path)
    assert len(drawn) >= 6
    for figure in drawn:
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
        for axes in figure.axes:
            low, high = sorted(axes.get_ylim())
            # Ticks beyond the axes have a label too, which is not drawn.
            ticks = [label for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
            texts += [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *ticks]
        for text in texts:
            box = text.get_window_extent(renderer)
            if text.get_text() and text.get_visible() and box.width > 0:
                assert figure.bbox.x0 - 1 <= box.x0, text.get_text()
                assert box.x1 <= figure.bbox.x1 + 1, text.get_text()
                assert figure.bbox.y0 - 1 <= box.y0, text.get_text()
                assert box.y1 <= figure.bbox.y1 + 1, text.get_text()


def test_an_evaluation_without_an_object_is_drawn_too(tmp_path: Path) -> None:
    matches = matches_of([(truth_of(1, [], []), found_of([], [], [])), (truth_of(2, [], []), found_of([[0, 0, 9, 9]], [0.9], [0]))])
    write_analysis(matches, tmp_path)
    assert json.loads((tmp_path / "analysis" / "summary.json").read_text())["parts"]["all"]["mask AP"] is None
    assert Image.open(io.BytesIO((tmp_path / "analysis" / "errors.png").read_bytes())).width > 300
