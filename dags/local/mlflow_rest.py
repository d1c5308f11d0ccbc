"""What a person opens in MLflow: the pages of the experiments that maskline's trainings have written."""

from __future__ import annotations

import json
import urllib.request

VIEW = "backbones"
"""The view of all backbones' runs that the trainer keeps with each of its experiments."""

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_MOST = 10
_TIMEOUT_SECONDS = 10.0


def experiment_pages(url: str) -> dict[str, str]:
    """The page of each experiment with such a view, by its name, the latest first; none where MLflow at `url` does not answer."""
    asked = {"max_results": 1000, "order_by": ["last_update_time DESC"]}
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/experiments/search", data=json.dumps(asked).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with _DIRECT.open(request, timeout=_TIMEOUT_SECONDS) as response:
            experiments = json.load(response).get("experiments", [])
    except (OSError, ValueError):
        return {}
    view = f"mlflow.sharedViewState.{VIEW}"
    ours = [experiment for experiment in experiments if any(tag["key"] == view for tag in experiment.get("tags", []))]
    return {experiment["name"]: _page(url, experiment["experiment_id"]) for experiment in ours[:_MOST]}


def comparison_page(url: str, experiment_id: str, pipeline_run: str) -> str:
    """The charts and pictures of one pipeline run's backbones, side by side."""
    return f"{_page(url, experiment_id, pipeline_run)}&compareRunsMode=CHART"


def _page(url: str, experiment_id: str, view: str = VIEW) -> str:
    return f"{url}/#/experiments/{experiment_id}/runs?viewStateShareKey={view}&workflowType=machine_learning"
