"""What `docker/` says must fit together: no engine is needed to see that."""

from __future__ import annotations

import base64
import configparser
import importlib.util
import json
import os
import re
import shlex
import subprocess
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
    (tmp_path / "password").write_text("planted-secret\n")
    airflow = tmp_path / "airflow"
    airflow.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncase "$2" in list) cat {tmp_path}/users;; create) cat > {tmp_path}/typed;; esac\n'
    )
    airflow.chmod(0o755)
    script = (DOCKER / "airflow-init.sh").read_text().replace("/run/secrets/airflow_admin_password", str(tmp_path / "password"))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MASKLINE_GPUS": "2"}
    subprocess.run(["sh", "-c", script], env=environment, check=True)
    calls = (tmp_path / "calls").read_text()
    assert calls.startswith("db migrate\n")
    assert calls.count("pools set gpu 2") == 1
    assert ("users create" in calls) is not there
    assert "planted-secret" not in calls
    if not there:
        assert (tmp_path / "typed").read_text() == "planted-secret\nplanted-secret\n"
