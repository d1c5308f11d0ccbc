"""MLflow's registry: the versions of a registered model, their aliases, and who may move these.

A registered model is all that was evaluated on one dataset, whatever its config; each checkpoint is a version of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.running.errors import UserError
from tasks.running.workspace import folder_digest
from tasks.tracking import experiment_view, store
from tasks.tracking.metric_names import mlflow_name

CHAMPION, PREVIOUS = "champion", "previous"
REPLACED = "champion_before"
"""The tag of a version that was promoted: the version that it took the place of."""
_CHECKPOINT, _MODEL_ID = "checkpoint_digest", "model_id"
_MODEL_TYPE = "instance segmentation"
_SECONDS_BETWEEN_TRIES = 0.3
_DIGEST_LENGTH = 36  # that MLflow holds of a dataset
_NO_LOGGED_NAME, _NO_NAME = re.compile(r"""[/:.%"']"""), re.compile(r"[/:]")


@dataclass(frozen=True)
class Version:
    """One version of a registered model; `tags` are those of `serving.registration`."""

    name: str
    number: int
    model_id: str
    run_id: str
    tags: Mapping[str, str]

    def __str__(self) -> str:
        return f"version {self.number} ({self.tags.get('config', '?')})"


def aliased_versions() -> list[tuple[str, Version]]:
    """Every alias of every registered model, with the version that bears it; UserError where MLflow does not answer."""
    try:
        client = store.client()
        found, token = [], None
        while token != "":
            page = client.search_registered_models(page_token=token)
            for model in page:
                found += [(alias, _version(client.get_model_version(model.name, number))) for alias, number in model.aliases.items()]
            token = page.token or ""
        return found
    except Exception as error:
        raise store.unreachable("nothing was removed", error) from error


def registered_name(dataset: str) -> str:
    """What the models of a dataset are registered as; MLflow takes no slash and no colon."""
    return _NO_NAME.sub("_", dataset)


def register(client: Any, run_id: str, folder: Path, entry: Mapping[str, Any]) -> Version:
    """The version that holds the checkpoint of an entry `register`, made where it is missing, with the entry's figures added to it."""
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    name, tags = entry["name"], entry["tags"]
    with store.connected() as client:
        try:
            client.create_registered_model(name, tags={"dataset.name": entry["dataset"]["name"]})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = _with_checkpoint(client, name, tags[_CHECKPOINT])
        if found is None:
            logged = client.create_logged_model(
                experiment_id=client.get_run(run_id).info.experiment_id,
                name=_NO_LOGGED_NAME.sub("_", tags["config"]),
                source_run_id=run_id,
                tags=tags,
                model_type=_MODEL_TYPE,
            )
            client.log_model_artifacts(logged.model_id, str(folder))
            client.finalize_logged_model(logged.model_id, "READY")
            # A database on its own would look for the model in the process's global store; a server takes no other way to name it.
            source = f"models:/{logged.model_id}" if store.is_server(store.tracking_uri()) else logged.artifact_location
            # A tag too, since not every store gives it back.
            made = client.create_model_version(
                name, source=source, run_id=run_id, tags={**tags, _MODEL_ID: logged.model_id}, model_id=logged.model_id
            )
            found = _version(made)
    about = {"dataset_name": entry["dataset"]["name"], "dataset_digest": entry["dataset"]["digest"][:_DIGEST_LENGTH]}
    points = [
        Metric(mlflow_name(key), value, entry["at"], entry["step"], model_id=found.model_id, run_id=run_id, **about)
        for key, value in entry["values"].items()
    ]
    if points:
        client.log_batch(run_id, metrics=points)
    return found


class Registry:
    """A registered model. UserError where MLflow does not answer, or holds no such model."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self._client = store.client()
            self._client.get_registered_model(name)
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> UserError:
        if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            return UserError(
                f"MLflow at {store.tracking_uri()} has no registered model {self.name}",
                "evaluate a model of that dataset, which registers it; or give the name with --name",
            )
        return store.unreachable("nothing was decided", error)

    def with_checkpoint(self, digest: str) -> Version | None:
        """The version that holds a checkpoint."""
        return _with_checkpoint(self._client, self.name, digest)

    def alias(self, alias: str) -> Version | None:
        """The version that bears an alias."""
        from mlflow.exceptions import MlflowException

        try:
            return _version(self._client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            # Of an alias that nobody bears some stores say the one, some the other.
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def version(self, number: int) -> Version:
        return _version(self._client.get_model_version(self.name, str(number)))

    def move(self, champion: Version, previous: Version | None) -> None:
        """Lets `champion` bear the alias, and `previous` the other; called by who holds the lock."""
        if previous is None:
            if self.alias(PREVIOUS) is not None:
                self._client.delete_registered_model_alias(self.name, PREVIOUS)
        else:
            self._client.set_registered_model_alias(self.name, PREVIOUS, str(previous.number))
        self._client.set_registered_model_alias(self.name, CHAMPION, str(champion.number))

    def tag(self, version: Version, **tags: str) -> None:
        for key, value in tags.items():
            self._client.set_model_version_tag(self.name, str(version.number), key, value)

    def content_digest(self, version: Version) -> str:
        """`folder_digest` of the files that the registry hands out for a version."""
        with tempfile.TemporaryDirectory() as folder:
            return folder_digest(self.download(version, Path(folder)))

    def download(self, version: Version, folder: Path) -> Path:
        """The files of a version, in a folder below `folder`, which is empty."""
        from mlflow.artifacts import download_artifacts

        location = self._client.get_logged_model(version.model_id).artifact_location
        return Path(download_artifacts(artifact_uri=location, dst_path=str(folder), tracking_uri=store.tracking_uri()))

    @contextmanager
    def locked(self, seconds: float = 0.0) -> Iterator[None]:
        """Nobody else, on whatever machine, moves the aliases within the block. UserError where somebody is at it for so many seconds.

        The lock is a registered model of its own: MLflow's database makes one of a name once. It is held for as long as it takes to look
        once more and to move the aliases.
        """
        from mlflow.exceptions import MlflowException

        lock = f"{self.name}.lock"
        holder = f"process {os.getpid()} on {platform.node()}"
        end = time.monotonic() + seconds
        while True:
            try:
                self._client.create_registered_model(lock, tags={"holder": holder, "since": time.strftime("%Y-%m-%d %H:%M:%S %z")})
                break
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                if time.monotonic() > end:
                    raise UserError(f"somebody else moves the champion of {self.name}: {self._holder(lock)}", _unlock(lock)) from error
                time.sleep(_SECONDS_BETWEEN_TRIES)
        try:
            yield
        finally:
            self._client.delete_registered_model(lock)

    def _holder(self, lock: str) -> str:
        with contextlib.suppress(Exception):
            tags = self._client.get_registered_model(lock).tags
            return f"{tags.get('holder')}, since {tags.get('since')}"
        return "it has ended just now"

    def record(self, decision: Mapping[str, Any], description: str) -> str:
        """Keeps a decision as a run of the experiment `NAME promotions`, beside its model's; the address of its page comes back.

        Its numbers become metrics, the rest tags; the whole is the artifact `decision.json`.
        """
        with store.connected() as client:
            experiment = store.experiment_id(client, f"{self.name} promotions")
        title = f"{decision['decision']}: version {decision['version']}"
        run = client.create_run(experiment, run_name=title, tags={experiment_view.NOTE: description})
        run_id = run.info.run_id
        for key in ("decision", "version", "champion_before", "by", "reason", "policy_digest", "dataset_digest"):
            if decision.get(key) is not None:
                client.set_tag(run_id, key, str(decision[key]))
        for key, value in decision.get("numbers", {}).items():
            client.log_metric(run_id, mlflow_name(key), float(value))
        client.log_text(run_id, json.dumps(decision, indent=2, sort_keys=True), "decision.json")
        client.set_terminated(run_id)
        return experiment_view.run_address(experiment, run_id)

    def describe(self, text: str) -> None:
        """Sets the Markdown on the page of the registered model."""
        self._client.update_registered_model(self.name, text)


def _unlock(lock: str) -> str:
    return f"wait for it, and run this again; if that process is gone, delete the registered model {lock} in MLflow"


def _with_checkpoint(client: Any, name: str, digest: str) -> Version | None:
    found = client.search_model_versions(f"name = '{name}' and tags.{_CHECKPOINT} = '{digest}'", max_results=10)
    return _version(max(found, key=lambda one: int(one.version))) if found else None


def _version(held: Any) -> Version:
    return Version(held.name, int(held.version), held.tags.get(_MODEL_ID, ""), held.run_id or "", dict(held.tags))
