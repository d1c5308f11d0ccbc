"""Where MLflow keeps its runs, and the client to it; MLflow, two seconds to import, is imported only on use."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import logging
import os
import re
import sqlite3
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.running.concealment import without_secrets
from tasks.running.errors import UserError
from tasks.running.workspace import workspace_root

URI_VARIABLE = "MLFLOW_TRACKING_URI"
UI_VARIABLE = "MASKLINE_MLFLOW_UI"
DEFAULT_UI = "http://127.0.0.1:5000"

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A dead server is given up after seconds rather than minutes: what it missed is sent again later. So a call to one that takes
    # connections and never answers lasts half a minute, in a thread that nobody waits for while steps run.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    # It would print pages that open without our columns.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A bar for every file, between the lines of a step.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def tracking_uri() -> str:
    """`$MLFLOW_TRACKING_URI`, by default the SQLite database of the workspace."""
    return os.environ.get(URI_VARIABLE) or f"sqlite:///{workspace_root() / 'mlflow.db'}"


def is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def ui_address() -> str:
    """Where a person's browser finds MLflow: `$MASKLINE_MLFLOW_UI`, else the server itself, else the local default; without any login."""
    uri = tracking_uri()
    return _without_login(os.environ.get(UI_VARIABLE) or (uri if is_server(uri) else DEFAULT_UI)).rstrip("/")


def _without_login(address: str) -> str:
    """What is before the host of an address is for the program that calls it: links go to people, and into XComs and tags."""
    parts = urllib.parse.urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """An `MlflowClient`, for opening or closing a run; creates the database on first use.

    Two processes that create one database, experiment or dataset at once make MLflow fail, so they queue here. The
    client may be used beyond the block, for all that concerns one run only.
    """
    _set_defaults()
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    # Each try to reach a server that is away; we say so ourselves, once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    uri = tracking_uri()
    if is_server(uri):
        yield MlflowClient(tracking_uri=uri)
        return
    root = workspace_root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield MlflowClient(tracking_uri=uri)


def _set_defaults() -> None:
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def import_client() -> None:
    """Takes the two seconds that MLflow's import lasts; where it fails, so will every call, and say why."""
    _set_defaults()
    with contextlib.suppress(ImportError):
        importlib.import_module("mlflow")


def client() -> Any:
    """An `MlflowClient`; creates the database on first use."""
    with connected() as made:
        return made


def experiment_id(client: Any, name: str) -> str:
    """The experiment of this name, created where it is missing."""
    if experiment := client.get_experiment_by_name(name):
        return str(experiment.experiment_id)
    # A server places artifacts itself; a bare database would put them into the current directory.
    artifacts = None if is_server(tracking_uri()) else (workspace_root() / "mlartifacts" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=artifacts))


def existing_run(client: Any, run_id: str) -> Any | None:
    """The run, or None when this store does not hold it or holds it as deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return None if run.info.lifecycle_stage == "deleted" else run


def attempt(what: str, send: Callable[[], object]) -> None:
    """Sends what may fail alone."""
    try:
        send()
    except Exception as error:
        warn(what, error)


def warn_lost(path: Path, what: str) -> None:
    """Says on standard error what cannot be sent any more."""
    print(f"WARNING: {path} is not what it was: MLflow will not have {what}", file=sys.stderr, flush=True)


def warn(what: str, error: Exception) -> None:
    """Says on standard error what MLflow did not take, and how to mend it."""
    _say(f"MLflow did not take {what}: {_reason(error)}\n  the step goes on, its own files are complete")


def warn_waiting(journal: Path, error: Exception) -> None:
    """Says on standard error that MLflow does not answer, and where what it misses waits."""
    _say(f"MLflow does not answer: {_reason(error)}\n  the step goes on; what MLflow misses waits in {journal} and is sent when it answers")


def unreachable(waiting: str, error: Exception) -> UserError:
    """What a person is told who waits for MLflow."""
    return UserError(f"MLflow does not answer: {_reason(error)}\n  {waiting}", way_out())


def _say(warning: str) -> None:
    print(without_secrets(f"WARNING: {warning}\n  fix: {way_out()}"), file=sys.stderr, flush=True)


def _reason(error: Exception) -> str:
    said = without_secrets(str(error).strip() or type(error).__name__).splitlines()[0]
    # Of the pools, retries and addresses that MLflow's client tells, what happened.
    cause = re.search(r"\(Caused by \w+\([\"']?(.+?)[\"']?\)\)$", said)
    return cause[1] if cause else said


def way_out() -> str:
    """What a person can do about a store that does not answer."""
    uri = tracking_uri()
    if is_server(uri):
        return f"see that the MLflow server at {uri} runs (`maskline doctor`), or unset {URI_VARIABLE}"
    return f"see that {uri} can be written and its disk has space (`maskline doctor`)"


def probe() -> str:
    """One line on the store that `tracking_uri` names, without importing MLflow.

    Raises:
      OSError: it does not answer, or cannot be written.
    """
    uri = tracking_uri()
    if is_server(uri):
        # This path asks for no login, and `urllib` would take one for a part of the host.
        shown = _without_login(uri)
        with urllib.request.urlopen(f"{shown.rstrip('/')}/version", timeout=5) as answer:
            return f"server {shown}, version {answer.read(100).decode(errors='replace').strip()}"
    if not uri.startswith("sqlite:///"):
        return f"{uri.split('://')[0]} database, not checked here"
    file = Path(uri.removeprefix("sqlite:///")).absolute()
    if not file.exists():
        return f"{file}, made on first use"
    if not os.access(file, os.W_OK):
        raise OSError(f"{file} cannot be written")
    with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
        try:
            (runs,) = database.execute("SELECT COUNT(*) FROM runs").fetchone()
        except sqlite3.Error as error:
            raise OSError(f"{file}: {error}") from error
    return f"{file}, {runs} runs"
