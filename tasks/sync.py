"""The step that gives MLflow what it has missed.

    maskline sync RUN_DIR|MODEL_DIR

Reads the journals in the folder: a model's `train/tracking.jsonl`, a pipeline run's `tracking.jsonl`; sends what MLflow does not have, in
order and once, and notes beside them how far it has them. Every step does this for its own model by itself when MLflow answers, and
`compare` for all models of its run; this is for when no step follows. Usual runtime: seconds; minutes for a million numbers.
"""

from __future__ import annotations

import time
from pathlib import Path

from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, RunDir, StepResult
from tasks.tracking import ModelOutbox, PipelineOutbox, comparison_url, pipeline_run_identity, send_backlog

_SECONDS_BETWEEN_LINES = 5.0


def sync(folder: Path) -> StepResult:
    """Sends what MLflow lacks of a pipeline run and its models, or of one model; `skipped` where it has all.

    The summary counts entries and numbers that were sent, and entries that MLflow refuses.

    Raises:
      UserError: the folder has no journal, MLflow does not answer, or another step is sending.
    """
    outboxes = _outboxes(folder)
    entries = points = refused = 0
    for outbox in outboxes:
        progress = _Progress(outbox)
        sent = send_backlog(outbox, progress)
        left = outbox.journal.left()
        entries, points, refused = entries + sent, points + outbox.points_sent, refused + left
        told = f"{sent} entries, {outbox.points_sent} numbers sent" if sent else "MLflow has all of it" if not left else "nothing was sent"
        print(f"{outbox.name}: {told}" + (f"; {left} refused" if left else ""), flush=True)
    run = RunDir(folder)
    identity = pipeline_run_identity(run) if isinstance(outboxes[-1], PipelineOutbox) else None
    address = comparison_url(identity) if identity else outboxes[0].identity and outboxes[0].identity.url
    if address:
        print(f"MLflow: {address}", flush=True)
    return StepResult(
        "sync",
        "done" if entries else "skipped",
        {"folder": str(folder)},
        {"entries": entries, "numbers": points, "refused": refused, "mlflow_url": address},
    )


def _outboxes(folder: Path) -> list[ModelOutbox | PipelineOutbox]:
    """Those of a model, or of a run: its models and itself, in the order in which they have to be sent."""
    model = ModelOutbox(ModelDir(folder))
    if model.journal.file.exists():
        return [model]
    run = PipelineOutbox(RunDir(folder))
    outboxes: list[ModelOutbox | PipelineOutbox] = [ModelOutbox(model) for model in run.models()]
    if run.journal.file.exists():
        outboxes.append(run)
    if not outboxes:
        raise UserError(
            f"{folder} holds nothing that was to go to MLflow",
            "name the folder of a pipeline run, as `open-run` made it, or of a model that was trained in",
        )
    return outboxes


class _Progress:
    """Called after each batch: a line every few seconds."""

    def __init__(self, outbox: ModelOutbox | PipelineOutbox) -> None:
        self._outbox = outbox
        self._last = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            print(f"{self._outbox.name}: {self._outbox.points_sent} numbers sent", flush=True)
