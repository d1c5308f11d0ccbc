"""The two kinds of runs: one for a pipeline run, and one for each zoo config in it, which train and evaluate share.

What a run is to hold is written to its journal first; see `journal` and `outbox`.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.records.record_set import RecordSet, materialized
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, ModelDir, RunDir, read_json, write_json
from tasks.tracking import store
from tasks.tracking.background import BackgroundSender
from tasks.tracking.experiment_view import NOTE
from tasks.tracking.journal import BusyError, Journal
from tasks.tracking.metric_names import mlflow_name
from tasks.tracking.outbox import (
    ModelOutbox,
    Outbox,
    PipelineOutbox,
    RunIdentity,
    journal_of,
    model_run_identity,
    pipeline_run_identity,
)
from tasks.tracking.provenance import provenance_tags
from tasks.tracking.registry import registered_name

_PARAM_LENGTH, _ERROR_LENGTH = 6000, 1000
_JOURNALS_OF_MODELS = {ModelDir(Path()).train.name, ModelDir(Path()).untrained_journal.name}
# At its end a step waits so long for MLflow to take something, and so long for it to take all; a killed one has less.
_PATIENCE, _LONGEST = 30.0, 300.0
_KILLED_WAITS = 5.0
_WARNED: set[Path] = set()


def open_pipeline_run(run: RunDir, dataset: DatasetDir) -> RunIdentity | None:
    """The parent run of a pipeline run, opened or, when the folder has one already, opened again; None while MLflow does not answer.

    `run.json` remembers it, and the dataset. The manifest and the label map become its artifacts.

    Raises:
      UserError: the folder was opened for another dataset, or for an earlier state of it.
    """
    records = materialized(dataset)
    ours = {"name": records.name, "digest": records.digest, "root": str(dataset.root.absolute())}
    remembered = read_json(run.identity) if run.identity.exists() else {}
    theirs = remembered.get("dataset", ours)
    if (theirs["name"], theirs["digest"]) != (ours["name"], ours["digest"]):
        raise UserError(
            f"{run.root} compares models of dataset {theirs['name']} ({theirs['digest'][:12]}), "
            f"not of {ours['name']} ({ours['digest'][:12]})",
            "choose a new run folder for the other dataset, or materialize the earlier one again",
        )
    write_json(run.identity, {"tracking": None} | remembered | {"dataset": ours})
    outbox = PipelineOutbox(run)
    known = pipeline_run_identity(run)
    _append_open(outbox.journal, run.name, records, "open-run", known=known.run_id if known else "")
    _append_dataset(outbox.journal, records, "pipeline")
    for file in (dataset.manifest, dataset.label_map):
        _append_artifact(outbox.journal, file, "dataset")
    outbox.journal.append("views")
    _send_now(outbox)
    return pipeline_run_identity(run)


def add_to_pipeline_run(run: RunDir, file: Path, folder: str) -> None:
    """Copies a file into the parent run's artifacts, under `folder`."""
    if (outbox := _opened_pipeline(run)) is not None:
        _append_artifact(outbox.journal, file, folder)
        _send_now(outbox)


def close_pipeline_run(
    run: RunDir,
    *,
    complete: bool,
    description: str,
    artifacts: Path | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Ends the parent run, FINISHED when `complete` and else FAILED, with its comparison; the models' runs get before what they lack.

    `description` is Markdown that MLflow shows on the run's page, under links to the models' runs side by side; `artifacts` is a folder,
    stored as `compare`. Of `tags` those that are empty are taken away.
    """
    outbox = _opened_pipeline(run)
    if outbox is None:
        for model in PipelineOutbox(run).models():
            _send_now(ModelOutbox(model))
        return
    outbox.journal.append("views")
    outbox.journal.append("note", text=f"{description}\n\n{provenance_tags('compare').get(NOTE, '')}".strip())
    outbox.journal.append("tags", tags=dict(tags or {}))
    if artifacts is not None:
        _append_artifact(outbox.journal, artifacts, "compare")
    outbox.journal.append("status", status="FINISHED" if complete else "FAILED", error="")
    _send_now(outbox)


def _opened_pipeline(run: RunDir) -> PipelineOutbox | None:
    """Where a pipeline run's entries go; None where the folder was never opened as one."""
    outbox = PipelineOutbox(run)
    if outbox.journal.file.exists():
        return outbox
    identity = pipeline_run_identity(run)
    if identity is None:
        return None
    # Of an earlier version, which kept no journal.
    _append(outbox.journal, run.name, read_json(run.identity)["dataset"]["name"], {}, known=identity.run_id)
    return outbox


class ModelRun:
    """One zoo config's run. All of it goes to the journal in the model's folder `train`, and from there to MLflow beside the step."""

    def __init__(self, model: ModelDir) -> None:
        self._model = model
        self._outbox = ModelOutbox(model)
        self._sender = BackgroundSender(self._outbox)

    @property
    def identity(self) -> RunIdentity | None:
        """None as long as MLflow could not be reached."""
        return model_run_identity(self._model)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Logs a nested mapping under dotted names. A value that differs from an earlier one of this run is refused."""
        self._log("params", params=flatten(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0, *, once: bool = False) -> None:
        """Logs values under the original's names (see `metric_names`); what MLflow has of the same name, step and value is not doubled.

        With `once` nothing is doubled that has the same name and step, which is for what a resumed training measures again.
        """
        self._log("values", values={name: float(value) for name, value in metrics.items()}, step=step, once=once)

    def log_steps(self, file: Path, start: int, end: int) -> None:
        """Logs the numbers of training steps that stand in a file in the folder `train`, from byte `start` up to `end`, once for each step.

        A line is a JSON object: `step`, `time` in seconds since 1970 at which it was done, and its numbers by name.
        """
        self._log("steps", file=file.relative_to(self._model.train).as_posix(), start=start, end=end)

    def log_summary(self, figures: Mapping[str, float | None]) -> None:
        """Logs the figures that a person compares, under plain names and at step 0, where MLflow draws bars; None is left out.

        A later call replaces them: of one step MLflow keeps the latest value in front. Four decimals, since a column shows no more.
        """
        self.log_metrics({name: round(value, 4) for name, value in figures.items() if value is not None}, 0)

    def log_pictures(self, folder: Path) -> None:
        """Logs the PNGs of a folder for MLflow's image grid, which sets those of one name side by side over the runs.

        All at step 0: the grid shows one step of all runs, and theirs may have ended at different ones.
        """
        self._log("pictures", path=_from(self._outbox.journal, folder))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Sets what tells runs apart and is no number."""
        self._log("tags", tags=dict(tags))

    def log_artifacts(self, path: Path, folder: str | None = None) -> None:
        """Copies a file, or what a folder holds, into the run's artifacts, under `folder`: as it is when it is sent."""
        _append_artifact(self._outbox.journal, path, folder)
        self._sender.wake()

    def register(self, folder: Path, tags: Mapping[str, str], records: RecordSet, figures: Mapping[str, float | None], step: int) -> None:
        """Puts a model, as MLflow keeps models, into the registry under the dataset's name, one version for each checkpoint.

        `tags` are the version's, `checkpoint_digest` among them; `figures` are what it was measured at on the records; None is left out.
        """
        self._log(
            "register",
            path=_from(self._outbox.journal, folder),
            name=registered_name(records.name),
            tags=dict(tags),
            dataset={"name": records.name, "digest": records.digest},
            values={name: value for name, value in figures.items() if value is not None},
            step=step,
        )

    def flush(self, seconds: float = _PATIENCE) -> None:
        """Waits until MLflow has all; not longer where it does not answer, or has taken nothing for so long."""
        self._sender.flush(seconds, max(seconds, _LONGEST))

    def close(self, status: str, error: BaseException | None = None) -> None:
        """Ends the run: FINISHED, FAILED or KILLED; called by `model_run`."""
        self._log("status", status=status, error=f"{type(error).__name__}: {error}"[:_ERROR_LENGTH] if error else "")
        if status == "KILLED":
            self._sender.flush(_KILLED_WAITS, _KILLED_WAITS)
        else:
            self.flush()
        _tell_left(self._outbox, self._model.root)

    def _log(self, do: str, **fields: Any) -> None:
        self._outbox.journal.append(do, **fields)
        self._sender.wake()


@contextmanager
def model_run(model: ModelDir, records: RecordSet, step: str, *, anew: bool = False) -> Iterator[ModelRun]:
    """The run of one zoo config, opened by `train` and opened again by `evaluate`; ends when the block ends.

    It bears the config's name, and tags that name the pipeline run of the folder above, where that has one. An exception
    marks it FAILED (an interrupt: KILLED) and goes on its way. A training that begins `anew`, where there was one with other settings, gets
    a run of its own, and the earlier one leaves the views.
    """
    journal, known = journal_of(model), model_run_identity(model)
    if anew and known is not None:
        # What is there to be sent to it goes there all the same.
        model.tracking.unlink()
    _append_open(journal, model.name, records, step, known=known.run_id if known else "", anew=anew)
    _append_dataset(journal, records, "training" if step == "train" else "evaluation")
    run = ModelRun(model)
    run._sender.wake()
    try:
        yield run
    except Exception as error:
        run.close("FAILED", error)
        raise
    except BaseException as error:
        run.close("KILLED", error)
        raise
    run.close("FINISHED")


def send_backlog(outbox: Outbox, told: Callable[[], None] = lambda: None) -> int:
    """Sends all that a journal holds and MLflow does not, calling `told` after each batch of numbers; the number of entries comes back.

    UserError where MLflow does not answer, or another step is sending.
    """
    before, outbox.told = outbox.journal.left(), told
    try:
        outbox.send()
    except BusyError as error:
        raise UserError(str(error), "wait for that step to end: it sends what there is") from error
    except Exception as error:
        raise store.unreachable(f"{outbox.journal.left()} entries of {outbox.journal.file} wait", error) from error
    return before - outbox.journal.left()


def _send_now(outbox: Outbox) -> None:
    """Sends before the step goes on; where MLflow does not answer, says so, once for a journal."""
    try:
        outbox.send()
    except BusyError:
        _tell_left(outbox, outbox.journal.folder)
    except Exception as error:  # Whatever ails the tracker, the pipeline goes on.
        if outbox.journal.file not in _WARNED:
            _WARNED.add(outbox.journal.file)
            store.warn_waiting(outbox.journal.file, error)


def _tell_left(outbox: Outbox, folder: Path) -> None:
    if left := outbox.journal.left():
        print(
            f"WARNING: MLflow has not taken all: {left} {'entries' if left > 1 else 'entry'} of {outbox.journal.file} wait"
            f"\n  fix: the next step on this model sends them, or `maskline sync {folder}`",
            file=sys.stderr,
            flush=True,
        )


def _append_open(journal: Journal, name: str, records: RecordSet, step: str, *, known: str, anew: bool = False) -> None:
    tags = {**provenance_tags(step), "dataset.name": records.name, "dataset.digest": records.digest}
    _append(journal, name, records.name, tags, known=known, anew=anew)


def _append(journal: Journal, name: str, experiment: str, tags: Mapping[str, str], *, known: str, anew: bool = False) -> None:
    """Opens the run that the journal is of, or with `anew` another: its key is new, and `known` is what it replaces."""
    opened = [entry for entry, _, _ in journal.entries() if entry["do"] == "open"]
    first = not opened
    journal.append(
        "open",
        key=secrets.token_hex(16) if first or anew else opened[-1]["key"],
        known="" if anew else known,
        replaces=known if anew else "",
        name=name,
        experiment=experiment,
        tags=dict(tags),
    )


def _append_dataset(journal: Journal, records: RecordSet, context: str) -> None:
    counts = {split: dict(numbers) for split, numbers in records.counts.items()}
    journal.append("dataset", name=records.name, digest=records.digest, root=str(records.root), counts=counts, context=context)


def _append_artifact(journal: Journal, path: Path, folder: str | None) -> None:
    journal.append("artifact", path=_from(journal, path), folder=folder)


def _from(journal: Journal, path: Path) -> str:
    """The path as seen from the journal, so that a run's folder can be moved whole."""
    path, root = path.absolute(), journal.folder.absolute()
    # The journal of a model lies one folder below the model's own.
    inside = path.is_relative_to(root) or (root.name in _JOURNALS_OF_MODELS and path.is_relative_to(root.parent))
    return os.path.relpath(path, root) if inside else str(path)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names and values as text, cut to what MLflow stores; lists and empty mappings as JSON."""
    flat: dict[str, str] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
            continue
        text = json.dumps(value, default=str) if isinstance(value, (Mapping, list, tuple)) else str(value)
        flat[mlflow_name(name)] = text if len(text) <= _PARAM_LENGTH else text[: _PARAM_LENGTH - 3] + "..."
    return flat
