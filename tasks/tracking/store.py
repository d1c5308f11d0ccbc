"""Where MLflow keeps its runs, and the client to it; MLflow, two seconds to import, is imported only on use."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.running.workspace import workspace_root

URI_VARIABLE = "MLFLOW_TRACKING_URI"
UI_VARIABLE = "MASKLINE_MLFLOW_UI"
DEFAULT_UI = "http://127.0.0.1:5000"

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A dead server is given up after seconds rather than minutes: what it missed is sent again later.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    # It would print pages that open without our columns.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def tracking_uri() -> str:
    """`$MLFLOW_TRACKING_URI`, by default the SQLite database of the workspace."""
    return os.environ.get(URI_VARIABLE) or f"sqlite:///{workspace_root() / 'mlflow.db'}"


def is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def ui_address() -> str:
    """Where a person's browser finds MLflow: `$MASKLINE_MLFLOW_UI`, else the server itself, else the local default."""
    uri = tracking_uri()
    return (os.environ.get(UI_VARIABLE) or (uri if is_server(uri) else DEFAULT_UI)).rstrip("/")


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """An `MlflowClient`, for opening or closing a run; creates the database on first use.

    Two processes that create one database, experiment or dataset at once make MLflow fail, so they queue here. The
    client may be used beyond the block, for all that concerns one run only.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    uri = tracking_uri()
    if is_server(uri):
        yield MlflowClient(tracking_uri=uri)
        return
    root = workspace_root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield MlflowClient(tracking_uri=uri)


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


def warn(what: str, error: Exception) -> None:
    """Says on standard error what MLflow did not take and how to mend it."""
    uri = tracking_uri()
    if is_server(uri):
        fix = f"see that the MLflow server at {uri} runs (`maskline doctor`), or unset {URI_VARIABLE}"
    else:
        fix = f"see that {uri} can be written and its disk has space (`maskline doctor`)"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    print(
        f"WARNING: MLflow did not take {what}: {reason}\n  the step goes on, its own files are complete\n  fix: {fix}",
        file=sys.stderr,
        flush=True,
    )


def probe() -> str:
    """One line on the store that `tracking_uri` names, without importing MLflow.

    Raises:
      OSError: it does not answer, or cannot be written.
    """
    uri = tracking_uri()
    if is_server(uri):
        with urllib.request.urlopen(f"{uri.rstrip('/')}/version", timeout=5) as answer:
            return f"server {uri}, version {answer.read(100).decode(errors='replace').strip()}"
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
