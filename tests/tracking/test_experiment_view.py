"""The views that MLflow's page of runs opens, as the experiment's tags hold them."""

from __future__ import annotations

import base64
import json
import zlib

import pytest
from mlflow import MlflowClient

from tasks.tracking import experiment_view

COLUMNS = [
    "metrics.`mask_ap`",
    "metrics.`mask_ap50`",
    "metrics.`box_ap`",
    "metrics.`seconds_per_image`",
    "metrics.`images_per_second`",
    "metrics.`steps`",
    "params.`backbone`",
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return MlflowClient(tracking_uri=f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")


@pytest.fixture
def experiment(client, request):
    return client.create_experiment(request.node.name)


def state_of(client, experiment, key):
    envelope = json.loads(client.get_experiment(experiment).tags[f"mlflow.sharedViewState.{key}"])
    # What MLflow's page asks of an envelope before it opens it.
    assert isinstance(envelope["name"], str)
    assert isinstance(envelope["createdAt"], int)
    assert isinstance(envelope["state"], str)
    assert envelope["state"].startswith("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(envelope["state"].removeprefix("deflate;"))))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "custom_model_development"),
        ("", "custom_model_development"),
        ("genai_development_inferred", "custom_model_development"),
        ("custom_model_development_inferred", "custom_model_development"),
        ("genai_development", "genai_development"),
    ],
)
def test_an_experiment_of_any_age_gets_its_kind_but_a_person_s_choice_stays(client, experiment, before, after):
    if before is not None:
        client.set_experiment_tag(experiment, "mlflow.experimentKind", before)
    experiment_view.prepare(client, experiment)
    assert client.get_experiment(experiment).tags["mlflow.experimentKind"] == after


def test_the_view_of_all_has_the_figures_first_and_hides_nothing(client, experiment):
    experiment_view.prepare(client, experiment)
    state = state_of(client, experiment, "backbones")
    assert state["columnOrder"][:7] == COLUMNS
    assert state["selectedColumns"] == state["columnOrder"]
    assert state["columnWidths"].keys() == set(state["columnOrder"])
    assert (state["searchFilter"], state["orderByKey"], state["orderByAsc"]) == ("", "attributes.start_time", False)


def test_the_view_of_a_pipeline_run_holds_its_backbones_alone_best_first(client, experiment):
    pipeline = client.create_run(experiment, run_name="demo", tags={"role": "pipeline"})
    key = pipeline.info.run_id
    client.set_tag(key, "pipeline_run", key)
    experiment_view.keep_view_of(client, pipeline)
    state = state_of(client, experiment, key)
    assert json.loads(client.get_experiment(experiment).tags[f"mlflow.sharedViewState.{key}"])["name"] == "demo"
    assert state["orderByKey"] == "metrics.`mask_ap`"
    ours = [client.create_run(experiment, tags={"pipeline_run": key, "role": "backbone"}) for _ in range(2)]
    client.create_run(experiment, tags={"pipeline_run": "other", "role": "backbone"})
    found = client.search_runs([experiment], state["searchFilter"])
    assert {run.info.run_id for run in found} == {run.info.run_id for run in ours}


def test_every_chart_has_its_section_and_every_picture_its_place(client, experiment):
    experiment_view.prepare(client, experiment)
    state = state_of(client, experiment, "backbones")
    sections = {section["uuid"]: section["name"] for section in state["compareRunSections"]}
    assert list(sections.values()) == ["accuracy", "losses", "validation pictures", "AP over steps", "steps", "speed"]
    charts = state["compareRunCharts"]
    assert len({chart["uuid"] for chart in charts}) == len(charts)
    by_section = {name: [chart for chart in charts if sections[chart["metricSectionId"]] == name] for name in sections.values()}
    assert [chart["metricKey"] for chart in by_section["accuracy"]] == ["mask_ap", "mask_ap50", "box_ap"]
    # In MLflow's spelling, or the page would find no such metric.
    # What training measured on the way, and the one that `evaluate` did.
    name = "DetectionMasks_Precision/mAP:at:.50IOU"
    assert [f"val/{name}", name] in [chart["selectedMetricKeys"] for chart in by_section["AP over steps"]]
    for section in ("losses", "steps"):
        assert [chart["type"] for chart in by_section[section]] == ["LINE"] * 6
    (pictures,) = by_section["validation pictures"]
    assert pictures["imageKeys"] == [experiment_view.picture_key(number) for number in range(1, 9)]


def test_what_a_person_wrote_on_the_experiment_stays(client, experiment):
    client.set_experiment_tag(experiment, "mlflow.note.content", "ours")
    experiment_view.prepare(client, experiment)
    assert client.get_experiment(experiment).tags["mlflow.note.content"] == "ours"


def test_addresses_open_in_the_browser_s_own_language(monkeypatch):
    monkeypatch.setenv("MASKLINE_MLFLOW_UI", "http://127.0.0.1:5001/")
    table = "http://127.0.0.1:5001/#/experiments/7/runs?viewStateShareKey=abc"
    assert experiment_view.view_address("7", "abc") == f"{table}&workflowType=machine_learning"
    assert experiment_view.view_address("7", "abc", charts=True) == f"{table}&compareRunsMode=CHART&workflowType=machine_learning"
    assert experiment_view.run_address("7", "abc") == "http://127.0.0.1:5001/#/experiments/7/runs/abc?workflowType=machine_learning"
    assert experiment_view.compare_address("7", ["a", "b"]) == (
        "http://127.0.0.1:5001/#/compare-runs?runs=%5B%22a%22%2C%22b%22%5D&experiments=%5B%227%22%5D&workflowType=machine_learning"
    )
