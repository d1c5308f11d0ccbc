"""The line with planted secrets: whatever its steps print, write, send to MLflow or start, none is in it."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command_lines import CommandLines
from tests.tracking.mlflow_server import Server

REPOSITORY = Path(__file__).parents[2]
NAME = "mask_rcnn_inception_v2_coco"
IN_THE_ADDRESS = "planted-address-3Hb7"
PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "planted-s3-key-8Hq2",
    "AWS_SESSION_TOKEN": "planted-s3-token-w0Zk",
    "MLFLOW_TRACKING_TOKEN": "planted-mlflow-token-5rTb",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password-Xc91",
}


@dataclass(frozen=True)
class Line:
    workspace: Path
    server: Server
    server_folder: Path
    printed: dict[str, str]
    command_lines: set[bytes]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """Every step of a small model, and two that MLflow does not answer, by a server whose address has a login in it."""
    root, server_folder = tmp_path_factory.mktemp("workspace"), tmp_path_factory.mktemp("server")
    server = Server(server_folder)
    server.start()
    source = root / "scenes.yaml"
    source.write_text("name: scenes\nshapes: {train: 4, val: 2, height: 64, width: 80, seed: 3}\n")
    dataset, run = root / "datasets" / "scenes", root / "runs" / "planted"
    model = run / NAME
    small = ["--image-size", "64", "--steps", "2", "--batch-size", "1", "--proposals", "4"]
    port = urllib.parse.urlsplit(server.url).port
    environment = os.environ | PLANTED | {"MASKLINE_WORKSPACE": str(root), "MASKLINE_AIRFLOW_PORT": "1"}
    environment["MLFLOW_TRACKING_URI"] = f"http://anna:{IN_THE_ADDRESS}@127.0.0.1:{port}"
    away = environment | {"MLFLOW_TRACKING_URI": f"http://anna:{IN_THE_ADDRESS}@127.0.0.1:1"}
    steps = {
        "materialize": ([str(source)], environment, 0),
        "open-run": ([str(run), "--dataset", str(dataset)], environment, 0),
        "convert": ([NAME, "--dataset", str(dataset), "--output", str(model)], environment, 0),
        "train": ([str(model), *small], environment, 0),
        "evaluate": ([str(model)], environment, 0),
        "compare": ([str(run)], environment, 0),
        "doctor": ([], environment, 0),
        "sync": ([str(run)], away, None),
        "rollback": (["nobody's", "--reason", "it was tried"], away, None),
    }
    printed = {}
    with CommandLines() as seen:
        for step, (arguments, variables, code) in steps.items():
            done = subprocess.run(
                [sys.executable, "-m", "tasks", step, *arguments],
                cwd=REPOSITORY,
                env=variables,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            printed[step] = done.stdout + done.stderr
            assert code in (None, done.returncode), (step, printed[step])
    server.kill()
    return Line(root, server, server_folder, printed, seen.seen)


def secrets_in(content: bytes) -> list[str]:
    return [secret for secret in (*PLANTED.values(), IN_THE_ADDRESS) if secret.encode() in content]


@pytest.mark.slow
def test_no_step_prints_a_secret(line: Line) -> None:
    assert f"server http://127.0.0.1:{line.server.port}, version" in line.printed["doctor"]
    for step in ("sync", "rollback"):
        assert "127.0.0.1:1" in line.printed[step] or "MLflow" in line.printed[step], line.printed[step]
    assert {step: found for step, text in line.printed.items() if (found := secrets_in(text.encode()))} == {}


@pytest.mark.slow
def test_no_file_has_a_secret_wherever_it_lies(line: Line) -> None:
    """The workspace, and MLflow's database and artifacts: parameters, tags, notes, figures, the comparison's page."""
    files = [file for root in (line.workspace, line.server_folder) for file in root.rglob("*") if file.is_file()]
    for name in ("provenance.json", "mlflow.db", "comparison.md", "result.json"):
        assert name in {file.name for file in files}, name
    database = (line.server_folder / "mlflow.db").read_bytes()
    # Links that people follow are there, without what was before the host.
    written = b"".join(file.read_bytes() for file in files if file.suffix in (".json", ".md"))
    assert f"http://127.0.0.1:{line.server.port}/#/".encode() in written
    assert NAME.encode() in database
    assert {file: found for file in files if (found := secrets_in(file.read_bytes()))} == {}


@pytest.mark.slow
def test_no_command_line_has_a_secret(line: Line) -> None:
    assert any(b"train" in command and NAME.encode() in command for command in line.command_lines)
    assert [command for command in line.command_lines if secrets_in(command)] == []
