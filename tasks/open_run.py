"""The step that opens a pipeline run: a folder for its models, and the parent run that MLflow shows them under.

    maskline open-run RUN_DIR --dataset DATASET_DIR

Writes `run.json`, and `dataset.html`, which shows what the dataset holds and becomes an artifact of the parent run. Opening a
run again gives the same one; a folder belongs to one state of one dataset, so that the models in it can be compared. Usual
runtime: 10 seconds, 15 when it makes the tracking database.
"""

from __future__ import annotations

import sys

from tasks.records.dataset_page import dataset_page
from tasks.records.manifest import read_manifest
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, RunDir, StepResult, write_text
from tasks.tracking import add_to_pipeline_run, comparison_url, open_pipeline_run, pipeline_run_identity


def open_run(run: RunDir, dataset: DatasetDir) -> StepResult:
    """`skipped` where the same run is open already; otherwise the summary names the new MLflow run, and the page that shows its models.

    Raises:
      UserError: the dataset is not materialized, its records are broken, or the folder belongs to another dataset.
    """
    page = None if run.dataset_page.exists() else _page(dataset)
    earlier = pipeline_run_identity(run)
    identity = open_pipeline_run(run, dataset)
    status = "skipped" if identity is not None and identity == earlier else "done"
    outputs = {"run": str(run.root)}
    if page is not None:
        write_text(run.dataset_page, page)
    if run.dataset_page.exists():
        outputs["dataset_page"] = str(run.dataset_page)
        if page is not None or status == "done":
            add_to_pipeline_run(run, run.dataset_page, "dataset")
    summary = {"mlflow_run_id": identity and identity.run_id, "mlflow_url": identity and comparison_url(identity)}
    return StepResult("open-run", status, outputs, summary)


def _page(dataset: DatasetDir) -> str | None:
    """The dataset's page; None, said loudly, where drawing it fails, since models can be trained without it.

    Broken records are no such case: training would meet them hours later.
    """
    try:
        return dataset_page(dataset, read_manifest(dataset.manifest))
    except UserError:
        raise
    except Exception as error:
        print(
            f"WARNING: there is no page of the dataset: {type(error).__name__}: {error}\n  the run goes on without it\n"
            f"  fix: see that `maskline inspect {dataset.root}` ends well, then open the run again",
            file=sys.stderr,
            flush=True,
        )
        return None
