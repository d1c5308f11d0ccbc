"""The comparison of a pipeline run, from the files of its models to what MLflow holds."""

from __future__ import annotations

import json
import re
import shutil
from types import SimpleNamespace

import pytest
import yaml
from mlflow import MlflowClient

from tasks.coco.figures import figures
from tasks.coco.matches import write_matches
from tasks.compare import compare, compare_models
from tasks.comparison.rows import BOX_AP, MASK_AP, MASK_AP50
from tasks.open_run import open_run
from tasks.records.manifest import Manifest, write_manifest
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, RunDir, write_json
from tests.coco.scenes import found_of, matches_of, truth_of

DIGEST = "ab" * 32


@pytest.fixture
def run(workspace, request):
    return RunDir(workspace / "runs" / re.sub(r"\W+", "_", request.node.name))


@pytest.fixture
def dataset(workspace):
    folder = DatasetDir(workspace / "datasets" / "fruits")
    write_manifest(folder.manifest, Manifest("fruits", DIGEST, "PNG_MASKS", (), {}))
    folder.label_map.write_text('item { id: 1 name: "apple" }\n')
    return folder


def trained(run, config, *, parameters=44_000_000, images_per_second=2.5, digest=DIGEST, checkpoint="ckpt-100"):
    result = {
        "config": config,
        "parameters": parameters,
        "images_per_second": images_per_second,
        "checkpoint": str(run.model(config).train / checkpoint),
        "dataset_digest": digest,
    }
    write_json(run.model(config).train / "result.json", result)


def evaluated(run, config, mask_ap, *, mask_ap50=0.5, box_ap=0.4, seconds=0.25, checkpoint="ckpt-100"):
    result = {
        "config": config,
        "checkpoint": str(run.model(config).train / checkpoint),
        "images": 2,
        "objects": 5,
        "seconds_per_image": seconds,
        "metrics": {MASK_AP: mask_ap, MASK_AP50: mask_ap50, BOX_AP: box_ap},
    }
    write_json(run.model(config).evaluation / "metrics.json", result)


def table_of(run):
    """{config: {column title: cell}} of the Markdown table, in its order."""
    text = (run.comparison / "comparison.md").read_text().partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    titles, _, *rows = [[cell.strip().strip("*") for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(titles, row, strict=True)) for row in rows}


def test_two_models_and_one_that_failed(run, dataset, capsys):
    opened = open_run(run, dataset)
    trained(run, "mask_rcnn_resnet50_atrous_coco")
    evaluated(run, "mask_rcnn_resnet50_atrous_coco", 0.25, seconds=0.125)
    trained(run, "mask_rcnn_resnet101_atrous_coco", parameters=63_140_000, images_per_second=1.0)
    evaluated(run, "mask_rcnn_resnet101_atrous_coco", 0.3125, mask_ap50=0.625, box_ap=0.375, seconds=0.5)
    write_json(run.model("mask_rcnn_inception_v2_coco").conversion_report, {})

    result = compare(run)
    assert result.summary["best"] == "mask_rcnn_resnet101_atrous_coco"
    assert result.summary["mask_ap"] == 0.3125
    assert result.summary["not_evaluated"] == ["mask_rcnn_inception_v2_coco"]

    table = table_of(run)
    assert list(table) == [
        "mask_rcnn_resnet101_atrous_coco",
        "mask_rcnn_resnet50_atrous_coco",
        "mask_rcnn_inception_v2_coco",
    ]
    assert table["mask_rcnn_resnet101_atrous_coco"] == {
        "config": "mask_rcnn_resnet101_atrous_coco",
        "mask AP": "0.312",
        "AP50": "0.625",
        "box AP": "0.375",
        "parameters": "63.1 M",
        "train images/s": "1",
        "s/image": "0.500",
        "beside the highest": "highest",
        "state": "evaluated",
    }
    assert table["mask_rcnn_inception_v2_coco"]["state"] == "converted, not trained"
    assert set(table["mask_rcnn_inception_v2_coco"].values()) == {
        "mask_rcnn_inception_v2_coco",
        "converted, not trained",
        "-",
    }
    data = json.loads((run.comparison / "comparison.json").read_text())
    assert data["best"] == "mask_rcnn_resnet101_atrous_coco"
    assert [row["mask_ap"] for row in data["rows"]] == [0.3125, 0.25, None]
    said = capsys.readouterr().out
    assert "converted, not trained" in said
    assert all(config in said for config in table)

    client = MlflowClient(tracking_uri=f"sqlite:///{run.root.parents[1] / 'mlflow.db'}")
    parent = client.get_run(opened.summary["mlflow_run_id"])
    assert parent.info.status == "FAILED"
    assert parent.data.tags["best.config"] == "mask_rcnn_resnet101_atrous_coco"
    # None of its own: beside its models it would be one more bar in every chart.
    assert parent.data.metrics == {}
    note = parent.data.tags["mlflow.note.content"]
    assert "| mask_rcnn_resnet50_atrous_coco | 0.250 |" in note
    assert "Highest mask AP: mask_rcnn_resnet101_atrous_coco, 0.312." in note
    assert "Measured on 2 images with 5 objects." in note
    assert f"({result.summary['mlflow_url']})" in note
    assert "comparison.png" not in note
    assert result.summary["page_url"].split("?")[0].endswith(f"/runs/{parent.info.run_id}/artifacts/compare/comparison.html")
    assert f"MLflow, these models side by side: {result.summary['mlflow_url']}" in said
    assert f"viewStateShareKey={parent.info.run_id}" in result.summary["mlflow_url"]
    assert {file.path for file in client.list_artifacts(parent.info.run_id, "compare")} == {
        f"compare/comparison.{kind}" for kind in ("md", "json", "png", "html")
    }

    # The failed one is mended, and comparing again closes the run as finished.
    trained(run, "mask_rcnn_inception_v2_coco")
    evaluated(run, "mask_rcnn_inception_v2_coco", 0.5)
    assert compare(run).summary["not_evaluated"] == []
    parent = client.get_run(opened.summary["mlflow_run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["best.config"] == "mask_rcnn_inception_v2_coco"


@pytest.mark.parametrize(
    ("prepare", "state"),
    [
        (lambda run: (run.root / "late").mkdir(parents=True), "not converted, not trained"),
        (lambda run: write_json(run.model("late").train / "experiment.json", {}), "training did not finish"),
        (lambda run: trained(run, "late"), "trained, not evaluated"),
        (
            lambda run: (trained(run, "late", checkpoint="ckpt-200"), evaluated(run, "late", 0.9)),
            "evaluated at ckpt-100, trained to ckpt-200",
        ),
    ],
)
def test_how_far_a_model_got(run, prepare, state):
    trained(run, "good")
    evaluated(run, "good", 0.1)
    prepare(run)
    result = compare(run)
    assert table_of(run)["late"]["state"] == state
    assert result.summary["best"] == "good"
    assert result.summary["not_evaluated"] == ["late"]


def test_a_model_of_another_state_of_the_dataset_is_not_ranked(run, dataset):
    open_run(run, dataset)
    trained(run, "good")
    evaluated(run, "good", 0.1)
    trained(run, "other", digest="cd" * 32)
    evaluated(run, "other", 0.9)
    assert compare(run).summary["best"] == "good"
    assert table_of(run)["other"]["state"] == "trained on another state of the dataset"


def test_models_without_masks_are_ranked_by_boxes(run):
    for config, box_ap in (("a", 0.2), ("b", 0.3)):
        trained(run, config)
        evaluated(run, config, -1.0, mask_ap50=-1.0, box_ap=box_ap)
    assert compare(run).summary["best"] == "b"
    assert list(table_of(run)) == ["b", "a"]
    assert table_of(run)["a"]["mask AP"] == "-"


def test_nothing_to_compare(run, dataset):
    opened = open_run(run, dataset)
    with pytest.raises(UserError, match="holds no model to compare"):
        compare(run)
    client = MlflowClient(tracking_uri=f"sqlite:///{run.root.parents[1] / 'mlflow.db'}")
    assert client.get_run(opened.summary["mlflow_run_id"]).info.status == "FAILED"


def test_no_model_evaluated_closes_the_parent_as_failed(run, dataset):
    opened = open_run(run, dataset)
    trained(run, "one")
    with pytest.raises(UserError, match=r"no model was evaluated \(one: trained, not evaluated\)"):
        compare(run)
    assert not run.comparison.exists()
    client = MlflowClient(tracking_uri=f"sqlite:///{run.root.parents[1] / 'mlflow.db'}")
    assert client.get_run(opened.summary["mlflow_run_id"]).info.status == "FAILED"


def test_a_result_file_that_is_not_one_is_named(run):
    trained(run, "one", images_per_second="fast")
    with pytest.raises(UserError, match=r"one/train/result.json: `images_per_second` is 'fast', not a number"):
        compare(run)


@pytest.mark.parametrize(
    ("mask_ap", "box_ap", "said"),
    [
        (-1.0, -1.0, "Nothing to rank: there was nothing to measure."),
        (float("nan"), -1.0, "Nothing to rank: there was nothing to measure."),
        (0.0, 0.0, "Nothing to rank: every model's mask AP is zero."),
        (-1.0, 0.0, "Nothing to rank: every model's box AP is zero."),
    ],
)
def test_no_best_where_nothing_was_measured(run, dataset, capsys, mask_ap, box_ap, said):
    opened = open_run(run, dataset)
    client = MlflowClient(tracking_uri=f"sqlite:///{run.root.parents[1] / 'mlflow.db'}")
    for config in ("a", "b"):
        trained(run, config)
        evaluated(run, config, 0.2)
    assert compare(run).summary["best"] == "a"
    assert client.get_run(opened.summary["mlflow_run_id"]).data.tags["best.config"] == "a"
    for config in ("a", "b"):
        evaluated(run, config, mask_ap, box_ap=box_ap)
    result = compare(run)
    assert (result.summary["best"], result.summary["mask_ap"]) == (None, None)
    assert said in capsys.readouterr().out
    assert said in (run.comparison / "comparison.md").read_text()
    held = client.get_run(opened.summary["mlflow_run_id"])
    assert "best.config" not in held.data.tags
    assert held.info.status == "FINISHED"


def detected(run, config, scores_of_hits, *, images=12):
    """Stores an evaluation: an object in each image, and a detection right on it where `scores_of_hits` has a score."""
    box = [[4, 4, 20, 20]]
    found = [
        (truth_of(image, box, [0]), found_of(box, [scores_of_hits[image]], [0]) if image in scores_of_hits else found_of([], [], []))
        for image in range(1, images + 1)
    ]
    matches = matches_of(found, ((1, "apple"),))
    trained(run, config)
    metrics = figures(matches)
    evaluated(run, config, metrics[MASK_AP], box_ap=metrics[BOX_AP])
    write_matches(run.model(config).evaluation / "matches.npz", matches)
    file = run.model(config).evaluation / "metrics.json"
    write_json(file, json.loads(file.read_text()) | {"images": images, "objects": images})


def test_verdicts_stand_before_the_figures(run, capsys):
    """Of twelve objects all, all but one, and none are found. AP is the recall, to a hundredth: a resample misses some of the twelve."""
    everything = dict.fromkeys(range(1, 13), 0.9)
    detected(run, "all", everything)
    detected(run, "but_one", {image: score for image, score in everything.items() if image != 7})
    detected(run, "none", {})
    result = compare(run)
    assert result.summary["best"] == "all"
    assert result.summary["not_told_apart"] == ["but_one"]
    table = table_of(run)
    assert [table[config]["beside the highest"] for config in ("all", "but_one", "none")] == ["highest", "no difference shown", "worse"]
    compared = json.loads((run.comparison / "comparison.json").read_text())
    rows = {row["config"]: row for row in compared["rows"]}
    assert rows["all"]["interval"] == [1.0, 1.0]
    pairs = {(pair["first"], pair["second"]): pair for pair in compared["verdicts"]["pairs"]}
    assert set(pairs) == {("all", "but_one"), ("all", "none"), ("but_one", "none")}
    # Without the one image, in (11/12)^12 of the resamples, both are alike.
    assert pairs["all", "but_one"]["probability"] == pytest.approx(1 - (11 / 12) ** 12 / 2, abs=0.03)
    assert pairs["all", "none"]["interval"] == [1.0, 1.0]
    said = capsys.readouterr().out
    assert "Highest mask AP: all, 1.000." in said
    assert "- no difference shown between all and but_one; with these 12 images" in said
    assert "- all is better than none by 100.0 to 100.0 points" in said
    assert "Measured on 12 images with 12 objects. Intervals hold 95 % of the time for all pairs together, by 1000 resamples" in said
    assert "Each model was trained once" in said
    text = (run.comparison / "comparison.md").read_text()
    assert text.index("- no difference shown") < text.index("| config |")


def test_few_images_show_no_difference(run, capsys):
    detected(run, "all", dict.fromkeys(range(1, 10), 0.9), images=9)
    detected(run, "none", {}, images=9)
    assert compare(run).summary["not_told_apart"] == ["none"]
    assert "fewer than 10 images show none" in capsys.readouterr().out


def seeded(run, config, seed, found, **settings):
    """One of several trainings of a model, which finds so many of the twelve objects."""
    detected(run, config, dict.fromkeys(range(1, found + 1), 0.9))
    experiment = {"task": {"name": config.partition("-")[0], "train_data": {"seed": seed}}, "trainer": {"train_steps": 100, **settings}}
    (run.model(config).train / "experiment.yaml").write_text(yaml.safe_dump(experiment))


def test_trainings_with_other_seeds_are_one_model_and_their_spread_enters_the_verdict(run, capsys):
    """Of twelve objects n are found, surest first and nothing else: precision is one at the recalls up to n/12, of 101."""
    for config, seed, found in (("a-seed1", 1, 12), ("a-seed2", 2, 6), ("b-seed1", 1, 9), ("b-seed2", 2, 3)):
        seeded(run, config, seed, found, max_to_keep=seed)
    seeded(run, "a-again", 1, 12)  # the first one's seed once more
    seeded(run, "a-longer", 3, 12, train_steps=200)
    result = compare(run)
    told = json.loads((run.comparison / "comparison.json").read_text())
    assert {name: one["trainings"] for name, one in told["seeds"].items()} == {"a": ["a-seed1", "a-seed2"], "b": ["b-seed1", "b-seed2"]}
    assert [one["mask_ap"] for one in told["seeds"].values()] == pytest.approx([(101 + 51) / 202, (76 + 26) / 202])
    # Of two values half their difference, times the root of two.
    spread = 25 / 101 * 2**0.5
    assert [one["spread"] for one in told["seeds"].values()] == pytest.approx([spread, spread])
    standings = {one["name"]: one for one in told["verdicts"]["standings"]}
    assert {name: one["trainings"] for name, one in standings.items()} == {"a": 2, "b": 2, "a-again": 1, "a-longer": 1}
    assert standings["a"]["spread"] == pytest.approx(spread)
    (pair,) = (pair for pair in told["verdicts"]["pairs"] if {pair["first"], pair["second"]} == {"a", "b"})
    assert pair["difference"] == pytest.approx(25 / 101)
    # The error of the difference of two means of two is at least spread x (1/2 + 1/2)^0.5; the interval reaches beyond its double.
    assert pair["interval"][1] - pair["difference"] > 2 * spread
    said = capsys.readouterr().out
    assert "no difference shown between a and b; with these 12 images" in said
    assert "and no number of images shows 1: train more seeds" in said
    assert (
        "trainings of one model differ by 35 points (standard deviation), which is taken to hold of those that were trained once." in said
    )
    table = table_of(run)
    assert list(table) == ["a-again", "a-longer", "a", "a-seed1", "a-seed2", "b", "b-seed1", "b-seed2"]
    assert [table[name]["spread over seeds"] for name in ("a", "a-seed1", "b")] == ["0.350", "-", "0.350"]
    assert [table[name]["seed"] for name in ("a", "a-seed1", "b-seed2", "a-longer")] == ["-", "1", "2", "-"]
    assert (result.summary["best"], result.summary["not_told_apart"]) == ("a-again", ["a-longer", "a", "b"])
    page = (run.comparison / "comparison.html").read_text()
    assert page.count('class="seed"') == 4
    for name in ("a-again", "a-longer"):
        shutil.rmtree(run.model(name).root)
    assert compare(run).summary["best"] == "a-seed1"
    assert "Highest mask AP: a, 0.752 on average of 2 seeds; the highest of these is a-seed1, 1.000." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("missing", "matches.npz does not exist"),
        ("other images", "other images (a has the first)"),
        ("damaged", "is no evaluation's matches"),
    ],
)
def test_what_cannot_be_compared_is_left_out_and_said(run, capsys, spoil, reason):
    detected(run, "a", dict.fromkeys(range(1, 13), 0.9))
    detected(run, "c", dict.fromkeys(range(1, 12), 0.9))
    detected(run, "b", {1: 0.9}, images=11 if spoil == "other images" else 12)
    file = run.model("b").evaluation / "matches.npz"
    if spoil == "missing":
        file.unlink()
    if spoil == "damaged":
        file.write_bytes(file.read_bytes()[:90])
    assert compare(run).summary["not_told_apart"] == ["c"]
    assert table_of(run)["b"]["beside the highest"] == "not tested"
    said = capsys.readouterr().out
    assert "- left out: b, " in said
    assert reason in said


def test_models_of_several_runs_and_a_folder_of_detections(run, workspace, capsys):
    """Under as much of their paths as tells them apart; the runs' own comparisons stay as they are."""
    other = RunDir(run.root.with_name(f"{run.name}_other"))
    for one, found in ((run, 12), (other, 3)):
        detected(one, "config", dict.fromkeys(range(1, found + 1), 0.9))
        detected(one, "second", {})
    detections = run.root.with_name(f"{run.name}_detections") / "model"
    shutil.copytree(run.model("config").evaluation, detections / "evaluation")
    result = compare_models([run.root, other.model("config").root, detections], workspace / "side_by_side")
    names = [f"{run.name}/config", f"{run.name}_detections/model", f"{run.name}_other/config", f"{run.name}/second"]
    assert list(table_of(SimpleNamespace(comparison=workspace / "side_by_side"))) == names
    assert result.summary["best"] == names[0]
    assert f"- no difference shown between {names[0]} and {names[1]}: they are alike on every image" in capsys.readouterr().out
    assert not run.comparison.exists()
    with pytest.raises(UserError, match=r"fewer than two models were evaluated"):
        compare_models([detections])
    with pytest.raises(UserError, match=r"model is one model"):
        compare(RunDir(detections))


def test_opening_a_run_again_is_skipped(run, dataset):
    first, second = open_run(run, dataset), open_run(run, dataset)
    assert (first.status, second.status) == ("done", "skipped")
    assert first.summary == second.summary
    assert first.outputs == {"run": str(run.root), "dataset_page": str(run.root / "dataset.html")}


def test_a_dataset_that_is_not_materialized(run, tmp_path):
    with pytest.raises(UserError, match=r"manifest.json does not exist"):
        open_run(run, DatasetDir(tmp_path))
    assert not run.identity.exists()
