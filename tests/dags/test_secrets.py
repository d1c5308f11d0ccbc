"""Secrets that are planted where a deployment has them are found nowhere after a run: in no log, XCom, database, file or command line."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.models import Connection as StoredConnection
from airflow.sdk.log import _secrets_masker, mask_logs
from airflow.utils.session import create_session
from maskline_airflow import kubernetes_pod, notifications
from maskline_airflow.concealment import is_secret, secrets_of
from maskline_airflow.notifications import FAILURE, Message
from maskline_airflow.step_runner import Step

from tests.command_lines import CommandLines
from tests.dags.task_try import TaskStateStore, Try
from tests.dags.test_dag_run import REPOSITORY, fake_trainer

NAME = "mask_rcnn_inception_v2_coco"
OF_STEPS = {
    "AWS_ACCESS_KEY_ID": "planted-id",
    "AWS_SECRET_ACCESS_KEY": "planted-s3-key-8Hq2",
    "AWS_SESSION_TOKEN": "planted-s3-token-w0Zk",
    "MLFLOW_TRACKING_TOKEN": "planted-mlflow-token-5rTb",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password-Xc91",
    "MLFLOW_TRACKING_URI": "http://anna:planted-address-7uJm@mlflow.example:5000",
}
"""Variables of the worker that its steps read"""
PLANTED = [
    *(value for name, value in OF_STEPS.items() if name not in ("AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_URI")),
    *("planted-address-7uJm", "planted-smtp-2Lp8", "xoxb-planted-bot-4Gv3", "planted-webhook-9Sd6", "planted-apprise-1Yh5"),
    *("planted-stored-3Kf7", "planted-extra-6Wa0"),
]


class Refusing(BaseHTTPRequestHandler):
    """A server that takes no message, and quotes the request in its answer as some do."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        answer = f"refused: {self.path} {self.headers} {body}".encode()
        self.send_response(403)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def refusing() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@dataclass(frozen=True)
class Run:
    """A run with planted secrets, one of whose trainings failed, and of which nobody could be told."""

    workspace: Path
    printed: str
    logged: str
    command_lines: set[bytes]
    environments: list[dict[str, str]]
    """That the steps got"""


@pytest.fixture(scope="module")
def run(airflow_database: None, refusing: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    workspace = tmp_path_factory.mktemp("planted")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = free.getsockname()[1]
    connections = {
        "mail": {"conn_type": "smtp", "host": "127.0.0.1", "port": dead, "login": "anna", "password": "planted-smtp-2Lp8"}
        | {"extra": {"disable_ssl": True, "disable_tls": True, "retry_limit": 1, "from_email": "a@example.org"}},
        "bot": {"conn_type": "slack", "password": "xoxb-planted-bot-4Gv3", "extra": {"base_url": f"http://{refusing}/api/"}},
        "hook": {"conn_type": "slackwebhook", "password": f"http://{refusing}/services/T/B/planted-webhook-9Sd6"},
        "deadhook": {"conn_type": "slackwebhook", "password": f"http://127.0.0.1:{dead}/services/T/B/planted-webhook-9Sd6"},
        "people": {"conn_type": "apprise", "extra": {"config": {"path": f"json://ben:planted-apprise-1Yh5@{refusing}/", "tag": "all"}}},
    }
    more: dict[str, str | None] = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connections.items()}
    more |= OF_STEPS | {
        "FAKE_TRAINER_FAILS": "train inception_v2 2",
        "MASKLINE_NOTIFY": "smtp:mail:c@example.org slack:bot:#x slack_webhook:hook slack_webhook:deadhook apprise:people",
    }
    stored = StoredConnection(conn_id="kept", conn_type="http", password="planted-stored-3Kf7", extra={"api_key": "planted-extra-6Wa0"})
    log, printed = workspace.parent / "log.txt", workspace.parent / "printed.txt"
    handler = logging.FileHandler(log)
    # As Airflow's own handlers have it.
    handler.addFilter(_secrets_masker())
    with create_session() as session:
        session.add(stored)
    with printed.open("w") as stream, fake_trainer(workspace, more), CommandLines() as lines:
        logging.getLogger().addHandler(handler)
        try:
            with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
                DagBag(REPOSITORY / "dags").dags["mask_rcnn_zoo"].test(run_conf={"configs": [NAME], "run_name": "planted"})
                notifications.send(Message(FAILURE, "Failed", ["a line"], {}))
        finally:
            logging.getLogger().removeHandler(handler)
            handler.close()
    # The fake trainer's own book of what it was given is the proof that the steps had them; a real one keeps none.
    calls = workspace / "commands.jsonl"
    environments = [json.loads(line)["environment"] for line in calls.read_text().splitlines()]
    commands = [json.dumps(json.loads(line)["command"]) for line in calls.read_text().splitlines()]
    calls.write_text("\n".join(commands))
    yield Run(workspace, printed.read_text(errors="replace"), log.read_text(errors="replace"), lines.seen, environments)
    with create_session() as session:
        session.delete(session.merge(stored))


def found_in(content: bytes) -> list[str]:
    return [secret for secret in PLANTED if secret.encode() in content]


def masked(printed: str) -> str:
    """As Airflow writes it to the file of a task's log, which a test's own output does not go through."""
    return "\n".join(str(mask_logs(None, "info", {"event": line})["event"]) for line in printed.splitlines())


def test_the_steps_had_the_secrets_that_they_need_and_none_of_airflows(run: Run) -> None:
    for environment in run.environments:
        assert OF_STEPS.items() <= environment.items()
        assert not [name for name in environment if name.startswith("AIRFLOW_CONN")]


def test_no_secret_is_in_airflows_database(run: Run) -> None:
    home = Path(os.environ["AIRFLOW_HOME"])
    database = b"".join(file.read_bytes() for file in home.glob("airflow.db*"))
    # XComs, rendered templates and the state store of the run are in there, in the clear.
    for known in (b"inception_v2 is broken", NAME.encode()):
        assert known in database
    assert found_in(database) == []


def test_no_secret_is_in_a_file_of_the_workspace_or_of_airflow(run: Run) -> None:
    steps = list(run.workspace.glob("steps/**/log.txt"))
    assert steps
    files = [file for root in (run.workspace, Path(os.environ["AIRFLOW_HOME"])) for file in root.rglob("*") if file.is_file()]
    assert {file: found for file in files if (found := found_in(file.read_bytes()))} == {}


def test_no_secret_is_in_a_log(run: Run) -> None:
    logged = run.logged + masked(run.printed)
    # Targets that are away, and that quote what they were sent.
    for target in ("smtp:mail", "slack:bot", "slack_webhook:hook", "slack_webhook:deadhook"):
        assert f"{target}" in logged, logged[-3000:]
    assert found_in(logged.encode()) == []


def test_a_step_that_prints_what_it_was_given_is_shown_without(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (OF_STEPS | {"FAKE_TRAINER_TELLS": " ".join(OF_STEPS)}).items():
        monkeypatch.setenv(name, value)
    Try(TaskStateStore()).execute()
    shown = masked(capsys.readouterr().out)
    assert "told AWS_SECRET_ACCESS_KEY: ***" in shown
    assert "told MLFLOW_TRACKING_URI: http://anna:***@mlflow.example:5000" in shown
    assert found_in(shown.encode()) == []


def test_no_secret_is_on_a_command_line(run: Run) -> None:
    assert any(b"step_keeper.py" in line for line in run.command_lines)
    assert [line for line in run.command_lines if found_in(line)] == []


def test_a_pod_is_told_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"HTTPS_PROXY": "http://me:planted-address-7uJm@proxy.example", "MASKLINE_PASS": "WANDB_API_KEY"}
    for name, value in (OF_STEPS | more).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_API_KEY", PLANTED[0])
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/run/secrets/aws")
    monkeypatch.setenv("MASKLINE_IMAGE", "registry.example/trainer@sha256:" + "a" * 64)
    task = dict.fromkeys(("dag_id", "run_id", "task_id", "map_index", "try_number"), "1")
    environment = {"MASKLINE_WORKSPACE": str(tmp_path)}
    pod = kubernetes_pod.render(Step(["train", "m"], tmp_path, environment, task, 0)).to_dict()
    assert found_in(json.dumps(pod, default=str).encode()) == []
    container = pod["spec"]["containers"][0]
    assert {one["name"] for one in container["env"]} >= {"AWS_SHARED_CREDENTIALS_FILE", "MASKLINE_WORKSPACE"}
    assert container["env_from"] == [{"config_map_ref": None, "prefix": None, "secret_ref": {"name": "maskline-step", "optional": True}}]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("A_TOKEN", "", True),
        ("X", "http://a:b@h", True),
        ("T_FILE", "", False),
        ("TOKEN_FILE", "/x", False),
        ("X", "http://h/@", False),
    ],
)
def test_which_variables_are_secret(name: str, value: str, expected: bool) -> None:
    assert is_secret(name, value) is expected


def test_what_is_secret_of_a_connection() -> None:
    address = "slack://one-token/two-token/three%2Ftoken?to=x"
    connection = StoredConnection(conn_id="c", conn_type="apprise", extra=json.dumps({"config": [{"path": address, "tag": "all"}]}))
    assert {address, "two-token", "three%2Ftoken", "three/token"} <= secrets_of(connection)  # type: ignore[arg-type]
