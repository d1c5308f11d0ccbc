"""The step that shows a dataset: what the page says, what is printed, and how the command ends."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tasks.inspect import inspect
from tasks.materialize import Effort, materialize
from tasks.records.checks import DataError
from tasks.records.dataset_page import most_common_image_sizes
from tasks.records.statistics import Statistics
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir
from tests.records.small_records import square, write_dataset
from tests.small_dataset import change_annotations, validation_source, write_source

HOSTILE = "<script>alert('cat')</script>"
NAMES = {1: HOSTILE, 3: "dog"}
TRAIN = [[], [square(1, 10), square(1, 31), square(3, 32, is_crowd=True)]]
VAL = [[square(3, 50)]] * 30


class Page(HTMLParser):
    """The elements of a page, the cells of its tables row by row, and the texts of all other elements that have any."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and self.tags[-1] in ("td", "code"):
            self.rows[-1][-1] += data.strip()
        if data.strip():
            self.texts.append(" ".join(data.split()))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetDir:
    folder = DatasetDir(tmp_path_factory.mktemp("datasets") / "tiny")
    write_dataset(folder, {"train": TRAIN, "val": VAL}, NAMES)
    return folder


@pytest.fixture(scope="module")
def page(dataset: DatasetDir) -> Page:
    return Page(Path(inspect(dataset).outputs["page"]).read_text())


def test_the_page_says_what_there_is(page: Page) -> None:
    assert page.rows[:3] == [[], [HOSTILE, "1", "2", "0", "1", ""], ["dog", "3", "1", "1", "1", ""]]
    tiles = ["2", "images", "1", "without objects", "3", "objects", "1", "crowds among them"]
    tiles += ["2", "small objects", "1", "medium objects", "0", "large objects"]
    assert page.texts[(start := page.texts.index("2")) : start + len(tiles)] == tiles
    # Objects in an image: none in one, three in the other. Boxes of 100, 961 and 1024 pixels.
    titles = [text for text in page.texts if ": " in text and text[0].isdigit()]
    assert titles[:3] == ["0: 1", "1: 0", "2 to 3: 1"]
    assert titles[3:8] == ["64 to 127: 1", "128 to 255: 0", "256 to 511: 0", "512 to 1023: 1", "1024 to 2047: 1"]
    assert titles[3:8] == titles[8:13]
    assert ["60 x 80", "2"] in page.rows
    assert ["60 x 80", "30"] in page.rows
    assert ["box-clipped", "3", "fixed", "the box left the image; it is clipped"] in page.rows
    assert ["image-empty", "1", "quarantined", "the image file has no bytes"] in page.rows


def test_a_page_needs_nothing_beside_it_and_obeys_no_name(page: Page) -> None:
    assert page.texts.count(HOSTILE) == 2  # once for each split
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(value.startswith(("data:image/jpeg;base64,", "#")) for name, value in page.attributes if name in ("src", "href"))
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_a_dozen_pictures_of_each_split(page: Page) -> None:
    pictures = [value for name, value in page.attributes if name == "src"]
    assert len(pictures) == len(TRAIN) + 12
    # The longer side is enlarged from 80 pixels to 640.
    sizes = [Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))).size for picture in pictures]
    assert set(sizes) == {(640, 480)}


def test_what_has_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier, later = DatasetDir(tmp_path / "earlier"), DatasetDir(tmp_path / "later")
    write_dataset(earlier, {"val": [[square(1, 50)]] * 9, "test": []}, {1: "cat", 2: "eel"})
    write_dataset(later, {"val": [[square(3, 50)]] * 8 + [[square(7, 50)]], "train": []}, {3: "cat", 7: "dog"})
    result = inspect(later, earlier.root)
    assert result.summary == {"images": {"val": 9, "train": 0}, "drift": {"val": ["objects by category"]}}
    assert "+dog" in capsys.readouterr().out
    page = Page(Path(result.outputs["page"]).read_text())
    assert {"split test is gone", "split train is new"} <= set(page.texts)
    assert page.rows[:3] == [[], ["cat", "100.0%", "88.9%"], ["dog", "0.0%", "11.1%"]]
    assert inspect(later, earlier.manifest).summary == result.summary


def test_names_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = DatasetDir(tmp_path / "tiny")
    write_dataset(folder, {"train": [[square(1, 9)]]}, {1: "[red]cat[/red]"})
    inspect(folder, output=tmp_path / "page")
    assert "│ [red]cat[/red] │ 1 " in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "page").iterdir()] == ["index.html"]


def test_a_broken_record_leaves_the_earlier_page(tmp_path: Path) -> None:
    folder = DatasetDir(tmp_path / "tiny")
    write_dataset(folder, {"train": [[square(1, 9)]]}, {1: "cat"})
    page = folder.root / "index.html"
    page.write_text("earlier")
    (folder.root / "train.record-00000-of-00001").write_bytes(b"no record")
    with pytest.raises(UserError, match="record 0 is cut off or damaged"):
        inspect(folder)
    assert page.read_text() == "earlier"


def test_the_command_needs_no_tensorflow(dataset: DatasetDir, tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    arguments = ["inspect", str(dataset.root), "--against", str(dataset.manifest), "--result", str(answer)]
    program = f"import sys, atexit; sys.argv = {['maskline', *arguments]!r}\nfrom tasks.cli import main\n"
    program += "atexit.register(lambda: print('tensorflow' in sys.modules, file=sys.stderr))\nmain()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.split()[-1] == "False"
    assert json.loads(answer.read_text())["summary"]["drift"] == {"train": [], "val": []}


def test_rare_image_sizes_are_one_line() -> None:
    statistics = Statistics(image_sizes=Counter({f"{side} x 10": 20 - side for side in range(1, 13)}))
    told = most_common_image_sizes(statistics)
    assert told[:2] == [("1 x 10", 19), ("2 x 10", 18)]
    assert told[9:] == [("10 x 10", 10), ("2 others", 9 + 8)]


def test_the_first_of_each_kind_of_fault_is_shown_with_what_was_done(tmp_path: Path) -> None:
    """Three boxes are elsewhere, one image is grey, one object is smaller than a pixel, one file is empty and one of another size."""
    write_source(tmp_path / "in")

    def spoil(content: dict[str, Any]) -> None:
        for one in content["annotations"][:3]:
            one["bbox"] = [12, 4, 10, 10]
        content["annotations"][4]["segmentation"] = [[30, 2, 40, 2, 40, 12]]
        content["images"][7]["width"] = 25

    change_annotations(tmp_path / "in", spoil)
    image = tmp_path / "in" / "images" / "5.png"
    Image.open(image).convert("L").save(image)
    (tmp_path / "in" / "images" / "6.png").write_bytes(b"")
    dataset = DatasetDir(tmp_path / "out")
    source = tmp_path / "in" / "dataset.yaml"
    splits = {"train": {"images": "images", "annotations": "all.json"}, "val": validation_source(tmp_path / "in")}
    source.write_text(yaml.safe_dump({"name": "tiny", "splits": splits}))
    materialize(source, dataset.root, effort=Effort(max_bad=2))
    page = Page(Path(inspect(dataset).outputs["page"]).read_text())
    alts = [value for name, value in page.attributes if name == "alt" and ": " in (value or "")]
    # Of the empty file there is nothing to see; the one of another size is read where it lies.
    assert alts == ["box-off-mask: 0.png", "image-grey: 5.png", "object-outside: 4.png", "image-size: 7.png"]
    captions = " ".join(page.texts)
    assert "box-off-mask in 3 images 0.png, " in captions
    assert "annotation 100 of image 0.png: the box [4.0, 12.0, 14.0, 22.0] becomes [2.0, 2.0, 12.0, 12.0]" in captions
    assert "6.png: the image file is empty" in captions
    assert "37.5% of all objects have box-off-mask" in captions


def test_what_was_found_in_a_source_itself_is_shown_of_no_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def add_roots(content: dict[str, Any]) -> None:
        for category in content["categories"]:
            category["supercategory"] = "things"
        content["categories"] += [{"id": 90, "name": "things", "supercategory": "all"}, {"id": 91, "name": "all"}]

    write_source(tmp_path / "in")
    change_annotations(tmp_path / "in", add_roots)
    dataset = DatasetDir(tmp_path / "out")
    materialize(tmp_path / "in" / "dataset.yaml", dataset.root)
    listed = [json.loads(line) for line in dataset.findings.read_text().splitlines()]
    assert [(line["split"], line["source"], line["code"], line["times"]) for line in listed] == [("", "tiny", "category-root", 2)]
    capsys.readouterr()
    page = " ".join(Page(Path(inspect(dataset).outputs["page"]).read_text()).texts)
    assert "What was found in the source itself code times outcome meaning category-root 2 left out no object has the category" in page
    assert page.count("Nothing had to be mended, left out or quarantined.") == 2
    assert re.search(r"\(source\)\W+category-root\W+2\W", capsys.readouterr().out)
    with pytest.raises(DataError, match="category-root is found more than 1 times"):
        materialize(tmp_path / "in" / "dataset.yaml", dataset.root, effort=Effort(limits={"category-root": 1}))


def test_findings_that_are_none_are_named(tmp_path: Path) -> None:
    folder = DatasetDir(tmp_path / "tiny")
    write_dataset(folder, {"train": [[square(1, 9)]]}, {1: "cat"})
    folder.findings.write_text('{"split": "train"}\n')
    with pytest.raises(UserError, match=r"findings\.jsonl, line 1: not a finding"):
        inspect(folder)
