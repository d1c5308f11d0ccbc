"""Sends what a journal holds to MLflow: in its order, each thing once, whatever was lost on the way.

What makes doubling impossible: MLflow keeps one of equal points (name, step, time and value), and an entry is sent each time with the
time that it bears; a parameter, a tag or an artifact that is sent again is what it was; a run bears the journal's key as a tag, by which
one whose making was not confirmed is found. The numbers of a training step are sent the first time they are written, and not again by a
training that was resumed before that step: its numbers are the same, and MLflow takes no point back. Where a machine has died, the journal
that another one goes on with may lack what MLflow had from the first: so MLflow is asked what it has.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.running.line_file import whole_lines
from tasks.running.workspace import ModelDir, RunDir, at, read_json, shareable, write_json
from tasks.tracking import experiment_view, registry, store
from tasks.tracking.experiment_view import NOTE, PIPELINE, PIPELINE_RUN, ROLE
from tasks.tracking.journal import BusyError, Entry, Journal, Sent
from tasks.tracking.metric_names import mlflow_name
from tasks.tracking.provenance import dataset_input

KEY = "maskline.key"
"""The tag by which a run is found again"""
TIME, STEP = "time", "step"
"""What a line of a training's numbers has beside them"""

_PARAMS_PER_CALL, _METRICS_PER_CALL = 100, 1000
_LOCK_SECONDS = 10.0
_PARENT = "mlflow.parentRunId"
"""The tag by which earlier versions hung a model's run under its pipeline's, where MLflow's page hides it."""
_REFUSED = "INVALID_PARAMETER_VALUE"
_ON_ITS_OWN = ("artifact", "pictures", "dataset", "views", "register")
"""What may be refused without keeping back what follows"""


class LostRunError(Exception):
    """MLflow does not hold the run any more, or holds it as deleted."""


@dataclass(frozen=True)
class RunIdentity:
    """Where MLflow keeps a run, and the page that shows it."""

    run_id: str
    experiment_id: str
    url: str


def identity_of(mlflow_run: Any) -> RunIdentity:
    run_id, experiment = mlflow_run.info.run_id, mlflow_run.info.experiment_id
    return RunIdentity(run_id, experiment, experiment_view.run_address(experiment, run_id))


def pipeline_run_identity(run: RunDir) -> RunIdentity | None:
    """The parent run that `run.json` remembers; None when the folder has none."""
    recorded = read_json(run.identity).get("tracking") if run.identity.exists() else None
    return RunIdentity(**recorded) if recorded else None


def model_run_identity(model: ModelDir) -> RunIdentity | None:
    """The run that `tracking.json` remembers; None when the model has none."""
    return RunIdentity(**read_json(model.tracking)) if model.tracking.exists() else None


def comparison_url(identity: RunIdentity) -> str:
    """The page that shows the backbones of a pipeline run, and no others: their figures, their curves, their pictures."""
    return experiment_view.view_address(identity.experiment_id, identity.run_id, charts=True)


def artifact_url(identity: RunIdentity, path: str) -> str:
    """The page that shows one of a run's artifacts."""
    return experiment_view.artifact_address(identity.experiment_id, identity.run_id, path)


@dataclass
class _Batch:
    """Points that go in one call, and how far MLflow has the journal once it has taken them."""

    then: Sent
    points: list[Any] = field(default_factory=list)


class Outbox(ABC):
    """One journal and its run in MLflow."""

    def __init__(self, journal: Journal, name: str) -> None:
        self.journal = journal
        self.name = name
        self.points_sent = 0
        """Values of metrics that MLflow has taken from this object, for whoever waits and looks whether it goes on"""
        self.told: Callable[[], None] = lambda: None
        """Called after each batch of them"""
        self._values: dict[tuple[str, int], float] | None = None
        self._latest: dict[str, tuple[int, float]] = {}
        """The last step of each metric that MLflow had when this object found the run, and its value there; by MLflow's names"""
        self._confirmed = False
        """Whether the last call found the run, and lost nothing"""
        self._warned: set[int] = set()

    @property
    @abstractmethod
    def identity(self) -> RunIdentity | None:
        """The run, as the files of its folder remember it."""

    @abstractmethod
    def _remember(self, identity: RunIdentity) -> None: ...

    @abstractmethod
    def _experiment(self, client: Any, entry: Entry) -> str:
        """The id of the experiment that the run belongs to."""

    @abstractmethod
    def _tags(self, identity: RunIdentity) -> Mapping[str, str]:
        """Tags that only MLflow's ids make complete."""

    @abstractmethod
    def _note(self, text: str) -> str:
        """The text of a run's page under the links that belong there."""

    def send(self, stop: Callable[[Entry], bool] = lambda _: False) -> None:
        """Sends all that is there, or up to an entry that `stop` names.

        Raises:
          BusyError: another process does it.
          Exception: MLflow did not answer, or not as it should; what it has taken is remembered, and the next call goes on from there.
        """
        if not self.journal.file.exists() or (self._confirmed and not self.journal.left()):
            return
        confirmed, self._confirmed = self._confirmed, False
        with self.journal.locked(_LOCK_SECONDS):
            client, sent = store.client(), self.journal.sent
            try:
                if sent.run_id and not confirmed:
                    held = store.existing_run(client, sent.run_id)
                    if held is None:
                        raise LostRunError
                    self._latest = _latest_points(held)
                self._send(client, sent, stop, try_held=not confirmed)
            except LostRunError:
                # The journal has all of it: another run gets it from the beginning.
                self._send(client, Sent(), stop)
        self._confirmed = True

    def _send(self, client: Any, sent: Sent, stop: Callable[[Entry], bool], *, try_held: bool = False) -> None:
        batch = _Batch(sent)
        self._values = None
        for entry, begin, end in self.journal.entries(sent.position):
            if stop(entry):
                break
            if entry["do"] in ("steps", "values"):
                for points, then in self._points(entry, begin, end, batch):
                    if batch.points and len(batch.points) + len(points) > _METRICS_PER_CALL:
                        self._flush(client, batch)
                    batch.points += points
                    batch.then = then
                continue
            self._flush(client, batch)
            batch.then = dataclasses.replace(self._done(client, entry, begin, batch.then), position=end, line=0)
            self._flush(client, batch)
            if entry["do"] == "status":
                batch.then = self._held_tried(client, batch.then)
        self._flush(client, batch)
        if try_held:
            self._held_tried(client, batch.then)

    def _flush(self, client: Any, batch: _Batch) -> None:
        for start in range(0, len(batch.points), _METRICS_PER_CALL):
            points = batch.points[start : start + _METRICS_PER_CALL]
            self._log_all(client, batch.then.run_id, "metrics", points)
            self.points_sent += len(points)
            self.told()
        batch.points = []
        if batch.then != self.journal.sent:
            self.journal.sent = batch.then

    def _points(self, entry: Entry, begin: int, end: int, batch: _Batch) -> Iterator[tuple[list[Any], Sent]]:
        """The points of an entry that MLflow does not have, a line's or an entry's at a time, and how far it has the journal with them."""
        from mlflow.entities import Metric

        if entry["do"] == "values":
            known = self._known_values(begin)
            step, points = entry[STEP], []
            for name, value in entry["values"].items():
                earlier = known.get((name, step))
                # An equal one says nothing new; a training that was resumed measures again what it has measured.
                if earlier is None and (latest := self._latest.get(mlflow_name(name))):
                    earlier = latest[1] if latest[0] == step or (entry["once"] and latest[0] > step) else None
                if earlier is None or not (entry["once"] or _equal(earlier, value)):
                    points.append(Metric(mlflow_name(name), value, entry["at"], step))
                    known[name, step] = value
            yield points, dataclasses.replace(batch.then, position=end, line=0)
            return
        file = self.journal.folder / entry["file"]
        last_step, reached = batch.then.last_step, batch.then.line or entry["start"]
        for line, line_end in whole_lines(file, reached, entry["end"]):
            row, points, reached = json.loads(line), [], line_end
            if row[STEP] > last_step:
                last_step, at = row[STEP], int(row[TIME] * 1000)
                figures = {
                    mlflow_name(name): value for name, value in row.items() if name not in (STEP, TIME) and not isinstance(value, bool)
                }
                # Of one name the steps are sent in their order.
                new = {name: value for name, value in figures.items() if name not in self._latest or self._latest[name][0] < last_step}
                points = [Metric(name, value, at, last_step) for name, value in new.items()]
            yield points, dataclasses.replace(batch.then, line=reached, last_step=last_step)
        if reached < entry["end"]:
            store.warn_lost(file, f"its lines from byte {reached} to byte {entry['end']}")
        yield [], dataclasses.replace(batch.then, position=end, line=0, last_step=last_step)

    def _known_values(self, begin: int) -> dict[tuple[str, int], float]:
        """What the entries `values` before a byte hold of the run: by name and step the value that MLflow has got last."""
        if self._values is None:
            self._values, key = {}, ""
            for entry, _, end in self.journal.entries():
                if end > begin:
                    break
                if entry["do"] == "open" and entry["key"] != key:
                    self._values, key = {}, entry["key"]
                elif entry["do"] == "values":
                    for name, value in entry["values"].items():
                        if not (entry["once"] and (name, entry[STEP]) in self._values):
                            self._values[name, entry[STEP]] = value
        return self._values

    def _done(self, client: Any, entry: Entry, begin: int, sent: Sent) -> Sent:
        """Does what an entry says; how far MLflow has the journal then, but for the position."""
        do = entry["do"]
        if do == "open":
            return self._opened(client, entry, sent)
        act = getattr(self, f"_do_{do}", None)
        if act is None:
            print(f"WARNING: {self.journal.file}: nobody knows what {do!r} is; the entry is left out", file=sys.stderr, flush=True)
            return sent
        try:
            act(client, sent.run_id, entry)
        except Exception as error:
            if store.existing_run(client, sent.run_id) is None:
                raise LostRunError from error
            if do not in _ON_ITS_OWN:
                raise
            self._warn(begin, entry, error)
            return dataclasses.replace(sent, held=[*sent.held, begin])
        return sent

    def _held_tried(self, client: Any, sent: Sent) -> Sent:
        """Tries again what MLflow did not take before: when a process begins to send, and when a run ends."""
        for begin in list(sent.held):
            entry, _, _ = next(self.journal.entries(begin))
            try:
                getattr(self, f"_do_{entry['do']}")(client, sent.run_id, entry)
            except Exception as error:
                if store.existing_run(client, sent.run_id) is None:
                    raise LostRunError from error
                self._warn(begin, entry, error)
                continue
            sent = dataclasses.replace(sent, held=[other for other in sent.held if other != begin])
            self.journal.sent = sent
        return sent

    def _warn(self, begin: int, entry: Entry, error: Exception) -> None:
        """Says once what MLflow did not take."""
        if begin not in self._warned:
            self._warned.add(begin)
            what = f"artifact {Path(entry['path']).name}" if entry["do"] == "artifact" else f"the {entry['do']}"
            store.warn(f"{what} of {self.name}", error)

    def _opened(self, client: Any, entry: Entry, sent: Sent) -> Sent:
        """Finds the run or makes it, and sees that it is running and bears its tags."""
        if entry["key"] != sent.key:
            if sent.run_id:
                self._retire(client, sent.run_id, entry)
            sent, self._values = Sent(key=entry["key"]), {}
        self._prepare()
        with store.connected() as client:
            held = store.existing_run(client, sent.run_id) if sent.run_id else self._found(client, entry)
            experiment = held.info.experiment_id if held else self._experiment(client, entry)
            if held is None and (again := self._by_key(client, experiment, entry["key"])):
                held = again
            held = held or client.create_run(experiment, start_time=entry["at"], tags={KEY: entry["key"]}, run_name=entry["name"])
            identity, self._latest = identity_of(held), _latest_points(held)
            self._remember(identity)
            client.update_run(identity.run_id, status="RUNNING")
            if "error" in held.data.tags:
                client.delete_tag(identity.run_id, "error")
            tags = {KEY: entry["key"], **entry["tags"], **self._tags(identity)}
            self._log_tags(client, identity.run_id, tags | {NOTE: self._note(tags.get(NOTE, ""))})
            store.attempt("the views of the experiment", lambda: experiment_view.prepare(client, experiment))
        return dataclasses.replace(sent, run_id=identity.run_id)

    @abstractmethod
    def _prepare(self) -> None:
        """Does what has to be there before the run is opened."""

    def _found(self, client: Any, entry: Entry) -> Any | None:
        """The run that the folder had before it had a journal, and that one which an entry replaces is not."""
        if entry["replaces"]:
            self._retire(client, entry["replaces"], entry)
        return store.existing_run(client, entry["known"]) if entry["known"] else None

    def _by_key(self, client: Any, experiment: str, key: str) -> Any | None:
        """The run that was made without our being told so."""
        found = client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
        return client.get_run(found[0].info.run_id) if found else None

    def _retire(self, client: Any, run_id: str, entry: Entry) -> None:
        """Takes a run out of the views: the same folder trains anew."""
        earlier = store.existing_run(client, run_id)
        if earlier is None:
            return
        client.set_tag(run_id, ROLE, "replaced")
        if earlier.info.status == "RUNNING":
            client.set_terminated(run_id, "KILLED", end_time=entry["at"])

    def _do_params(self, client: Any, run_id: str, entry: Entry) -> None:
        from mlflow.entities import Param

        flat, earlier = entry["params"], client.get_run(run_id).data.params
        changed = sorted(name for name in flat if earlier.get(name, flat[name]) != flat[name])
        if changed:
            print(
                f"WARNING: MLflow keeps a parameter's first value; {len(changed)} of run {run_id} differ now: "
                f"{', '.join(changed[:5])}\n  fix: train other settings in a new run folder",
                file=sys.stderr,
                flush=True,
            )
        new = [Param(name, value) for name, value in flat.items() if name not in earlier]
        for start in range(0, len(new), _PARAMS_PER_CALL):
            self._log_all(client, run_id, "params", new[start : start + _PARAMS_PER_CALL])

    def _do_tags(self, client: Any, run_id: str, entry: Entry) -> None:
        """Of the tags those that are empty are taken away."""
        tags = entry["tags"]
        self._log_tags(client, run_id, {name: value for name, value in tags.items() if value})
        earlier = client.get_run(run_id).data.tags
        for name in [name for name, value in tags.items() if not value and name in earlier]:
            client.delete_tag(run_id, name)

    def _do_note(self, client: Any, run_id: str, entry: Entry) -> None:
        self._log_tags(client, run_id, {NOTE: self._note(entry["text"])})

    def _do_status(self, client: Any, run_id: str, entry: Entry) -> None:
        if entry["error"]:
            client.set_tag(run_id, "error", entry["error"])
        client.set_terminated(run_id, entry["status"], end_time=entry["at"])

    def _do_dataset(self, client: Any, run_id: str, entry: Entry) -> None:
        client.log_inputs(run_id, datasets=[dataset_input(entry)])

    def _do_artifact(self, client: Any, run_id: str, entry: Entry) -> None:
        path = self._path(entry)
        if not path.exists():
            store.warn_lost(path, "it")
            return
        log = client.log_artifacts if path.is_dir() else client.log_artifact
        with shareable(path) as shared:
            log(run_id, str(shared), entry["folder"])

    def _do_pictures(self, client: Any, run_id: str, entry: Entry) -> None:
        from PIL import Image

        # Their names in MLflow have a random part: what is there already is asked for.
        there = [file.path for file in client.list_artifacts(run_id, "images")]
        for number, file in enumerate(sorted(self._path(entry).glob("*.png")), start=1):
            key = experiment_view.picture_key(number)
            name = f"images/{key.replace('/', '~')}+step+0+timestamp+{entry['at']}+"
            if sum(path.startswith(name) for path in there) < 2:  # the picture and a small one
                with Image.open(file) as picture:
                    client.log_image(run_id, picture, key=key, step=0, timestamp=entry["at"])

    def _path(self, entry: Entry) -> Path:
        if "://" in entry["path"]:
            return at(entry["path"])
        return Path(os.path.normpath(self.journal.folder / entry["path"]))

    def _log_tags(self, client: Any, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._log_all(client, run_id, "tags", [RunTag(name, value) for name, value in tags.items()])

    def _log_all(self, client: Any, run_id: str, kind: str, entries: Sequence[Any]) -> None:
        """Logs `metrics`, `params` or `tags` in one call; where MLflow refuses one of them, one by one, saying which it does not take."""
        from mlflow.exceptions import MlflowException

        try:
            client.log_batch(run_id, **{kind: entries})
        except MlflowException as error:
            if error.error_code != _REFUSED:
                raise
            if store.existing_run(client, run_id) is None:
                raise LostRunError from error
            if len(entries) == 1:
                store.warn(f"{kind.removesuffix('s')} {entries[0].key!r}", error)
                return
            for entry in entries:
                self._log_all(client, run_id, kind, [entry])


class PipelineOutbox(Outbox):
    """The journal of a pipeline run."""

    def __init__(self, run: RunDir) -> None:
        super().__init__(Journal(run.root), f"pipeline run {run.name}")
        self._run = run

    @property
    def identity(self) -> RunIdentity | None:
        return pipeline_run_identity(self._run)

    def _prepare(self) -> None:
        """A pipeline run needs nothing."""

    def _remember(self, identity: RunIdentity) -> None:
        write_json(self._run.identity, read_json(self._run.identity) | {"tracking": asdict(identity)})

    def _experiment(self, client: Any, entry: Entry) -> str:
        return store.experiment_id(client, entry["experiment"])

    def _tags(self, identity: RunIdentity) -> Mapping[str, str]:
        return {ROLE: "pipeline", **pipeline_tags(self._run, identity)}

    def _note(self, text: str) -> str:
        identity = self.identity
        assert identity is not None
        experiment, models = identity.experiment_id, [model.run_id for model in self._model_identities()]
        table = experiment_view.view_address(experiment, identity.run_id)
        parameters = experiment_view.compare_address(experiment, models)
        links = f"[Curves and pictures side by side]({comparison_url(identity)}) · [figures]({table}) · [parameters]({parameters})"
        return f"{links}\n\n{text}".strip()

    def _model_identities(self) -> list[RunIdentity]:
        """The runs of the models in the folder, by their names."""
        files = sorted(self._run.root.glob(f"*/{ModelDir(self._run.root).tracking.name}"))
        return [RunIdentity(**read_json(file)) for file in files]

    def _do_views(self, client: Any, run_id: str, entry: Entry) -> None:  # noqa: ARG002
        """Sees that the views that show the run's models are there; and that they find the models, which may be of an earlier version."""
        for model in self.models():
            try:
                ModelOutbox(model).send()
            except BusyError:
                continue
        identity = self.identity
        assert identity is not None
        experiment_view.prepare(client, identity.experiment_id)
        experiment_view.keep_view_of(client, client.get_run(run_id))
        for found in self._model_identities():
            held = store.existing_run(client, found.run_id)
            if held is None:
                continue
            self._log_tags(client, found.run_id, {ROLE: "backbone", **pipeline_tags(self._run, identity)})
            if _PARENT in held.data.tags:
                client.delete_tag(found.run_id, _PARENT)

    def models(self) -> list[ModelDir]:
        """Those of the folder that have a journal."""
        return sorted({ModelDir(file.parent.parent) for file in self._run.root.glob("*/*/tracking.jsonl")}, key=lambda one: one.root)


def journal_of(model: ModelDir) -> Journal:
    """The journal of a model, in its folder `train`, or of one that was not trained here, in one of its own."""
    return Journal(model.untrained_journal if model.untrained_journal.is_dir() else model.train)


class ModelOutbox(Outbox):
    """The journal of one model."""

    def __init__(self, model: ModelDir) -> None:
        super().__init__(journal_of(model), f"model {model.name}")
        self._model = model
        self._run = RunDir(model.root.parent)

    @property
    def identity(self) -> RunIdentity | None:
        return model_run_identity(self._model)

    def _remember(self, identity: RunIdentity) -> None:
        write_json(self._model.tracking, asdict(identity))

    def _prepare(self) -> None:
        if self._parent is None:
            PipelineOutbox(self._run).send(stop=lambda entry: entry["do"] != "open")

    @property
    def _parent(self) -> RunIdentity | None:
        """The run that this one belongs to; None where the folder above is no pipeline run's."""
        return pipeline_run_identity(self._run)

    def _do_register(self, client: Any, run_id: str, entry: Entry) -> None:
        path = self._path(entry)
        told = path.with_name("registration.json")
        digest = entry["tags"]["checkpoint_digest"]
        if not path.is_dir() or read_json(told)["checkpoint_digest"] != digest:
            store.warn_lost(path, f"the model of checkpoint {entry['tags']['checkpoint']}, which another has replaced")
            return
        version = registry.register(client, run_id, path, entry)
        write_json(told.with_name("version.json"), {"name": version.name, "version": version.number, "model_id": version.model_id})

    def _experiment(self, client: Any, entry: Entry) -> str:
        return self._parent.experiment_id if self._parent else store.experiment_id(client, entry["experiment"])

    def _tags(self, identity: RunIdentity) -> Mapping[str, str]:  # noqa: ARG002
        return {ROLE: "backbone", **(pipeline_tags(self._run, self._parent) if self._parent else {})}

    def _note(self, text: str) -> str:
        if self._parent is None:
            return text
        return f"[Beside the other models of {self._run.root.name}]({comparison_url(self._parent)})\n\n{text}".strip()


def pipeline_tags(run: RunDir, identity: RunIdentity) -> dict[str, str]:
    return {PIPELINE: run.name, PIPELINE_RUN: identity.run_id}


def _latest_points(run: Any) -> dict[str, tuple[int, float]]:
    """The last step of each metric of MLflow's run, and its value there."""
    return {metric.key: (metric.step, metric.value) for metric in run.data.to_proto().metrics}


def _equal(one: float, other: float) -> bool:
    return one == other or (one != one and other != other)
