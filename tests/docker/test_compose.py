"""What `docker/` says must fit together: no engine is needed to see that."""

from __future__ import annotations

import base64
import configparser
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
_DEFAULTED = re.compile(r"\$\{(\w+):-([^}]*)\}")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = _DEFAULTED.sub(lambda match: match[2], (DOCKER / "compose.yaml").read_text())
    return dict(yaml.safe_load(text))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of secrets, and the module that made it."""
    spec = importlib.util.spec_from_file_location("make_secrets", DOCKER / "make_secrets.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    assert module.make_secrets(folder) == list(module.SECRETS)
    return folder, module


def test_each_secret_that_a_service_reads_is_declared_and_made(compose: dict[str, Any], made: tuple[Path, Any]) -> None:
    used = {secret for service in compose["services"].values() for secret in service.get("secrets", [])}
    assert used == set(compose["secrets"])
    assert {name: Path(secret["file"]).name for name, secret in compose["secrets"].items()} == {name: name for name in used}
    assert used <= {file.name for file in made[0].iterdir()}
    for service in compose["services"].values():
        read = set(re.findall(r"/run/secrets/(\w+)", json.dumps(service)))
        for script in re.findall(r"[\w-]+\.sh", " ".join(service.get("entrypoint", []))):
            read |= set(re.findall(r"/run/secrets/(\w+)", (DOCKER / script).read_text()))
        assert read <= set(service.get("secrets", []))


def test_secrets_quote_each_other_and_stay_when_made_again(made: tuple[Path, Any]) -> None:
    folder, module = made
    secrets = {file.name: file.read_text() for file in folder.iterdir()}
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("airflow_database", "airflow_results", "mlflow_database"):
        assert f":{secrets['postgres_password']}@postgres:5432/" in secrets[name]
    assert f":{secrets['redis_password']}@" in secrets["airflow_broker"]
    assert secrets["redis_configuration"].splitlines()[0] == f"requirepass {secrets['redis_password']}"
    assert len(base64.urlsafe_b64decode(secrets["airflow_fernet_key"])) == 32
    (identity,) = json.loads(secrets["objects_identities"])["identities"]
    credentials = configparser.ConfigParser()
    credentials.read_string(secrets["objects_credentials"])
    assert identity["credentials"] == [
        {"accessKey": credentials["default"]["aws_access_key_id"], "secretKey": credentials["default"]["aws_secret_access_key"]}
    ]

    assert module.make_secrets(folder) == []
    (folder / "airflow_jwt_secret").unlink()
    assert module.make_secrets(folder) == ["airflow_jwt_secret"]
    assert {file.name: file.read_text() for file in folder.iterdir() if file.name != "airflow_jwt_secret"} == {
        name: text for name, text in secrets.items() if name != "airflow_jwt_secret"
    }


def test_no_secret_is_in_an_environment_or_on_a_command_line(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|KEY|CONN|URL|RESULT_BACKEND|CREDENTIALS", variable):
                harmless = variable.endswith("_CMD") or str(value).startswith(("/run/secrets/", "http://"))
                assert harmless, f"{name}: {variable}={value}"


def test_every_service_listens_on_loopback_is_looked_after_and_cannot_gain_rights(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        # Without names of hosts, Docker's own network would be the host's.
        assert "network_mode" not in service, name
        if service["image"].startswith("maskline/"):
            rights = (service["read_only"], service["cap_drop"], service["security_opt"])
            assert rights == (True, ["ALL"], ["no-new-privileges:true"]), name
        if name != "airflow-init":
            assert "healthcheck" in service, name
            assert service["restart"] == "unless-stopped", name


def test_named_volumes_and_mounted_files_are_there(compose: dict[str, Any]) -> None:
    mounted = [volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", [])]
    files, named = [m for m in mounted if m.startswith(".")], {m for m in mounted if not m.startswith(".")}
    assert named == set(compose["volumes"])
    assert all((DOCKER / file).exists() for file in files)


def test_what_keeps_the_workspace_in_the_store_fits_the_services_it_is_laid_over(compose: dict[str, Any]) -> None:
    text = _DEFAULTED.sub(lambda match: match[2], (DOCKER / "compose.objects.yaml").read_text())
    laid = yaml.safe_load(text)
    assert set(laid["services"]) == {"worker-default", "worker-gpu"}
    copies = [volume.split(":")[0] for service in laid["services"].values() for volume in service["volumes"]]
    assert sorted(copies) == sorted(laid["volumes"]), "a volume of its own for each worker"
    for service in laid["services"].values():
        environment = service["environment"]
        # Where compose.yaml mounts what they share otherwise: the same place is replaced.
        assert all(volume.split(":")[1] == environment["MASKLINE_WORKING_COPIES"] for volume in service["volumes"])
        assert f"workspace:{environment['MASKLINE_WORKING_COPIES']}" in compose["services"]["worker-gpu"]["volumes"]
        assert environment["AWS_SHARED_CREDENTIALS_FILE"].removeprefix("/run/secrets/") in service["secrets"]
        assert set(service["secrets"]) <= set(compose["secrets"])
    bucket = laid["services"]["worker-gpu"]["environment"]["MASKLINE_WORKSPACE"].split("/")[2]
    assert f'"{bucket}"' in (DOCKER / "mlflow-server.sh").read_text(), "buckets are made there"


def test_the_workers_take_every_queue_that_a_task_is_sent_to(compose: dict[str, Any]) -> None:
    commands = [service.get("command", []) for service in compose["services"].values()]
    taken = {command[command.index("--queues") + 1] for command in commands if "--queues" in command}
    sources = (REPOSITORY / "dags").glob("maskline_airflow/*.py")
    asked = {queue for source in sources for queue in re.findall(r"queue[\"']?\s*[:=]\s*[\"'](\w+)", source.read_text())}
    default = compose["services"]["airflow-scheduler"]["environment"]["AIRFLOW__OPERATORS__DEFAULT_QUEUE"]
    assert taken == asked | {default}


def test_the_example_of_settings_names_each_with_its_default() -> None:
    text = "".join(file.read_text() for file in DOCKER.glob("compose*.yaml"))
    example = dict(line.split("=", 1) for line in (DOCKER / ".env.example").read_text().splitlines() if line and not line.startswith("#"))
    # COMMIT comes from `make compose-up`.
    assert {**dict(_DEFAULTED.findall(text)), "COMMIT": ""} == {**example, "COMMIT": ""}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.name)
def test_images_are_built_from_what_the_build_context_has_and_run_as_nobody_special(dockerfile: Path) -> None:
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    text = re.sub(r"\\\n\s*", " ", dockerfile.read_text())
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in shlex.split(line)[:-1]:
            assert {source.split("/")[0], source} & allowed, source
            assert (REPOSITORY / source).exists(), source
    last_users = [re.findall(r"^USER (.*)$", stage, re.MULTILINE) for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[2:]]
    assert all(users[-1] == "10001" for users in last_users)


def test_images_install_extras_that_exist_and_the_makefiles_uv() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extras |= tomllib.loads((REPOSITORY / "dags/pyproject.toml").read_text())["project"]["optional-dependencies"]
    version = re.search(r"^UV_VERSION := (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert version
    assert DOCKERFILES
    for dockerfile in DOCKERFILES:
        text = dockerfile.read_text()
        assert f"ARG UV_VERSION={version[1]}\n" in text
        assert set(re.findall(r"--extra (\w+)", text)) <= set(extras)


@pytest.mark.parametrize("there", [True, False])
def test_first_user_is_made_once_and_its_password_stands_on_no_command_line(tmp_path: Path, there: bool) -> None:
    # As Airflow 3.3 prints it, warnings in front.
    row = "   1  admin       admin@localhost  maskline      admin        ['Admin']\n" if there else ""
    (tmp_path / "users").write_text(
        "2026-11-26T13:11:13Z [warning  ] deprecated\n  id  username    email            first_name    last_name    roles\n"
        "   2  administrator  a@localhost  a  admin  ['Viewer']\n" + row
    )
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "airflow_admin_password").write_text("planted-secret\n")
    airflow = tmp_path / "airflow"
    airflow.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncase "$2" in list) cat {tmp_path}/users;; create) cat > {tmp_path}/typed;; esac\n'
    )
    airflow.chmod(0o755)
    script = (DOCKER / "airflow-init.sh").read_text().replace("/run/secrets", str(tmp_path / "secrets"))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MASKLINE_GPUS": "2"}
    subprocess.run(["sh", "-c", script], env=environment, check=True)
    calls = (tmp_path / "calls").read_text()
    assert calls.startswith("db migrate\n")
    assert calls.count("pools set gpu 2") == 1
    assert ("users create" in calls) is not there
    assert "planted-secret" not in calls
    if not there:
        assert (tmp_path / "typed").read_text() == "planted-secret\nplanted-secret\n"


def test_pages_open_to_a_network_only_where_a_setting_says_so(compose: dict[str, Any]) -> None:
    text = (DOCKER / "compose.yaml").read_text()
    for setting, service in (("AIRFLOW_ADDRESS", "airflow-apiserver"), ("MLFLOW_ADDRESS", "mlflow")):
        opened = yaml.safe_load(_DEFAULTED.sub(lambda match, setting=setting: "10.1.2.3" if match[1] == setting else match[2], text))
        addresses = {name: port.split(":")[0] for name, one in opened["services"].items() for port in one.get("ports", [])}
        assert addresses == {"airflow-apiserver": "127.0.0.1", "mlflow": "127.0.0.1", service: "10.1.2.3"}
    # Whom MLflow answers is told by the name that it is asked by.
    assert "10.1.2.3:5000" in opened["services"]["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert opened["x-airflow"]["environment"]["MASKLINE_MLFLOW_UI"] == "http://10.1.2.3:5000"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("postgres_password", "", "is empty"),
        ("airflow_fernet_key", " \n", "is empty"),
        ("airflow_admin_password", "admin", "has 5 characters, and 16 are the least"),
        ("objects_key", "changeme-changeme-changeme", "reads like an example"),
        ("redis_password", "the-password-of-redis", "reads like an example"),
        ("mlflow_database", "postgresql+psycopg2://maskline:password@db.example.org:5432/mlflow", "reads like an example"),
    ],
)
def test_nothing_starts_with_a_secret_that_keeps_nobody_out(made: tuple[Path, Any], tmp_path: Path, name: str, text: str, why: str) -> None:
    folder = tmp_path / "secrets"
    shutil.copytree(made[0], folder)
    assert made[1].refusals(folder) == []
    file = folder / name
    file.unlink()
    file.write_text(text)
    command = [sys.executable, DOCKER / "make_secrets.py", folder]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"error: {file} {why}")
    # What it says mends it; nothing was changed before.
    assert file.read_text() == text
    fix = re.search(r"fix: (rm .*)", answer.stderr)
    assert fix
    subprocess.run(shlex.split(fix[1]), check=True)
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    secrets = {one.name: one.read_text() for one in folder.iterdir()}
    assert len(secrets[name]) > 16
    for quoted, others in made[1].QUOTED_BY.items():
        assert all(secrets[quoted] in secrets[other] for other in others)


def test_a_database_of_ones_own_may_be_named(made: tuple[Path, Any], tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    shutil.copytree(made[0], folder)
    (folder / "mlflow_database").unlink()
    (folder / "mlflow_database").write_text("postgresql+psycopg2://ml:kW3v9z@db.example.org:5432/mlflow")
    assert made[1].refusals(folder) == []


@pytest.mark.parametrize("empty", ["airflow_database", "mlflow_database"])
def test_a_service_refuses_an_empty_secret_also_where_nobody_called_make(tmp_path: Path, empty: str) -> None:
    (tmp_path / "secrets").mkdir()
    for name in ("airflow_database", "mlflow_database"):
        (tmp_path / "secrets" / name).write_text("" if name == empty else "kept")
    for command in ("airflow", "python", "mlflow"):
        (tmp_path / command).write_text(f"#!/bin/sh\ntouch {tmp_path}/began\n")
        (tmp_path / command).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MASKLINE_GPUS": "1"}
    # The second one is given no other secret than its own.
    for script, refuses in (("airflow-init.sh", True), ("mlflow-server.sh", empty == "mlflow_database")):
        text = (DOCKER / script).read_text().replace("/run/secrets", str(tmp_path / "secrets"))
        answer = subprocess.run(["sh", "-c", text], env=environment, capture_output=True, text=True, check=False)
        assert (answer.returncode == 2) is refuses, answer.stderr
        assert (f"error: {tmp_path}/secrets/{empty} is empty or missing; fix: remove" in answer.stderr) is refuses
        assert (tmp_path / "began").exists() is not refuses


def test_other_machines_find_all_that_the_first_opens_and_nothing_opens_to_all() -> None:
    def read(name: str) -> dict[str, Any]:
        text = _DEFAULTED.sub(lambda match: match[2], (DOCKER / name).read_text())
        return dict(yaml.safe_load(text)["services"])

    opened, there, whole = (read(f"compose{name}.yaml") for name in (".shared", ".worker", ""))
    assert all(port.startswith("127.0.0.1:") for service in opened.values() for port in service["ports"])
    assert {*opened, *there} <= set(whole)
    for name, service in there.items():
        assert {host.split(":")[0] for host in service["extra_hosts"]} == set(opened)
        # Every server that a worker is told of, by its settings and by what its secrets quote.
        told = re.findall(r"//(?:[^/@ ]*@)?([a-z-]+):(\d+)", json.dumps(whole[name]["environment"]))
        told += [("postgres", "5432"), ("redis", "6379")]
        for host, port in told:
            assert f":{port}" in str(opened[host]["ports"][0]), host
