"""`docker/kubernetes/`: its manifests against Kubernetes' schema, and against the compose file, the images and the pod template."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import stack
import yaml
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from maskline_airflow import kubernetes_pod, step_runner
from maskline_airflow.concealment import is_secret
from maskline_airflow.step_runner import GRACE_SECONDS, Step

from tests.dags.test_rendered_containers import KUBERNETES

DOCKER = Path(__file__).resolve().parents[2] / "docker"
FOLDER = DOCKER / "kubernetes"
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "airflow-values.yaml").read_text())
ENVIRONMENT = {one["name"]: one["value"] for one in VALUES["env"]}
COMPOSE = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DOCKER / "compose.yaml").read_text()))
AIRFLOW: dict[str, str] = COMPOSE["x-airflow"]["environment"]
TEMPLATE = yaml.safe_load((FOLDER / "pod-template.yaml").read_text())
IMAGE = "registry.example/maskline/trainer@sha256:" + "a" * 64


def documents(name: str) -> dict[str, dict[str, Any]]:
    """The manifests of a file, by kind and name."""
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in yaml.safe_load_all((FOLDER / name).read_text())}


MLFLOW = documents("mlflow.yaml")
SERVER: dict[str, Any] = MLFLOW["Deployment/mlflow"]["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("name", ["mlflow.yaml", "workspace.yaml", "pod-template.yaml"])
def test_manifests_are_valid_to_the_last_field(name: str) -> None:
    for manifest in yaml.safe_load_all((FOLDER / name).read_text()):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_a_misspelt_field_of_a_manifest_would_be_seen() -> None:
    wrong = json.loads(json.dumps(MLFLOW["Deployment/mlflow"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_values_name_the_images_the_users_and_the_claims_of_the_other_files() -> None:
    assert VALUES["images"]["airflow"]["repository"] == COMPOSE["x-airflow"]["image"]
    assert SERVER["image"] == COMPOSE["services"]["mlflow"]["image"]
    user, group = re.findall(r"useradd --uid (\d+) --gid (\d+)", (DOCKER / "airflow.Dockerfile").read_text())[0]
    assert (VALUES["uid"], VALUES["gid"]) == (int(user), int(group))
    contexts = [VALUES["securityContexts"]["pod"], TEMPLATE["spec"]["securityContext"]]
    contexts.append(MLFLOW["Deployment/mlflow"]["spec"]["template"]["spec"]["securityContext"])
    assert all((one["runAsNonRoot"], one["runAsUser"], one["runAsGroup"]) == (True, int(user), int(group)) for one in contexts)
    # Airflow's pods and the steps' see one workspace, at one path.
    (claimed,) = [one["persistentVolumeClaim"]["claimName"] for one in VALUES["volumes"] if one["name"] == "workspace"]
    (of_steps,) = [one["persistentVolumeClaim"]["claimName"] for one in TEMPLATE["spec"]["volumes"] if one["name"] == "workspace"]
    assert claimed == of_steps
    mounts = {one["name"]: one["mountPath"] for one in VALUES["volumeMounts"]}
    assert mounts["workspace"] == ENVIRONMENT["MASKLINE_WORKSPACE"] == "/workspace"
    claims = {name.removeprefix("PersistentVolumeClaim/") for name in documents("workspace.yaml")}
    assert claims == {claimed, VALUES["logs"]["persistence"]["existingClaim"]}
    assert VALUES["airflowVersion"] == re.search(r"apache-airflow~=([\d.]+)", (DOCKER.parent / "dags/pyproject.toml").read_text())[1]  # type: ignore[index]


def test_values_set_what_compose_sets_and_in_the_same_way() -> None:
    """Airflow's settings are in `config` there and in variables here; those of maskline are variables in both."""
    config = VALUES["config"]
    for name, value in AIRFLOW.items():
        parts = re.fullmatch(r"AIRFLOW__(\w+?)__(\w+)", name)
        if parts and not name.endswith("_CMD"):
            section, key = parts[1].lower(), parts[2].lower()
            # Celery's, what the chart says itself, and what has a place of its own in its values.
            if section in ("celery", "celery_broker_transport_options", "operators", "api", "dag_processor") or key in (
                *("executor", "execution_api_server_url"),
            ):
                continue
            assert config[section][key] == value, name
    assert VALUES["dagProcessor"]["dagBundleConfigList"] == json.loads(AIRFLOW["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])
    assert VALUES["dagProcessor"]["dagBundleConfigList"] == stack.BUNDLES
    image = (DOCKER / "airflow.Dockerfile").read_text()
    assert f"AIRFLOW__CORE__DAGS_FOLDER={config['core']['dags_folder']} " in image
    # GPUs are the cluster's; the pool says how many trainings there may be.
    ours = {name for name in AIRFLOW if name.startswith(("MASKLINE", "MLFLOW"))} - {"MASKLINE_GPUS"}
    assert ours <= set(ENVIRONMENT)
    same = ("MLFLOW_TRACKING_URI", "MASKLINE_MLFLOW_UI", "MASKLINE_NOTIFY", "MASKLINE_NOTIFY_OF", "MASKLINE_NOTIFY_LATE")
    assert {name: ENVIRONMENT[name] for name in same} == {name: AIRFLOW[name] or "" for name in same}
    assert ENVIRONMENT["MASKLINE_RUNNER"] in step_runner._MODULES


def test_no_secret_and_no_known_password_is_in_a_file() -> None:
    assert not [name for name, value in ENVIRONMENT.items() if is_secret(name, value)]
    for server in ("postgresql", "redis", "createUserJob"):
        assert VALUES[server] == {"enabled": False}
    named = {VALUES[key] for key in ("fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName")}
    assert named == {VALUES["data"]["metadataSecretName"]}
    for one in SERVER["env"]:
        secret = is_secret(one["name"]) or one["name"] in ("MLFLOW_BACKEND_STORE_URI", "AWS_ACCESS_KEY_ID")
        assert ("valueFrom" in one) is secret, one


def test_the_secrets_that_the_page_makes_are_those_that_are_named() -> None:
    page = (DOCKER.parent / "docs/containers.md").read_text()
    commands = re.sub(r"\\\n\s*", " ", page)
    made = {
        name: set(re.findall(r"--from-file=([\w-]+)=", rest)) for name, rest in re.findall(r"create secret generic (\S+) (.*)", commands)
    }
    # The chart reads these entries of each.
    assert made[VALUES["data"]["metadataSecretName"]] == {"connection", "fernet-key", "api-secret-key", "jwt-secret"}
    of_mlflow = {one["valueFrom"]["secretKeyRef"]["key"] for one in SERVER["env"] if "valueFrom" in one}
    assert {one["valueFrom"]["secretKeyRef"]["name"] for one in SERVER["env"] if "valueFrom" in one} == {"maskline-mlflow"}
    assert made["maskline-mlflow"] == of_mlflow
    assert TEMPLATE["spec"]["containers"][0]["envFrom"][0]["secretRef"]["name"] in made


def test_mlflows_server_is_composes() -> None:
    script = (DOCKER / "mlflow-server.sh").read_text()
    (command,) = re.findall(r"^exec (mlflow server .*)$", script, re.MULTILINE)
    environment = {one["name"]: one.get("value") for one in SERVER["env"]}
    told = " ".join(SERVER["command"]).replace("$(ARTIFACTS)", str(environment["ARTIFACTS"]))
    assert told == command
    of_compose = COMPOSE["services"]["mlflow"]["environment"]
    for name in ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "AWS_DEFAULT_REGION"):
        assert environment[name] == of_compose[name]
    hosts = str(environment["MLFLOW_SERVER_ALLOWED_HOSTS"]).split(",")
    assert set(hosts) == set(of_compose["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","))
    # It answers the probes, the tasks and whoever follows a link.
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert SERVER[probe]["httpGet"]["httpHeaders"][0]["value"] in hosts
    tracking, ui = (urlsplit(ENVIRONMENT[name]).netloc for name in ("MLFLOW_TRACKING_URI", "MASKLINE_MLFLOW_UI"))
    assert {tracking, ui} <= set(hosts)
    service = MLFLOW["Service/mlflow"]
    assert (f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}", service["spec"]["type"]) == (tracking, "ClusterIP")
    labels = MLFLOW["Deployment/mlflow"]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == MLFLOW["NetworkPolicy/mlflow"]["spec"]["podSelector"]["matchLabels"] == labels
    rights = SERVER["securityContext"]
    assert (rights["readOnlyRootFilesystem"], rights["allowPrivilegeEscalation"], rights["capabilities"]) == (
        True,
        False,
        {"drop": ["ALL"]},
    )


def test_steps_may_reach_mlflow_and_others_may_not() -> None:
    (rule,) = MLFLOW["NetworkPolicy/mlflow"]["spec"]["ingress"]
    admitted = [one["podSelector"]["matchLabels"] for one in rule["from"]]
    of_steps = TEMPLATE["metadata"]["labels"]
    assert any(one.items() <= of_steps.items() for one in admitted)
    assert not any(one.items() <= {"app": "another"}.items() for one in admitted)
    assert VALUES["apiServer"]["service"]["type"] == "ClusterIP"


def test_a_step_is_a_valid_pod_by_the_values_of_the_chart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    queue = documents("kueue.yaml")["LocalQueue/maskline"]
    monkeypatch.setenv("MASKLINE_IMAGE", IMAGE)
    monkeypatch.setenv("MASKLINE_KUBERNETES_QUEUE", queue["metadata"]["name"])
    task = {"dag_id": "d", "run_id": "r", "task_id": "backbone.train", "map_index": "0", "try_number": "1"}
    step = Step(["train", "/workspace/runs/r/m"], tmp_path, {"MASKLINE_WORKSPACE": ENVIRONMENT["MASKLINE_WORKSPACE"]}, task, 1)
    pod = PodGenerator.serialize_pod(kubernetes_pod.render(step))
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    environment = {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}
    assert environment["MLFLOW_TRACKING_URI"] == ENVIRONMENT["MLFLOW_TRACKING_URI"]
    assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue["metadata"]["name"]
    covered = documents("kueue.yaml")[f"ClusterQueue/{queue['spec']['clusterQueue']}"]["spec"]["resourceGroups"][0]["coveredResources"]
    asked = pod["spec"]["containers"][0]["resources"]
    assert {*asked["requests"], *asked["limits"]} <= set(covered)
    # Who deletes the task's pod, waits for its step to write a checkpoint.
    assert VALUES["workers"]["kubernetes"]["terminationGracePeriodSeconds"] > GRACE_SECONDS


@pytest.mark.parametrize(
    ("words", "run"),
    [
        ("api-server --workers 2", "airflow api-server --workers 2"),
        # What the chart starts: its components, its probes and jobs, its executor's tasks.
        ("bash -c 'exec airflow scheduler'", "airflow scheduler"),
        ("airflow db check-migrations", "airflow db check-migrations"),
        ("python -m airflow.sdk.execution_time.execute_workload", "python -m airflow.sdk.execution_time.execute_workload"),
    ],
)
def test_the_image_takes_commands_as_compose_and_as_the_chart_give_them(tmp_path: Path, words: str, run: str) -> None:
    for name in ("airflow", "python"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    entry = DOCKER / "airflow-entrypoint.sh"
    done = subprocess.run(f"{entry} {words}", shell=True, env=environment, capture_output=True, text=True, check=True)  # noqa: S602
    assert done.stdout.strip() == run
    assert (DOCKER / "airflow.Dockerfile").read_text().count('ENTRYPOINT ["/entrypoint"]') == 2
