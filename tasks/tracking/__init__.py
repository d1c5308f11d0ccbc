"""Runs kept in MLflow, one experiment per dataset: a run for each pipeline run, and beside it one for each of its zoo configs.

Nothing else in the house knows MLflow, and nothing depends on it: what it holds is a copy of local files. All of it is written to a
journal first; when MLflow does not answer, a loud warning says so, the step goes on, and what it misses is sent when it answers again.
"""

from tasks.tracking.metric_names import mlflow_name, original_name
from tasks.tracking.outbox import ModelOutbox, PipelineOutbox, RunIdentity, artifact_url, comparison_url, pipeline_run_identity
from tasks.tracking.runs import ModelRun, add_to_pipeline_run, close_pipeline_run, model_run, open_pipeline_run, send_backlog
from tasks.tracking.store import probe, tracking_uri, ui_address

__all__ = [
    "ModelOutbox",
    "ModelRun",
    "PipelineOutbox",
    "RunIdentity",
    "add_to_pipeline_run",
    "artifact_url",
    "close_pipeline_run",
    "comparison_url",
    "mlflow_name",
    "model_run",
    "open_pipeline_run",
    "original_name",
    "pipeline_run_identity",
    "probe",
    "send_backlog",
    "tracking_uri",
    "ui_address",
]
