"""The two kinds of runs: one for a pipeline run, and one for each zoo config in it, which train and evaluate share."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.records.record_set import RecordSet, materialized
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, ModelDir, RunDir, read_json, write_json
from tasks.tracking import experiment_view, store
from tasks.tracking.experiment_view import NOTE, PIPELINE, PIPELINE_RUN, ROLE
from tasks.tracking.metric_names import mlflow_name
from tasks.tracking.provenance import dataset_input, provenance_tags

_PARAMS_PER_CALL, _METRICS_PER_CALL, _PARAM_LENGTH = 100, 1000, 6000
_SECONDS_BETWEEN_RETRIES = 60.0
_PARENT = "mlflow.parentRunId"
"""The tag by which earlier versions hung a model's run under its pipeline's, where MLflow's page hides it."""
_REFUSED = "INVALID_PARAMETER_VALUE"


@dataclass(frozen=True)
class RunIdentity:
    """Where MLflow keeps a run, and the page that shows it."""

    run_id: str
    experiment_id: str
    url: str


def open_pipeline_run(run: RunDir, dataset: DatasetDir) -> RunIdentity | None:
    """The parent run of a pipeline run, opened or, when the folder has one already, opened again; None without MLflow.

    `run.json` remembers it, and the dataset. The manifest and the label map become its artifacts.

    Raises:
      UserError: the folder was opened for another dataset, or for an earlier state of it.
    """
    records = materialized(dataset)
    ours = {"name": records.name, "digest": records.digest, "root": str(dataset.root.absolute())}
    theirs = read_json(run.identity)["dataset"] if run.identity.exists() else ours
    if (theirs["name"], theirs["digest"]) != (ours["name"], ours["digest"]):
        raise UserError(
            f"{run.root} compares models of dataset {theirs['name']} ({theirs['digest'][:12]}), "
            f"not of {ours['name']} ({ours['digest'][:12]})",
            "choose a new run folder for the other dataset, or materialize the earlier one again",
        )
    identity = pipeline_run_identity(run)
    try:
        with store.connected() as client:
            mlflow_run = _resumed(client, identity) or client.create_run(store.experiment_id(client, records.name), run_name=run.name)
            identity = parent = _identity(mlflow_run)
            client.update_run(parent.run_id, status="RUNNING")
            tags = {ROLE: "pipeline", **_pipeline_tags(run, parent), **provenance_tags("open-run"), **_dataset_tags(records)}
            _set_tags(client, parent.run_id, {**tags, NOTE: f"{_links(run, parent)}\n\n{tags.get(NOTE, '')}".strip()})
            _attempt("the views of the models", lambda: _show_together(client, run, parent))
            _attempt("the dataset's name", lambda: client.log_inputs(parent.run_id, datasets=[dataset_input(records, "pipeline")]))
            for file in (dataset.manifest, dataset.label_map):
                _attempt(f"artifact {file.name}", functools.partial(client.log_artifact, parent.run_id, str(file), "dataset"))
    except Exception as error:  # Whatever ails the tracker, the pipeline goes on.
        store.warn("the pipeline run", error)
    write_json(run.identity, {"dataset": ours, "tracking": asdict(identity) if identity else None})
    return identity


def pipeline_run_identity(run: RunDir) -> RunIdentity | None:
    """The parent run that `run.json` remembers; None when the folder has none."""
    recorded = read_json(run.identity).get("tracking") if run.identity.exists() else None
    return RunIdentity(**recorded) if recorded else None


def comparison_url(identity: RunIdentity) -> str:
    """The page that shows the backbones of a pipeline run, and no others: their figures, their curves, their pictures."""
    return experiment_view.view_address(identity.experiment_id, identity.run_id, charts=True)


def add_to_pipeline_run(run: RunDir, file: Path, folder: str) -> None:
    """Copies a file into the parent run's artifacts, under `folder`."""
    identity = pipeline_run_identity(run)
    if identity is None:
        return
    try:
        with store.connected() as client:
            client.log_artifact(identity.run_id, str(file), folder)
    except Exception as error:
        store.warn(f"artifact {file.name}", error)


def close_pipeline_run(
    run: RunDir,
    *,
    complete: bool,
    description: str,
    artifacts: Path | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Ends the parent run, FINISHED when `complete` and else FAILED, with its comparison.

    `description` is Markdown that MLflow shows on the run's page, under links to the models' runs side by side; `artifacts` is a folder,
    stored as `compare`. Of `tags` those that are empty are taken away.
    """
    identity = pipeline_run_identity(run)
    if identity is None:
        return
    try:
        with store.connected() as client:
            _attempt("the views of the models", lambda: _show_together(client, run, identity))
            note = f"{_links(run, identity)}\n\n{description}\n\n{provenance_tags('compare').get(NOTE, '')}".strip()
            _set_tags(client, identity.run_id, {NOTE: note, **{name: value for name, value in (tags or {}).items() if value}})
            earlier = client.get_run(identity.run_id).data.tags
            for name in [name for name, value in (tags or {}).items() if not value and name in earlier]:
                client.delete_tag(identity.run_id, name)
            if artifacts is not None:
                client.log_artifacts(identity.run_id, str(artifacts), "compare")
            client.set_terminated(identity.run_id, "FINISHED" if complete else "FAILED")
    except Exception as error:
        store.warn("the comparison", error)


def _show_together(client: Any, run: RunDir, identity: RunIdentity) -> None:
    """Sees that the views that show the run's models are there; and that they find the models, which may be of an earlier version."""
    experiment_view.prepare(client, identity.experiment_id)
    experiment_view.keep_view_of(client, client.get_run(identity.run_id))
    for model in _model_identities(run):
        held = store.existing_run(client, model.run_id)
        if held is None:
            continue
        _set_tags(client, model.run_id, {ROLE: "backbone", **_pipeline_tags(run, identity)})
        if _PARENT in held.data.tags:
            client.delete_tag(model.run_id, _PARENT)


def _model_identities(run: RunDir) -> list[RunIdentity]:
    """The runs of the models in the folder, by their names."""
    return [RunIdentity(**read_json(file)) for file in sorted(run.root.glob(f"*/{ModelDir(run.root).tracking.name}"))]


def _links(run: RunDir, identity: RunIdentity) -> str:
    experiment, models = identity.experiment_id, [model.run_id for model in _model_identities(run)]
    table = experiment_view.view_address(experiment, identity.run_id)
    parameters = experiment_view.compare_address(experiment, models)
    return f"[Curves and pictures side by side]({comparison_url(identity)}) · [figures]({table}) · [parameters]({parameters})"


class ModelRun:
    """One zoo config's run. What MLflow does not take is said loudly and never raised; metrics are sent again later."""

    def __init__(self, client: Any = None, identity: RunIdentity | None = None) -> None:
        self._client = client
        self.identity = identity
        """None when MLflow could not be reached; then nothing is logged."""
        self._unsent: list[Any] = []
        self._failing_since: float | None = None

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Logs a nested mapping under dotted names. A value that differs from an earlier one of this run is refused."""
        flat = flatten(params)

        def send(client: Any, run_id: str) -> None:
            from mlflow.entities import Param

            earlier = client.get_run(run_id).data.params
            changed = sorted(name for name in flat if earlier.get(name, flat[name]) != flat[name])
            if changed:
                print(
                    f"WARNING: MLflow keeps a parameter's first value; {len(changed)} of {self._name()} differ now: "
                    f"{', '.join(changed[:5])}\n  fix: train other settings in a new run folder",
                    file=sys.stderr,
                )
            new = [Param(name, value) for name, value in flat.items() if name not in earlier]
            for start in range(0, len(new), _PARAMS_PER_CALL):
                _log_all(client, run_id, "params", new[start : start + _PARAMS_PER_CALL])

        self._attempt("the parameters", send)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Logs values under the original's names (see `metric_names`), in one call."""
        if self.identity is None:
            return
        self._unsent += _metrics(metrics, step)
        if self._failing_since is None or time.monotonic() - self._failing_since > _SECONDS_BETWEEN_RETRIES:
            self._send_metrics()

    def log_summary(self, figures: Mapping[str, float | None]) -> None:
        """Logs the figures that a person compares, under plain names and at step 0, where MLflow draws bars; None is left out.

        A later call replaces them: of one step MLflow keeps the latest value in front. Four decimals, since a column shows no more.
        """
        self.log_metrics({name: round(value, 4) for name, value in figures.items() if value is not None}, 0)

    def log_pictures(self, folder: Path) -> None:
        """Logs the PNGs of a folder for MLflow's image grid, which sets those of one name side by side over the runs.

        All at step 0: the grid shows one step of all runs, and theirs may have ended at different ones.
        """

        def send(client: Any, run_id: str) -> None:
            from PIL import Image

            for number, file in enumerate(sorted(folder.glob("*.png")), start=1):
                with Image.open(file) as picture:
                    client.log_image(run_id, picture, key=experiment_view.picture_key(number), step=0)

        self._attempt("the pictures", send)

    def log_artifacts(self, path: Path, folder: str | None = None) -> None:
        """Copies a file, or what a folder holds, into the run's artifacts, under `folder`."""

        def send(client: Any, run_id: str) -> None:
            log = client.log_artifacts if path.is_dir() else client.log_artifact
            log(run_id, str(path), folder)

        self._attempt(f"artifact {path.name}", send)

    def close(self, status: str, error: BaseException | None = None) -> None:
        """Ends the run: FINISHED, FAILED or KILLED; called by `model_run`."""
        if self._unsent:
            self._send_metrics()
        if self._unsent:
            print(f"WARNING: {len(self._unsent)} metric values of {self._name()} never reached MLflow", file=sys.stderr)

        def send(client: Any, run_id: str) -> None:
            if error is not None:
                client.set_tag(run_id, "error", f"{type(error).__name__}: {error}"[:1000])
            client.set_terminated(run_id, status)

        self._attempt(f"the end of the run ({status})", send)

    def _send_metrics(self) -> None:
        try:
            while self._unsent:
                _log_all(self._client, self.identity.run_id, "metrics", self._unsent[:_METRICS_PER_CALL])  # type: ignore[union-attr]
                del self._unsent[:_METRICS_PER_CALL]
        except Exception as error:
            if self._failing_since is None:
                store.warn("metrics", error)
            self._failing_since = time.monotonic()
            return
        if self._failing_since is not None:
            print("MLflow answers again; the metrics it had missed were sent", file=sys.stderr, flush=True)
        self._failing_since = None

    def _attempt(self, what: str, send: Any) -> None:
        if self.identity is None:
            return
        run_id = self.identity.run_id
        _attempt(f"{what} of {self._name()}", lambda: send(self._client, run_id))

    def _name(self) -> str:
        return f"run {self.identity.run_id}" if self.identity else "an unopened run"


@contextmanager
def model_run(model: ModelDir, records: RecordSet, step: str) -> Iterator[ModelRun]:
    """The run of one zoo config, opened by `train` and opened again by `evaluate`; ends when the block ends.

    It bears the config's name, and tags that name the pipeline run of the folder above, where that has one. An exception
    marks it FAILED (an interrupt: KILLED) and goes on its way.
    """
    run = _open_model_run(model, records, step)
    try:
        yield run
    except Exception as error:
        run.close("FAILED", error)
        raise
    except BaseException as error:
        run.close("KILLED", error)
        raise
    run.close("FINISHED")


def _open_model_run(model: ModelDir, records: RecordSet, step: str) -> ModelRun:
    parent = pipeline_run_identity(RunDir(model.root.parent))
    recorded = RunIdentity(**read_json(model.tracking)) if model.tracking.exists() else None
    try:
        with store.connected() as client:
            mlflow_run = _resumed(client, recorded) or client.create_run(
                parent.experiment_id if parent else store.experiment_id(client, records.name),
                run_name=model.name,
            )
            identity = _identity(mlflow_run)
            client.update_run(identity.run_id, status="RUNNING")
            if "error" in mlflow_run.data.tags:
                client.delete_tag(identity.run_id, "error")
            grouped = _pipeline_tags(RunDir(model.root.parent), parent) if parent else {}
            tags = {ROLE: "backbone", **grouped, "config": model.name, **provenance_tags(step), **_dataset_tags(records)}
            if parent:
                beside = f"[Beside the other models of {model.root.parent.name}]({comparison_url(parent)})"
                tags[NOTE] = f"{beside}\n\n{tags.get(NOTE, '')}".strip()
            _set_tags(client, identity.run_id, tags)
            context = "training" if step == "train" else "evaluation"
            _attempt("the dataset's name", lambda: client.log_inputs(identity.run_id, datasets=[dataset_input(records, context)]))
            if parent is None:
                _attempt("the view of the experiment", lambda: experiment_view.prepare(client, identity.experiment_id))
    except Exception as error:
        store.warn(f"the run of {model.name}, which will not be tracked", error)
        return ModelRun()
    write_json(model.tracking, asdict(identity))
    return ModelRun(client, identity)


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


def _resumed(client: Any, recorded: RunIdentity | None) -> Any | None:
    return store.existing_run(client, recorded.run_id) if recorded else None


def _identity(mlflow_run: Any) -> RunIdentity:
    run_id, experiment = mlflow_run.info.run_id, mlflow_run.info.experiment_id
    return RunIdentity(run_id, experiment, experiment_view.run_address(experiment, run_id))


def _metrics(metrics: Mapping[str, float], step: int) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(mlflow_name(name), float(value), now, step) for name, value in metrics.items()]


def _set_tags(client: Any, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    _log_all(client, run_id, "tags", [RunTag(name, value) for name, value in tags.items()])


def _log_all(client: Any, run_id: str, kind: str, entries: Sequence[Any]) -> None:
    """Logs `metrics`, `params` or `tags` in one call; where MLflow refuses one of them, one by one, saying which it does not take."""
    from mlflow.exceptions import MlflowException

    try:
        client.log_batch(run_id, **{kind: entries})
    except MlflowException as error:
        if error.error_code != _REFUSED:
            raise
        if len(entries) == 1:
            store.warn(f"{kind.removesuffix('s')} {entries[0].key!r}", error)
            return
        for entry in entries:
            _log_all(client, run_id, kind, [entry])


def _attempt(what: str, send: Callable[[], object]) -> None:
    """Sends what may fail alone: a name that MLflow refuses, say."""
    try:
        send()
    except Exception as error:
        store.warn(what, error)


def _pipeline_tags(run: RunDir, identity: RunIdentity) -> dict[str, str]:
    return {PIPELINE: run.name, PIPELINE_RUN: identity.run_id}


def _dataset_tags(records: RecordSet) -> dict[str, str]:
    return {"dataset.name": records.name, "dataset.digest": records.digest}
