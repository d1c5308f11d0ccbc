"""Runs kept in MLflow, one experiment per dataset: a run for each pipeline run, and beside it one for each of its zoo configs.

Nothing else in the house knows MLflow, and nothing depends on it: what it holds is a copy of local files, and when it
does not answer, a loud warning says so and the step goes on.
"""

from tasks.tracking.metric_names import mlflow_name, original_name
from tasks.tracking.runs import (
    ModelRun,
    RunIdentity,
    add_to_pipeline_run,
    close_pipeline_run,
    comparison_url,
    model_run,
    open_pipeline_run,
    pipeline_run_identity,
)
from tasks.tracking.store import probe, tracking_uri, ui_address

__all__ = [
    "ModelRun",
    "RunIdentity",
    "add_to_pipeline_run",
    "close_pipeline_run",
    "comparison_url",
    "mlflow_name",
    "model_run",
    "open_pipeline_run",
    "original_name",
    "pipeline_run_identity",
    "probe",
    "tracking_uri",
    "ui_address",
]
