"""Nothing listens to a network unless its deployment says so: every command that starts a server, wherever this project writes one."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
IN_A_CONTAINER = {"docker/mlflow-server.sh", "docker/compose.yaml", "docker/kubernetes/mlflow.yaml"}
"""What listens in a network of containers or a cluster; which of its ports the host publishes, tests/docker looks at."""


def test_the_laptops_servers_are_on_loopback() -> None:
    programs = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
    programs.read(REPOSITORY / "dags/local/supervisord.conf")
    # supervisord would have a page of its own.
    assert not any(re.match("inet_http_server|unix_http_server", name) for name in programs.sections())
    commands = {name.removeprefix("program:"): programs[name]["command"] for name in programs.sections() if name != "supervisord"}
    assert set(commands) == {"mlflow", "api-server", "dag-processor", "triggerer", "scheduler"}
    for name in ("mlflow", "api-server"):
        assert re.findall(r"--host (\S+)", commands[name]) == ["127.0.0.1"]
    # By default these two serve their tasks' logs to all.
    for name in ("triggerer", "scheduler"):
        assert "--skip-serve-logs" in commands[name]


def test_every_server_that_is_started_or_told_of_is_on_loopback() -> None:
    listing = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    found = 0
    for name in listing.splitlines():
        if name.startswith("tests/") or not name.endswith((".py", ".md", ".sh", ".conf", ".yaml", "Makefile", "Dockerfile")):
            continue
        text = re.sub(r"\\\n\s*", " ", (REPOSITORY / name).read_text())
        hosts = set(re.findall(r"--(?:host|bind_all|bind-address)[ =\"',]+([\w.:]+)", text))
        if name in IN_A_CONTAINER:
            continue
        assert hosts <= {"127.0.0.1"}, name
        assert "--bind_all" not in text, name
        # By default Airflow's listens to all.
        for command in re.findall(r"airflow api-server[^\n`]*", text):
            assert "--host 127.0.0.1" in command, name
            found += 1
        for server in re.findall(r"HTTPServer\(\(([^,]*),", text):
            assert server == '"127.0.0.1"', name
    assert found
