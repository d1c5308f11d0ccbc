"""Each check against a machine made healthy or broken on purpose."""

from __future__ import annotations

import http.server
import json
import sqlite3
import subprocess
import sys
import threading
from collections import namedtuple
from contextlib import contextmanager

import pytest

from tasks import doctor
from tasks.doctor import FAIL, OK, WARN, Finding

GIGABYTE = 1024**3


@contextmanager
def serving(path, body):
    """Port of a server that answers one path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == path else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "workspace"


@pytest.mark.parametrize(("version", "state"), [((3, 10, 9), FAIL), ((3, 11, 7), OK), ((3, 12, 0), OK), ((3, 13, 1), FAIL)])
def test_python(monkeypatch, version, state):
    monkeypatch.setattr(sys, "version_info", (*version, "final", 0))
    assert doctor.check_python().state == state


@pytest.mark.parametrize(("free", "state"), [(500, OK), (5, WARN), (0.5, FAIL)])
def test_disk(monkeypatch, free, state):
    usage = namedtuple("usage", "total used free")(1000 * GIGABYTE, 0, int(free * GIGABYTE))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    finding = doctor.check_disk()
    assert finding.state == state
    assert f"{free:.1f} GB free" in finding.found


def test_a_disk_that_cannot_be_written(monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert doctor.check_disk().state == FAIL


@pytest.mark.parametrize(
    ("answer", "driver", "state", "found"),
    [
        ({"version": "2.20.0", "gpus": ["NVIDIA H200"]}, True, OK, "2.20.0, NVIDIA H200"),
        ({"version": "2.20.0", "gpus": []}, False, OK, "2.20.0 on CPU"),
        ({"version": "2.20.0", "gpus": []}, True, WARN, "2.20.0 on CPU, though this machine has an NVIDIA driver"),
    ],
)
def test_tensorflow_devices(monkeypatch, answer, driver, state, found):
    done = subprocess.CompletedProcess([], 0, f"noise\n{json.dumps(answer)}\n", "")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "/usr/bin/nvidia-smi" if driver else None)
    finding = doctor.check_tensorflow()
    assert (finding.state, finding.found.startswith(found)) == (state, True)


def test_tensorflow_missing(monkeypatch):
    # What Python itself says of a module that is not there.
    monkeypatch.setattr(doctor, "_TENSORFLOW_PROBE", "import a_module_that_nobody_has")
    finding = doctor.check_tensorflow()
    assert finding.state == FAIL
    assert finding.found == "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"
    assert "make setup" in finding.advice


def test_tensorflow_that_crashes(monkeypatch):
    monkeypatch.setattr(doctor, "_TENSORFLOW_PROBE", "import os; os.abort()")
    assert doctor.check_tensorflow().found == "import ended with code -6"


def test_tensorflow_that_hangs(monkeypatch):
    monkeypatch.setattr(doctor, "_TENSORFLOW_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "_TENSORFLOW_SECONDS", 0.5)
    finding = doctor.check_tensorflow()
    assert (finding.state, finding.found) == (FAIL, "import took more than 0.5 s")


def test_mlflow_database_before_first_use(workspace):
    assert doctor.check_mlflow() == Finding("MLflow", OK, f"{workspace / 'mlflow.db'}, made on first use")


def test_mlflow_database_with_runs(workspace):
    workspace.mkdir()
    with sqlite3.connect(workspace / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (id)")
        database.executemany("INSERT INTO runs VALUES (?)", [(1,), (2,), (3,)])
    assert doctor.check_mlflow() == Finding("MLflow", OK, f"{workspace / 'mlflow.db'}, 3 runs")


def test_mlflow_file_that_is_no_database(workspace):
    workspace.mkdir()
    (workspace / "mlflow.db").write_text("not a database, and longer than its header would be" * 3)
    finding = doctor.check_mlflow()
    assert finding.state == FAIL
    assert "file is not a database" in finding.found


def test_mlflow_server(monkeypatch):
    with serving("/version", b"3.17.2") as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        assert doctor.check_mlflow() == Finding("MLflow", OK, f"server http://127.0.0.1:{port}, version 3.17.2")
    finding = doctor.check_mlflow()
    assert finding.state == FAIL
    assert "Connection refused" in finding.found
    assert "make up" in finding.advice


def test_mlflow_server_behind_a_login(monkeypatch):
    with serving("/version", b"3.17.2") as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://anna:planted-secret@127.0.0.1:{port}")
        assert doctor.check_mlflow() == Finding("MLflow", OK, f"server http://127.0.0.1:{port}, version 3.17.2")
    finding = doctor.check_mlflow()
    assert finding.state == FAIL
    assert finding.found.startswith(f"http://***@127.0.0.1:{port}: ")
    assert "Connection refused" in finding.found


def test_airflow_running(monkeypatch):
    with serving("/api/v2/version", b'{"version": "3.3.2"}') as port:
        monkeypatch.setenv("MASKLINE_AIRFLOW_PORT", str(port))
        assert doctor.check_airflow() == Finding("Airflow", OK, f"3.3.2 at http://127.0.0.1:{port}")


@pytest.mark.parametrize(("files", "state"), [((), WARN), (("dags/",), FAIL), (("dags/.venv/bin/airflow",), WARN)])
def test_airflow_not_running(tmp_path, monkeypatch, files, state):
    with serving("/", b"") as port:
        pass  # A port that was free a moment ago.
    monkeypatch.setenv("MASKLINE_AIRFLOW_PORT", str(port))
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "tasks" / "doctor.py"))
    for file in files:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if file.endswith("/") else path.touch()
    finding = doctor.check_airflow()
    assert finding.state == state
    assert finding.advice


def test_the_summary_and_the_lines(monkeypatch, capsys):
    findings = [
        Finding("one", OK, "fine [Errno 1]"),
        Finding("two", WARN, "so so", "mend two"),
        Finding("three", FAIL, "broken [link=x]", "mend three"),
    ]
    monkeypatch.setattr(doctor, "CHECKS", [lambda finding=finding: finding for finding in findings])
    assert doctor.doctor().summary == {"failed": ["three"], "warned": ["two"]}
    said = capsys.readouterr().out
    for finding in findings:
        assert finding.found in said
        assert finding.advice in said
