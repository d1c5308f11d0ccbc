"""Backup and restore of both databases, by the very commands of docs/containers.md: dump, wipe, restore, and the pages show the same."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import DAG_ID, Cluster
from tests.cluster.service import REPOSITORY, ClusterError

pytestmark = pytest.mark.cluster

PAGE = REPOSITORY / "docs" / "containers.md"
SERVED = ("objects", "mlflow", "airflow-apiserver", "airflow-dag-processor")
NOT_NEEDED = ("redis", "airflow-scheduler", "worker-default", "worker-gpu")
"""Nothing runs here: a run waits for ever, as it was triggered."""


def blocks() -> tuple[str, str]:
    """The page's commands of the backup and those of the restore."""
    section = PAGE.read_text().split("\n## Backup\n")[1].split("\n## ")[0]
    backup, restore = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return backup, restore


# As `docker compose` would do it, on the cluster's processes: a command in the database's container has its programs and its password.
DOCKER = """#!{python}
import os, subprocess, sys, urllib.request
words = sys.argv[1:]
assert words[0] == "compose", words
words = words[1:]
if words[0] == "exec":
    words = [word for word in words[1:] if word != "-T"]
    assert words[0] == "postgres", words
    os.environ |= {{"PGHOST": "127.0.0.1", "PGPORT": "{port}", "PGPASSFILE": "{passwords}"}}
    os.environ["PATH"] += ":{binaries}"
    sys.exit(subprocess.run(words[1:]).returncode)
asked = urllib.request.Request("{control}/" + "/".join(words), method="POST")
urllib.request.build_opener(urllib.request.ProxyHandler({{}})).open(asked, timeout=600).read()
"""


@dataclass
class Restored:
    """What the pages answered before the backup, when things had changed, and after the restore."""

    before: dict[str, Any]
    changed: dict[str, Any]
    after: dict[str, Any]
    asked: list[str]
    """Of `docker compose`, beside commands in the database's container"""


class Control:
    """Stops and starts the cluster's services, as the page's `docker compose stop` and `start` ask for it."""

    def __init__(self, cluster: Cluster) -> None:
        self.asked: list[str] = []
        control = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                verb, *names = self.path.strip("/").split("/")
                control.asked.append(" ".join([verb, *names]))
                if verb == "stop":
                    for name in reversed(["postgres", *SERVED]):
                        cluster.services[name].end()
                else:
                    for name in names or ["postgres", *SERVED]:
                        if not cluster.services[name].processes():
                            cluster.restart(name)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    folder = tmp_path_factory.mktemp("backup")
    try:
        cluster = Cluster(folder / "cluster")
    except ClusterError as error:
        pytest.skip(str(error))
    control = Control(cluster)
    try:
        cluster.start(without=NOT_NEEDED)
        run_id = fill_airflow(cluster)
        fill_mlflow(cluster)
        before = answers(cluster)
        page = prepare_page(cluster, folder / "page", control)
        backup, restore = blocks()
        # The folder that the page leaves for somewhere safe.
        run_commands(page, backup.replace("/somewhere/safe", str(folder / "safe")))
        change(cluster, run_id)
        changed = answers(cluster)
        run_commands(page, restore)
        yield Restored(before, changed, answers(cluster), control.asked)
    finally:
        control.close()
        cluster.stop()


def prepare_page(cluster: Cluster, folder: Path, control: Control) -> Path:
    """A checkout as the page's reader has it, with a `docker` of ours first on the PATH."""
    (folder / "docker").mkdir(parents=True)
    (folder / "docker" / "secrets").symlink_to(cluster.secret_file("postgres_password").parent)
    passwords = folder / "passwords"
    passwords.write_text(
        f"127.0.0.1:{cluster.port('postgres')}:*:maskline:{cluster.secret_file('postgres_password').read_text().strip()}\n"
    )
    passwords.chmod(0o600)
    docker = folder / "bin" / "docker"
    docker.parent.mkdir()
    binaries = cluster.binary("initdb").resolve().parent
    docker.write_text(
        DOCKER.format(python=sys.executable, port=cluster.port("postgres"), passwords=passwords, binaries=binaries, control=control.url)
    )
    docker.chmod(0o755)
    return folder


def run_commands(page: Path, commands: str) -> None:
    """One shell for a block, which stays where the page's `cd docker` led."""
    start = page if "cd docker" in commands else page / "docker"
    environment = os.environ | {"PATH": f"{page / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euc", commands], cwd=start, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr


def fill_airflow(cluster: Cluster) -> str:
    """A run that waits, and what people have set on the pages; returns the run's id."""
    run_id = cluster.airflow.trigger(DAG_ID, {"configs": ["mask_rcnn_inception_v2_coco"], "run_name": "kept"})
    connection = {"connection_id": "mail", "conn_type": "smtp", "host": "smtp.example.org", "login": "anna", "password": "planted"}
    for path, body in (("connections", connection), ("variables", {"key": "team", "value": "vision"})):
        cluster.airflow._request("POST", f"/api/v2/{path}", body)
    return run_id


def fill_mlflow(cluster: Cluster) -> None:
    """Two runs with figures, one of them a registered version with the alias `champion`."""
    experiment = post(cluster, "experiments/create", {"name": "scenes"})["experiment_id"]
    for number in range(2):
        run = post(cluster, "runs/create", {"experiment_id": experiment, "run_name": f"model {number}", "start_time": 1000 + number})["run"]
        run_id = run["info"]["run_id"]
        for step in range(5):
            figure = {"run_id": run_id, "key": "loss", "value": 1 / (step + 1 + number), "timestamp": 2000 + step, "step": step}
            post(cluster, "runs/log-metric", figure)
        post(cluster, "runs/log-parameter", {"run_id": run_id, "key": "steps", "value": "5"})
        post(cluster, "runs/set-tag", {"run_id": run_id, "key": "note", "value": "größer"})
        post(cluster, "runs/update", {"run_id": run_id, "status": "FINISHED", "end_time": 3000})
    post(cluster, "registered-models/create", {"name": "scenes"})
    post(cluster, "model-versions/create", {"name": "scenes", "source": f"runs:/{run_id}/model", "run_id": run_id})
    post(cluster, "registered-models/alias", {"name": "scenes", "alias": "champion", "version": "1"})


def change(cluster: Cluster, run_id: str) -> None:
    """What happens after the backup, by accident or not."""
    cluster.airflow._request("PATCH", f"/api/v2/dags/{DAG_ID}/dagRuns/{urllib.parse.quote(run_id)}", {"state": "failed"})
    cluster.airflow.trigger(DAG_ID, {"run_name": "later"})
    cluster.airflow._request("PATCH", "/api/v2/variables/team", {"key": "team", "value": "nobody"})
    experiment = get(cluster, "experiments/get-by-name?experiment_name=scenes")["experiment"]["experiment_id"]
    post(cluster, "runs/create", {"experiment_id": experiment, "run_name": "later"})
    post(cluster, "registered-models/alias", {"name": "scenes", "alias": "later", "version": "1"})


def answers(cluster: Cluster) -> dict[str, Any]:
    """What both REST APIs say, as the pages show it."""
    paths = (
        "/api/v2/dags/~/dagRuns?order_by=run_id",
        "/api/v2/dags/~/dagRuns/~/taskInstances?order_by=id&limit=1000",
        *("/api/v2/connections", "/api/v2/variables", "/api/v2/pools?order_by=name", "/auth/fab/v1/users"),
    )
    airflow = {path: cluster.airflow._request("GET", path) for path in paths}
    experiment = get(cluster, "experiments/get-by-name?experiment_name=scenes")
    wanted = {"experiment_ids": [experiment["experiment"]["experiment_id"]], "order_by": ["attributes.start_time"]}
    runs = post(cluster, "runs/search", wanted)
    numbers = [run["info"]["run_id"] for run in runs["runs"]]
    history = [get(cluster, f"metrics/get-history?run_id={number}&metric_key=loss") for number in numbers]
    model = get(cluster, "registered-models/get?name=scenes")
    return {**airflow, "experiment": experiment, "runs": runs, "history": history, "model": model}


def post(cluster: Cluster, path: str, body: dict[str, Any]) -> Any:
    return _mlflow(cluster, path, json.dumps(body).encode())


def get(cluster: Cluster, path: str) -> Any:
    return _mlflow(cluster, path, None)


def _mlflow(cluster: Cluster, path: str, body: bytes | None) -> Any:
    request = urllib.request.Request(f"{cluster.mlflow_url}/api/2.0/mlflow/{path}", data=body, headers={"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return json.load(answer)


def test_both_pages_show_after_the_restore_what_they_showed_before_the_backup(restored: Restored) -> None:
    assert len(restored.before["/api/v2/dags/~/dagRuns?order_by=run_id"]["dag_runs"]) == 1
    assert restored.before["/api/v2/dags/~/dagRuns/~/taskInstances?order_by=id&limit=1000"]["total_entries"] > 5
    assert [len(one["metrics"]) for one in restored.before["history"]] == [5, 5]
    for question, answer in restored.before.items():
        assert restored.after[question] == answer, question


def test_what_came_after_the_backup_was_seen_and_is_gone(restored: Restored) -> None:
    """Else nothing would have been wiped."""
    told = {question for question, answer in restored.before.items() if restored.changed[question] != answer}
    assert {"/api/v2/dags/~/dagRuns?order_by=run_id", "/api/v2/variables", "runs", "model"} <= told


def test_the_page_stops_what_writes_before_it_restores(restored: Restored) -> None:
    assert restored.asked == ["stop", "start postgres", "start"]
