"""The comparison of a run whose detections are made up: its page, its Markdown and its numbers."""

from __future__ import annotations

import base64
import io
import json
import re

import pytest
from PIL import Image

from tasks.compare import compare, compare_models
from tasks.materialize import materialize
from tasks.pipeline_config.parser import read_pipeline_config
from tasks.running.workspace import DatasetDir, RunDir
from tests.comparison.made_up_run import SKILLS, write_run

NAMES = ("mask_rcnn_resnet101_atrous_coco", "mask_rcnn_inception_v2_coco")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    source = folder / "scenes.yaml"
    source.write_text("name: scenes\nshapes: {train: 1, val: 14, height: 96, width: 128, seed: 3}\n")
    materialize(source, folder / "scenes")
    return DatasetDir(folder / "scenes")


@pytest.fixture(scope="module")
def run(workspace, dataset):
    run = RunDir(workspace / "runs" / "made_up")
    write_run(run, dataset, {name: SKILLS[name] for name in NAMES})
    compare(run)
    return run


@pytest.fixture(scope="module")
def page(run):
    return (run.comparison / "comparison.html").read_text()


def test_the_page_needs_nothing_beside_it_and_begins_with_the_verdict(page):
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
    verdict = "no difference shown between resnet101_atrous and inception_v2; with these 14 images"
    places = [page.index(text) for text in ("Highest mask AP: mask_rcnn_resnet101", verdict, "<h2>")]
    assert places == sorted(places)
    sections = re.findall(r'<section id="(\w+)"', page)
    assert sections == ["verdicts", "table", "curves", "categories", "errors", "operating", "disputed", "configs"]
    assert set(re.findall(r'href="#(\w+)"', page)) < set(sections)
    charts = re.findall(r'aria-label="([^"]+)"', page)
    assert charts[:3] == ["mask AP and latency, with 95 % intervals", "Loss", "mask AP on the way"]
    assert len(charts) == 5


def test_the_device_and_the_machine_stand_beside_the_latencies(run, page):
    said = "Inference was timed on a device, a machine."
    assert page.count(said) == 2  # below the verdicts, and below the chart
    assert said in (run.comparison / "comparison.md").read_text()


def test_disputed_images_show_the_truth_and_every_model(run, page):
    found = json.loads((run.comparison / "comparison.json").read_text())["findings"]
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(found["disputed"]) > 5
    assert len(pictures) == len(found["disputed"]) * (1 + len(NAMES))
    for picture in pictures[:3]:
        assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (640, 480)
    disputes = [
        sum(sum(one["objects"].values()) for one in image["told"]) + max(image["false"].values()) - min(image["false"].values())
        for image in found["disputed"]
    ]
    assert disputes == sorted(disputes, reverse=True)


def test_numbers_are_those_of_the_evaluations(run):
    told = json.loads((run.comparison / "comparison.json").read_text())
    for name in NAMES:
        metrics = json.loads((run.model(name).evaluation / "metrics.json").read_text())["metrics"]
        for category, one in told["findings"]["categories"].items():
            assert one["models"][name] == pytest.approx(metrics[f"DetectionMasks_PerformanceByCategory/mAP/{category}"])
        errors = json.loads((run.model(name).evaluation / "analysis" / "errors.json").read_text())["parts"]["all"]
        assert told["findings"]["errors"][name] == errors
        operating = json.loads((run.model(name).evaluation / "analysis" / "operating.json").read_text())["parts"]["all"]
        thresholds = json.loads((run.model(name).evaluation / "thresholds.json").read_text())["categories"]
        fallbacks = {one["name"]: f"{one['reason']}: {one['score']:g}, {one['source']}" for one in thresholds if one["reason"]}
        assert told["findings"]["operating"][name] == {"rule": "best-f1", "fallbacks": fallbacks, **operating}
        row = next(row for row in told["rows"] if row["config"] == name)
        assert row["mask_ap75"] == metrics["DetectionMasks_Precision/mAP@.75IOU"]
        # 0.8 TFLOP for the four images of a step; an hour and a half at two an hour; 2000 MB.
        assert (row["tflop_per_image"], row["training_hours"], row["cost"]) == pytest.approx((0.2, 1.5, 3.0))
        assert row["peak_memory_gb"] == pytest.approx(2000e6 / 2**30)
        assert row["seconds_per_image_batched"] == pytest.approx(SKILLS[name].seconds / 3)
    curve = told["findings"]["losses"][NAMES[0]]
    # 400 steps in groups of four, the first of the steps 1 to 4.
    assert (len(curve), curve[0][0], curve[-1][0]) == (100, 2.5, 398.5)


def test_configs_differ_where_their_fields_do(run):
    told = json.loads((run.comparison / "comparison.json").read_text())["findings"]["config_differences"]
    configs = {name: read_pipeline_config(run.model(name).pipeline_config).model.faster_rcnn for name in NAMES}
    assert told["model.faster_rcnn.feature_extractor.first_stage_features_stride"] == {
        name: str(config.feature_extractor.first_stage_features_stride) for name, config in configs.items()
    }
    assert "model.faster_rcnn.num_classes" not in told


def test_markdown_has_the_same_tables(run):
    text = (run.comparison / "comparison.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == [
        "mask AP by category",
        "AP50 that each kind of error costs (errors scored 0.3 or more)",
        "Operating thresholds (resnet101_atrous: best-f1, inception_v2: best-f1): threshold, precision, recall, F1 (F1 at 0.5)",
        "Objects that one finds and another misses",
        "How the configs differ",
    ]
    rows = [line.count("|") for line in text.splitlines() if line.startswith("| ball")]
    assert rows == [2 + 2 + 1, 2 + 2]


def test_without_its_records_the_page_says_why_there_are_no_pictures(run, dataset, tmp_path):
    (shard,) = dataset.root.glob("val.record-*")
    kept = shard.rename(tmp_path / "kept")
    try:
        compare_models([run.root], tmp_path / "out")
    finally:
        kept.rename(shard)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "<img" not in page
    assert re.search(r"There are no pictures: .*val\.record", page)
