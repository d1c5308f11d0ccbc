"""How MLflow shows an experiment of ours: its kind, and the views that open with our columns and charts.

MLflow's page of runs starts with columns of its own and one chart a metric. It keeps no default for an experiment, but it opens any view
that an experiment's tag `mlflow.sharedViewState.<key>` holds, by the address `?viewStateShareKey=<key>`, and lists them at its top: a JSON
envelope (name, times in milliseconds, state) whose state is the page's own, the facets of its search among it.
"""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tasks.tracking import store
from tasks.tracking.metric_names import mlflow_name

KIND = "mlflow.experimentKind"
NOTE = "mlflow.note.content"
"""The tag whose Markdown MLflow shows on the page of a run or an experiment."""
ROLE, PIPELINE, PIPELINE_RUN = "role", "pipeline", "pipeline_run"
"""Tags of every run: `backbone` or `pipeline`; the pipeline run's name; and its id in MLflow."""

_TRAINING = "custom_model_development"
_TRAINING_PAGES = "workflowType=machine_learning"
"""Without it a browser that was never here shows its pages for GenAI, whatever the experiment's kind."""
_ALL = "backbones"
_VIEW = "mlflow.sharedViewState."
_COLUMNS = (
    ("metrics", "mask_ap", 85),
    ("metrics", "mask_ap50", 95),
    ("metrics", "box_ap", 80),
    ("metrics", "seconds_per_image", 145),
    ("metrics", "images_per_second", 145),
    ("metrics", "steps", 75),
    ("params", "backbone", 190),
    ("tags", ROLE, 85),
    ("tags", PIPELINE, 140),
)
_LOSSES = (
    "Loss/total_loss",
    "Loss/RPNLoss/localization_loss",
    "Loss/RPNLoss/objectness_loss",
    "Loss/BoxClassifierLoss/localization_loss",
    "Loss/BoxClassifierLoss/classification_loss",
    "Loss/BoxClassifierLoss/mask_loss",
)
_STEPS = (
    "learning_rate",
    "gradient_norm",
    "sampled/positive_anchors",
    "sampled/positive_proposals",
    "step/images_per_second",
    "step/input_wait_share",
)
_LAYOUTS = {"validation pictures": {"columns": 1, "cardHeight": 900}}
_PRECISIONS = ("DetectionMasks_Precision/mAP", "DetectionMasks_Precision/mAP@.50IOU", "DetectionBoxes_Precision/mAP")
_ON_THE_WAY = "val/"
"""Before the names of what training measures on the way; `evaluate` measures one step"""
_MOST_PICTURES = 8


def picture_key(number: int) -> str:
    """The name of the n-th picture of a run, from 1; the image grid sets the same name of several runs side by side."""
    return f"pictures/{number:02d}"


def prepare(client: Any, experiment_id: str) -> None:
    """Sees that MLflow shows the experiment as one of trainings, and that the view of all its runs is there; says on its page where."""
    experiment = client.get_experiment(experiment_id)
    tags = experiment.tags
    kind = tags.get(KIND, "")
    # Absent, or what the page itself has guessed; a kind that a person has chosen stays.
    if not kind or kind.endswith("_inferred"):
        client.set_experiment_tag(experiment_id, KIND, _TRAINING)
    _keep(client, experiment_id, _ALL, _envelope("backbones", experiment.creation_time, _state("", order="attributes.start_time")), tags)
    if NOTE not in tags:
        figures, curves = (_page(experiment_id, _ALL, charts=charts) for charts in (False, True))
        note = f"[All backbones with their figures](#{figures}), [their curves and pictures](#{curves})"
        client.set_experiment_tag(experiment_id, NOTE, note)


def keep_view_of(client: Any, pipeline_run: Any) -> None:
    """Keeps the view of one pipeline run's backbones, best first, under the pipeline run's id and name."""
    info = pipeline_run.info
    state = _state(f"tags.{PIPELINE_RUN} = '{info.run_id}' AND tags.{ROLE} = 'backbone'", order="metrics.`mask_ap`")
    tags = client.get_experiment(info.experiment_id).tags
    _keep(client, info.experiment_id, info.run_id, _envelope(info.run_name, info.start_time, state), tags)


def view_address(experiment_id: str, key: str = _ALL, *, charts: bool = False) -> str:
    """The page that opens a kept view: a table, or charts."""
    return f"{store.ui_address()}/#{_page(experiment_id, key, charts=charts)}"


def run_address(experiment_id: str, run_id: str) -> str:
    """The page of one run."""
    return f"{store.ui_address()}/#/experiments/{experiment_id}/runs/{run_id}?{_TRAINING_PAGES}"


def artifact_address(experiment_id: str, run_id: str, path: str) -> str:
    """The page of one of a run's artifacts, which shows what a browser can show."""
    return f"{store.ui_address()}/#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(path)}?{_TRAINING_PAGES}"


def compare_address(experiment_id: str, run_ids: Sequence[str]) -> str:
    """MLflow's page that sets the parameters and metrics of exactly these runs side by side."""
    runs, experiments = (quote(json.dumps(ids, separators=(",", ":"))) for ids in (list(run_ids), [experiment_id]))
    return f"{store.ui_address()}/#/compare-runs?runs={runs}&experiments={experiments}&{_TRAINING_PAGES}"


def _page(experiment_id: str, key: str, *, charts: bool = False) -> str:
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"/experiments/{experiment_id}/runs?viewStateShareKey={key}{mode}&{_TRAINING_PAGES}"


def _keep(client: Any, experiment_id: str, key: str, envelope: str, tags: Mapping[str, str]) -> None:
    if tags.get(_VIEW + key) != envelope:
        client.set_experiment_tag(experiment_id, _VIEW + key, envelope)


def _envelope(name: str, created: int, state: dict[str, Any]) -> str:
    """The state is packed, to a quarter: every page of the experiment loads all of its tags."""
    packed = base64.b64encode(zlib.compress(json.dumps(state, separators=(",", ":")).encode(), level=9)).decode()
    return json.dumps({"name": name, "createdAt": created, "updatedAt": created, "state": f"deflate;{packed}"})


def _state(search: str, order: str) -> dict[str, Any]:
    columns = [f"{kind}.`{name}`" for kind, name, _ in _COLUMNS]
    sections = {
        "accuracy": [_bar(name) for name in ("mask_ap", "mask_ap50", "box_ap")],
        "losses": [_line(name) for name in _LOSSES],
        "validation pictures": [_pictures()],
        "AP over steps": [_line(f"{_ON_THE_WAY}{name}", name) for name in _PRECISIONS],
        "steps": [_line(name) for name in _STEPS],
        "speed": [_bar(name) for name in ("seconds_per_image", "images_per_second")],
    }
    return {
        "searchFilter": search,
        "orderByKey": order,
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {column: width for column, (_, _, width) in zip(columns, _COLUMNS, strict=True)},
        "compareRunCharts": [
            {"uuid": _id(f"{title} {number}"), "metricSectionId": _id(title), "deleted": False, "isGenerated": False, **card}
            for title, cards in sections.items()
            for number, card in enumerate(cards)
        ],
        "compareRunSections": [
            {"uuid": _id(title), "name": title, "display": True, "isReordered": False, "deleted": False, "isGenerated": False}
            | _LAYOUTS.get(title, {})
            for title in sections
        ],
        "isAccordionReordered": True,
    }


def _bar(metric: str) -> dict[str, Any]:
    return {"type": "BAR", "runsCountToCompare": 10, "metricKey": mlflow_name(metric)}


def _line(*metrics: str) -> dict[str, Any]:
    names = [mlflow_name(metric) for metric in metrics]
    return {
        "type": "LINE",
        "runsCountToCompare": 10,
        "metricKey": names[0],
        "selectedMetricKeys": names,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _pictures() -> dict[str, Any]:
    keys = [picture_key(number) for number in range(1, _MOST_PICTURES + 1)]
    return {"type": "IMAGE", "runsCountToCompare": 10, "imageKeys": keys, "step": 0, "showRunParams": False}


def _id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"maskline {name}"))
