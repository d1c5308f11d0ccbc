"""The queue of what to do next with the data: faults that were put into labels are found, and their patch comes back."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tasks.annotations.record_choice import read_options
from tasks.compare import compare
from tasks.data_queue.doubts import KINDS
from tasks.materialize import materialize
from tasks.regrade import regrade
from tasks.review import Options, review
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, RunDir, read_json
from tests.data_queue.faulty_labels import Spoilt, coded, write_model, write_spoilt


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Spoilt:
    return write_spoilt(tmp_path_factory.mktemp("spoilt"))


@pytest.fixture(scope="module")
def models(spoilt: Spoilt, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [write_model(folder / f"model_{seed}", spoilt.dataset, spoilt.truth, seed).root for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def queue(spoilt: Spoilt, models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("queue") / "queue"
    review(models, folder, options=Options(images=3), dataset_yaml=spoilt.dataset_yaml)
    return folder


def overlap(one: dict[str, Any], other: dict[str, Any], size: tuple[int, int] = (96, 128)) -> float:
    codes = [
        coded(each["segmentation"])
        if isinstance(each["segmentation"], dict)
        else coco_mask.merge(coco_mask.frPyObjects(each["segmentation"], *size))
        for each in (one, other)
    ]
    return float(coco_mask.iou([codes[0]], [codes[1]], [False])[0, 0])


def test_the_faults_and_no_others_are_in_doubt(spoilt: Spoilt, queue: Path) -> None:
    told = read_json(queue / "queue.json")
    assert told["counts"] == dict.fromkeys(KINDS, 1)
    images = {one["id"]: one["image_id"] for one in [*spoilt.truth["annotations"], *spoilt.labels["annotations"]]}
    assert {one["kind"]: int(one["image"]) for one in told["doubts"]} == {kind: images[number] for kind, number in spoilt.faults.items()}
    scores = [one["score"] for one in told["doubts"]]
    assert scores == sorted(scores, reverse=True)
    taught = [one["score"] for one in told["teaching"]]
    assert len(taught) == 3
    assert taught == sorted(taught, reverse=True)
    assert not {one["image"] for one in told["teaching"]} & {one["image"] for one in told["doubts"]}


def test_the_patch_is_coco_with_the_annotations_own_ids(spoilt: Spoilt, queue: Path) -> None:
    patch = COCO(queue / "corrections.json")
    ours = {one["id"]: one for one in patch.dataset["annotations"]}
    labels = {one["id"]: one for one in spoilt.labels["annotations"]}
    truth = {one["id"]: one for one in spoilt.truth["annotations"]}
    images = {one["id"] for one in patch.dataset["images"]}
    # All objects of the images are there, those without a doubt to the letter.
    assert set(ours) - {2000000} == {number for number, one in labels.items() if one["image_id"] in images}
    assert len(images) == 7
    wrong, missing, loose, phantom = (spoilt.faults[kind] for kind in KINDS)
    assert {number: one for number, one in ours.items() if "attributes" not in one} == {
        number: one for number, one in labels.items() if one["image_id"] in images and number not in (wrong, loose, phantom)
    }
    assert {**ours[wrong], "attributes": 0} == {**truth[wrong], "attributes": 0}
    names = {one["id"]: one["name"] for one in spoilt.labels["categories"]}
    assert ours[wrong]["attributes"]["maskline_was"] == names[labels[wrong]["category_id"]]
    assert (ours[2000000]["image_id"], ours[2000000]["category_id"]) == (truth[missing]["image_id"], truth[missing]["category_id"])
    assert overlap(ours[2000000], truth[missing]) > 0.85
    assert overlap(ours[loose], labels[loose]) < 0.6
    assert overlap(ours[loose], truth[loose]) > 0.85
    assert {name: ours[phantom][name] for name in labels[phantom]} == labels[phantom]
    assert ours[phantom]["attributes"]["maskline_proposal"] == "look: keep or remove"
    for number in (wrong, 2000000, loose, phantom):
        assert re.search(r"3 models|no model", ours[number]["attributes"]["maskline_why"])


def test_datumaro_reads_the_patch_with_its_attributes(queue: Path, tmp_path: Path) -> None:
    """CVAT's own reader of COCO."""
    datumaro = pytest.importorskip("datumaro")
    folder = tmp_path / "coco" / "annotations"
    folder.mkdir(parents=True)
    (tmp_path / "coco" / "images").mkdir()
    (folder / "instances_val.json").write_text((queue / "corrections.json").read_text())
    read = datumaro.Dataset.import_from(str(folder / "instances_val.json"), "coco_instances")
    patch = json.loads((queue / "corrections.json").read_text())
    found = {one.id: one for item in read for one in item.annotations}
    assert set(found) == {one["id"] for one in patch["annotations"]}
    for one in patch["annotations"]:
        given = found[one["id"]].attributes
        assert {name: given[name] for name in one.get("attributes", {})} == one.get("attributes", {})


def test_the_page_needs_nothing_beside_it(queue: Path) -> None:
    page = (queue / "queue.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="([^"]+)"', page)
    # Label and three models, and what is proposed for three of four doubts; the whole image for three others.
    assert len(pictures) == 4 * 4 + 3 + 3 * 4
    assert all(max(Image.open(io.BytesIO(base64.b64decode(content))).size) in (300, 480) for content, _ in pictures)
    for kind in KINDS:
        assert f". {kind}: " in page


def test_the_reviewed_patch_corrects_the_data_and_the_gain_is_told(
    workspace: Path, spoilt: Spoilt, models: list[Path], queue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reviewed = json.loads((queue / "corrections.json").read_text())
    reviewed["annotations"] = [one for one in reviewed["annotations"] if one["id"] != spoilt.faults["seen by no model"]]
    file = tmp_path / "reviewed.json"
    file.write_text(json.dumps(reviewed))
    corrected = DatasetDir(tmp_path / "corrected")
    result = materialize(spoilt.dataset_yaml, corrected.root, read_options({"corrections": file}, "command line", tmp_path))
    counts = result.summary["corrections"]
    assert (counts["replaced"], counts["added"], counts["removed"]) == (2, 1, 1)
    after = write_model(tmp_path / "after", corrected, spoilt.truth, 1)
    worse = write_model(tmp_path / "worse", spoilt.dataset, spoilt.truth, 4, finds=0.5)
    capsys.readouterr()
    (same,) = regrade(models[0], after.root, output=tmp_path / "out").summary["models"]
    told = capsys.readouterr().out
    assert "of 16 images, 4 have other labels now; objects: 2 replaced, 1 added, 1 removed" in told
    # The same detections: what they gain is the labels' doing, and no model's.
    by_old, before, now = (read_json(folder / "metrics.json")["metrics"]["DetectionMasks_Precision/mAP"] for folder in (
        models[0] / "evaluation", after.evaluation, after.evaluation))  # fmt: skip
    assert (same["before_by_old_labels"], same["before_by_new_labels"], same["after_by_new_labels"]) == pytest.approx((by_old, before, now))
    assert by_old < before
    assert not same["shown"]
    assert "no difference shown" in told
    assert read_json(tmp_path / "out" / "regraded.json")["models"][0]["verdict"]["difference"] == 0
    run, earlier = (RunDir(a_run(tmp_path / name, model=of)) for name, of in (("run", after.root), ("earlier", models[0])))
    compared = compare(run, earlier).summary
    assert compared["gained"] == [line.replace("model_1", "earlier/model").replace("after", "run/model") for line in same["sentences"]]
    page = (run.comparison / "comparison.html").read_text()
    assert page.index("<h2>What the data gained</h2>") < page.index("of 16 images, 4 have other labels now")
    assert compare(run, RunDir(a_run(tmp_path / "alike", model=after.root))).summary["gained"] == []
    (told,) = compare(run, RunDir(a_run(tmp_path / "stranger", one=models[0], two=models[1]))).summary["gained"]
    assert told.startswith("beside the run stranger nothing can be told: no model of ")
    with pytest.raises(UserError, match="nowhere is not a folder"):
        compare(run, RunDir(tmp_path / "nowhere"))
    capsys.readouterr()
    (better,) = regrade(worse.root, after.root).summary["models"]
    assert better["shown"]
    assert "after is better than worse by" in capsys.readouterr().out
    assert better["after_by_new_labels"] == now
    # A second round begins where the first has ended: nothing is in doubt, and ids stay.
    described = yaml.safe_load(spoilt.dataset_yaml.read_text()) | {"corrections": str(file)}
    second = spoilt.dataset_yaml.with_name("second.yaml")
    second.write_text(yaml.safe_dump(described))
    other = write_model(tmp_path / "other", corrected, spoilt.truth, 2)
    assert review([after.root, other.root], tmp_path / "again", dataset_yaml=second).summary["doubts"] == dict.fromkeys(KINDS, 0)
    again = json.loads((tmp_path / "again" / "corrections.json").read_text())
    assert 2000000 in {one["id"] for one in again["annotations"]} or all(one["file_name"] != "val_000001.jpg" for one in again["images"])
    unchanged = materialize(second, tmp_path / "third", read_options(
        {"corrections": [file, tmp_path / "again" / "corrections.json"]}, "command line", tmp_path))  # fmt: skip
    assert unchanged.summary["objects"] == result.summary["objects"]


def test_without_the_yaml_the_objects_are_the_records(spoilt: Spoilt, models: list[Path], tmp_path: Path) -> None:
    review(models, tmp_path / "queue", options=Options(images=0))
    patch = json.loads((tmp_path / "queue" / "corrections.json").read_text())
    assert len(patch["images"]) == 4
    result = materialize(
        spoilt.dataset_yaml, tmp_path / "out", read_options({"corrections": tmp_path / "queue" / "corrections.json"}, "", tmp_path)
    )
    # Told by their shapes: those that were only traced anew are as they were, rings with their holes too, and the half of an object is
    # too little to be it.
    assert result.summary["corrections"] == {
        "images": 4,
        "replaced": 1,
        "added": 2,
        "removed": 1,
        "unchanged": len(patch["annotations"]) - 3,
    }


def test_what_cannot_be_reviewed_is_said(spoilt: Spoilt, models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"fewer than two models were evaluated on the same images\n.*another model"):
        review(models[:1], tmp_path / "out")
    with pytest.raises(UserError, match=r"fewer than two .*evaluation_test/matches.npz does not exist"):
        review(models, tmp_path / "out", "test")
    for options, message in (({"sure": 0.1}, "--min-score is 0.1"), ({"doubts": -1}, "--doubts is -1")):
        with pytest.raises(UserError, match=message):
            Options(**options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="is not empty, and holds no earlier queue"):
        review(models, tmp_path / "mine")
    truth = json.loads((spoilt.dataset_yaml.parent / "val.json").read_text())
    changed = tmp_path / "changed.yaml"
    changed.write_text((spoilt.dataset_yaml.read_text()).replace("images: images", f"images: {spoilt.dataset_yaml.parent}/images").replace(
        "annotations: train", f"annotations: {spoilt.dataset_yaml.parent}/train"))  # fmt: skip
    (tmp_path / "val.json").write_text(json.dumps(truth | {"annotations": truth["annotations"][5:]}))
    with pytest.raises(UserError, match=r"an object of val_\d+.jpg that was evaluated is not annotated so"):
        review(models, tmp_path / "out", dataset_yaml=changed)
    # Another state of the data is left out, and without the records there are no pictures.
    other = write_model(tmp_path / "other", spoilt.dataset, spoilt.truth, 7)
    matches = read_json(other.evaluation / "metrics.json")
    assert matches["records"]
    (shard,) = spoilt.dataset.root.glob("val.record-*")
    kept = shard.rename(tmp_path / "kept")
    try:
        review(models, tmp_path / "out", options=Options(images=1))
    finally:
        kept.rename(shard)
    assert "There are no pictures: " in capsys.readouterr().out
    assert "<img" not in (tmp_path / "out" / "queue.html").read_text()


def a_run(folder: Path, **models: Path) -> Path:
    """A run with copies of models by other names."""
    for name, model in models.items():
        shutil.copytree(model / "evaluation", folder / name / "evaluation")
    return folder


def test_of_two_runs_each_model_is_held_against_that_of_its_name(
    models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = a_run(tmp_path / "before", small=models[0], large=models[1], gone=models[2])
    after = a_run(tmp_path / "after", small=models[0], large=models[2])
    told = regrade(before, after).summary["models"]
    assert [(one["before"], one["after"]) for one in told] == [("before/large", "after/large"), ("before/small", "after/small")]
    (alone,) = regrade(before / "large", after / "large").summary["models"]
    assert told[0]["after_by_new_labels"] == alone["after_by_new_labels"]
    assert told[1]["before_by_new_labels"] == told[1]["after_by_new_labels"]
    assert "left out: gone, which one of the two alone has" in capsys.readouterr().out


def test_models_that_cannot_be_regraded(models: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are one model"):
        regrade(models[0], models[0])
    with pytest.raises(UserError, match=r"no model of .*model_1 has the name of one of .*: model_1, and other, third"):
        regrade(a_run(tmp_path / "run", other=models[1], third=models[2]), models[0])
    with pytest.raises(UserError, match="is not a folder"):
        regrade(tmp_path / "none", models[0])
    (same,) = regrade(models[0], models[1]).summary["models"]
    assert "both were evaluated on the same state of the dataset" in same["sentences"][0]
