"""The step that looks at the machine: is everything there that the other steps need, and what to do where it is not.

    maskline doctor

Checks Python, disk, TensorFlow and its devices, MLflow and Airflow; changes nothing. Usual runtime: 10 seconds, for
TensorFlow's import.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks import tracking
from tasks.running.concealment import without_secrets
from tasks.running.workspace import StepResult, working_copy, workspace_root

OK, WARN, FAIL = "ok", "warn", "fail"

_PYTHONS = ((3, 11), (3, 12))
_GIGABYTE = 1024**3
_ENOUGH_DISK, _LEAST_DISK = 10 * _GIGABYTE, 1 * _GIGABYTE
_TENSORFLOW_SECONDS = 180
_TENSORFLOW_PROBE = """
import json
import tensorflow as tf
import tf_keras
from official.core import base_task
gpus = [tf.config.experimental.get_device_details(d).get("device_name", d.name) for d in tf.config.list_physical_devices("GPU")]
print(json.dumps({"version": tf.__version__, "gpus": gpus}))
"""


@dataclass(frozen=True)
class Finding:
    """What one check found: `ok`, `warn` (the line runs, but) or `fail`, and the way out."""

    subject: str
    state: str
    found: str
    advice: str = ""


def doctor() -> StepResult:
    """Prints a line per check; the summary lists the subjects that fail and that warn."""
    findings = [check() for check in CHECKS]
    _print(findings)
    by_state = {state: [f.subject for f in findings if f.state == state] for state in (FAIL, WARN)}
    return StepResult("doctor", "done", {}, {"failed": by_state[FAIL], "warned": by_state[WARN]})


def check_python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] in _PYTHONS:
        return Finding("Python", OK, version)
    return Finding("Python", FAIL, version, "TensorFlow needs 3.11 or 3.12: remove .venv, then `make setup` with one")


def check_disk() -> Finding:
    root = workspace_root()
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        return Finding("disk", FAIL, f"{there} cannot be written", "point MASKLINE_WORKSPACE to a folder of yours")
    free = shutil.disk_usage(there).free
    found = f"{free / _GIGABYTE:.1f} GB free for {root}"
    if free >= _ENOUGH_DISK:
        return Finding("disk", OK, found)
    advice = "checkpoints take gigabytes: free some space, or point MASKLINE_WORKSPACE to a larger disk"
    return Finding("disk", WARN if free >= _LEAST_DISK else FAIL, found, advice)


def check_store() -> Finding:
    """Where the workspace is a URL, writes a small file there and removes it."""
    copy = working_copy()
    if copy is None:
        return Finding("workspace", OK, str(workspace_root()))
    name = f".doctor-{secrets.token_hex(4)}"
    try:
        copy.store.write(name, b"written by `maskline doctor`")
        copy.store.remove(name)
    except Exception as error:  # each store's client has errors of its own
        return Finding("workspace", FAIL, f"{copy.url}: {error}", "correct MASKLINE_WORKSPACE, and the credentials in the environment")
    return Finding("workspace", OK, f"{copy.url}; copies in {copy.root}")


def check_tensorflow() -> Finding:
    """Imports it in a process of its own, which may crash or hang without taking this one along."""
    subject, reinstall = "TensorFlow", "`make setup` installs it"
    command = [sys.executable, "-c", _TENSORFLOW_PROBE]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1"}
    try:
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TENSORFLOW_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Finding(subject, FAIL, f"import took more than {_TENSORFLOW_SECONDS} s", f"the disk is slow; {reinstall}")
    if answer.returncode != 0:
        last = (answer.stderr.strip() or f"import ended with code {answer.returncode}").splitlines()[-1]
        return Finding(subject, FAIL, last, reinstall)
    found = json.loads(answer.stdout.splitlines()[-1])
    if found["gpus"]:
        return Finding(subject, OK, f"{found['version']}, {', '.join(found['gpus'])}")
    if shutil.which("nvidia-smi"):
        advice = "`make setup GPU=1` installs the CUDA build; then see that `nvidia-smi` lists the GPU"
        return Finding(subject, WARN, f"{found['version']} on CPU, though this machine has an NVIDIA driver", advice)
    return Finding(subject, OK, f"{found['version']} on CPU, {os.cpu_count()} cores")


def check_mlflow() -> Finding:
    try:
        return Finding("MLflow", OK, tracking.probe())
    except (OSError, ValueError) as error:
        advice = "`make up` starts the local server; unset MLFLOW_TRACKING_URI to use the workspace's database"
        return Finding("MLflow", FAIL, without_secrets(f"{tracking.tracking_uri()}: {error}"), advice)


def check_airflow() -> Finding:
    address = f"http://127.0.0.1:{os.environ.get('MASKLINE_AIRFLOW_PORT') or 8080}"
    try:
        # This machine itself is never behind a proxy.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{address}/api/v2/version", timeout=5) as answer:
            return Finding("Airflow", OK, f"{json.load(answer)['version']} at {address}")
    except (OSError, ValueError, KeyError):
        pass  # What matters is whether it could be started.
    environment = Path(__file__).resolve().parents[1] / "dags"
    if not environment.is_dir():
        return Finding("Airflow", WARN, f"no answer at {address}", "the steps run without it, one command at a time")
    if (environment / ".venv" / "bin" / "airflow").exists():
        return Finding("Airflow", WARN, f"installed, not running at {address}", "`make up` starts it")
    return Finding("Airflow", FAIL, "not installed", "`make setup` installs it, `make up` starts it")


CHECKS: Sequence[Callable[[], Finding]] = (check_python, check_disk, check_store, check_tensorflow, check_mlflow, check_airflow)


def _print(findings: Sequence[Finding]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    styles = {OK: "green", WARN: "yellow", FAIL: "bold red"}
    for finding in findings:
        advice = f"\n[dim]fix: {escape(finding.advice)}[/dim]" if finding.advice else ""
        state = f"[{styles[finding.state]}]{finding.state}[/]"
        table.add_row(state, finding.subject, f"{escape(finding.found)}{advice}")
    Console(width=None if Console().is_terminal else 140).print(table)
