"""Where a run came from: the Airflow task, the program's version and commit, the user."""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.tracking.experiment_view import NOTE

_AIRFLOW_VARIABLES = {
    "airflow.dag_id": "MASKLINE_AIRFLOW_DAG_ID",
    "airflow.run_id": "MASKLINE_AIRFLOW_RUN_ID",
    "airflow.task_id": "MASKLINE_AIRFLOW_TASK_ID",
    "airflow.try_number": "MASKLINE_AIRFLOW_TRY_NUMBER",
    "airflow.url": "MASKLINE_AIRFLOW_URL",
}
_PACKAGES = ("maskline", "tensorflow", "tensorflow-cpu", "tf-models-official", "numpy")


def airflow_tags() -> dict[str, str]:
    """The Airflow task that this process is a part of, if it is."""
    return {tag: os.environ[name] for tag, name in _AIRFLOW_VARIABLES.items() if os.environ.get(name)}


def provenance_tags(step: str) -> dict[str, str]:
    """Tags of a run; those that nobody can answer are left out."""
    airflow = airflow_tags()
    tags = {
        "mlflow.source.name": f"maskline {step}",
        "mlflow.source.type": "JOB" if airflow else "LOCAL",
        "version.python": ".".join(map(str, sys.version_info[:3])),
        **airflow,
    }
    if url := airflow.get("airflow.url"):
        tags[NOTE] = f"Airflow: [{airflow.get('airflow.dag_id', 'task')}]({url})"
    for package in _PACKAGES:
        try:
            tags[f"version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    with contextlib.suppress(KeyError, OSError):  # A container's numeric user may have no name.
        tags["mlflow.user"] = getpass.getuser()
    if found := commit():
        tags["mlflow.source.git.commit"] = found
    return tags


def commit() -> str | None:
    """The checkout's commit, with `-dirty` where files differ from it; in an image the commit that it was built from; else None."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("MASKLINE_COMMIT") or None


def dataset_input(entry: Mapping[str, Any]) -> Any:
    """Records as MLflow's own kind of run input; of an entry with `name`, `digest`, `root`, `counts` and `context`."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=entry["name"],
        # MLflow holds 36 characters; the whole digest stands in the tag `dataset.digest`.
        digest=entry["digest"][:36],
        source_type="local",
        source=json.dumps({"uri": entry["root"]}),
        profile=json.dumps(entry["counts"]),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", entry["context"])])
