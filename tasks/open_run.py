"""The step that opens a pipeline run: a folder for its models, and the parent run that MLflow shows them under.

    maskline open-run RUN_DIR --dataset DATASET_DIR

Writes `run.json`. Opening a run again gives the same one; a folder belongs to one state of one dataset, so that the
models in it can be compared. Usual runtime: 5 seconds, 10 when it makes the tracking database.
"""

from __future__ import annotations

from tasks.tracking import open_pipeline_run, pipeline_run_identity
from tasks.workspace import DatasetDir, RunDir, StepResult


def open_run(run: RunDir, dataset: DatasetDir) -> StepResult:
    """`skipped` where the same run is open already; otherwise the summary names the new MLflow run and its page.

    Raises:
      UserError: the dataset is not materialized, or the folder belongs to another dataset.
    """
    earlier = pipeline_run_identity(run)
    identity = open_pipeline_run(run, dataset)
    status = "skipped" if identity is not None and identity == earlier else "done"
    summary = {"mlflow_run_id": identity and identity.run_id, "mlflow_url": identity and identity.url}
    return StepResult("open-run", status, {"run": str(run.root)}, summary)
