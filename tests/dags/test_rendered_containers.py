"""What an engine and a cluster are asked for, word for word: golden files, and Kubernetes' own schema.

`WRITE_GOLDEN=1 dags/.venv/bin/python -m pytest tests/dags/test_rendered_containers.py` writes the files anew: read what has changed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.sdk.exceptions import AirflowFailException
from maskline_airflow import docker_container, kubernetes_pod, step_runner, storage
from maskline_airflow.container_settings import passed_environment
from maskline_airflow.step_runner import Step

from tests.dags.fake_containers import docker_engine

GOLDEN = Path(__file__).parent / "golden"
TEMPLATE = Path(__file__).resolve().parents[2] / "docker/kubernetes/pod-template.yaml"
KUBERNETES = "1.37"
SECRET = "planted-secret"


@pytest.fixture(autouse=True)
def _deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of a deployment with GPUs, a queue, a tracking server and keys; nothing of this machine."""
    for name in passed_environment():
        monkeypatch.delenv(name)
    settings = {
        "MASKLINE_IMAGE": "registry.example/maskline/trainer@sha256:" + "0123456789abcdef" * 4,
        "MASKLINE_DOCKER_USER": "10001:0",
        "MASKLINE_DOCKER_GPUS": "0,1",
        "MASKLINE_DOCKER_NETWORK": "maskline",
        "MASKLINE_DOCKER_MOUNTS": "/data datasets:/datasets",
        "MASKLINE_KUBERNETES_NAMESPACE": "training",
        "MASKLINE_KUBERNETES_QUEUE": "gpus",
        "MASKLINE_PASS": "TEAM",
        "TEAM": "vision",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SHARED_CREDENTIALS_FILE": "/run/secrets/objects",
        "AIRFLOW_CONN_MAIL": SECRET,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


def step(workspace: Path, gpus: int) -> Step:
    folder = workspace / "steps/r/backbone.train.0/1"
    folder.mkdir(parents=True)
    command = ["train", "/workspace/runs/r/m", "--steps", "7"] if gpus else ["preflight", "configs/datasets/shapes.yaml"]
    return Step(
        command=[*command, "--result", str(folder / "result.json")],
        folder=folder,
        environment={"MASKLINE_WORKSPACE": str(workspace), "MASKLINE_AIRFLOW_DAG_ID": "mask_rcnn_zoo"},
        task={
            **{"dag_id": "mask_rcnn_zoo", "run_id": "manual__2026-01-02T03:04:05+00:00", "task_id": f"backbone.{command[0]}"},
            **{"map_index": "0" if gpus else "-1", "try_number": "1"},
        },
        gpus=gpus,
    )


def assert_golden(name: str, rendered: Any, workspace: Path) -> None:
    text = yaml.safe_dump(rendered, sort_keys=True).replace(str(workspace), "/workspace")
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


@pytest.mark.parametrize("gpus", [0, 1], ids=["preflight", "train"])
def test_container(workspace: Path, monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.setenv("MASKLINE_RUNNER", "docker")
    with docker_engine(workspace) as (engine, address):
        monkeypatch.setenv("DOCKER_HOST", address)
        step_runner.start(step(workspace, gpus))
        request = engine.asked[0].request
    assert_golden(f"container_{'train' if gpus else 'preflight'}.yaml", request, workspace)
    # Through the engine's interface, and on no command line.
    assert [pair for pair in request["Env"] if SECRET in pair] == [f"AWS_SECRET_ACCESS_KEY={SECRET}"]
    assert SECRET not in str([request["Cmd"], request["Labels"], request["HostConfig"]])


@pytest.mark.parametrize("gpus", [0, 1], ids=["preflight", "train"])
def test_pod(workspace: Path, gpus: int) -> None:
    pod = rendered_pod(step(workspace, gpus))
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    assert SECRET not in str(pod)
    # Ends with letters of chance.
    pod["metadata"]["name"] = pod["metadata"]["name"].rpartition("-")[0]
    del pod["metadata"]["labels"]["airflow_version"]
    assert_golden(f"pod_{'train' if gpus else 'preflight'}.yaml", pod, workspace)


def test_a_pod_on_a_workspace_in_a_store_has_a_copy_of_its_own(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result comes back through the store, since it shares no folder with the worker."""
    copies = workspace / "copies"
    monkeypatch.setenv("MASKLINE_WORKSPACE", "s3://bucket/maskline")
    monkeypatch.setenv("MASKLINE_WORKING_COPIES", str(copies))
    local = storage.local_folder()
    of = replace(step(local, 1), environment=storage.environment())
    container = rendered_pod(of)["spec"]["containers"][0]
    assert container["args"][-2:] == ["--result", "s3://bucket/maskline/steps/r/backbone.train.0/1/result.json"]
    assert {"name": "MASKLINE_WORKSPACE", "value": "s3://bucket/maskline"} in container["env"]
    assert [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "workspace"] == [str(copies)]
    pod = kubernetes_pod.Pod(folder=str(of.folder), name="p", namespace="n")
    assert str(pod.result) == "s3://bucket/maskline/steps/r/backbone.train.0/1/result.json"


def test_a_container_on_a_workspace_in_a_store_shares_the_copies_of_its_machine(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_WORKSPACE", "s3://bucket/maskline")
    monkeypatch.setenv("MASKLINE_WORKING_COPIES", str(workspace / "copies"))
    of = replace(step(storage.local_folder(), 0), environment=storage.environment())
    rendered = docker_container.render(of, [])
    assert (rendered["mounts"][0]["Source"], rendered["mounts"][0]["Target"]) == (str(workspace / "copies"),) * 2
    assert rendered["command"][-1] == str(workspace / "copies/s3/bucket/maskline/steps/r/backbone.train.0/1/result.json")
    assert rendered["environment"]["MASKLINE_WORKING_COPIES"] == str(workspace / "copies")


def rendered_pod(of: Step) -> dict[str, Any]:
    pod: dict[str, Any] = PodGenerator.serialize_pod(kubernetes_pod.render(of))
    return pod


def test_template_is_a_pod_to_kubernetes_schema_and_a_typo_is_not() -> None:
    template = yaml.safe_load(TEMPLATE.read_text())
    template["spec"]["containers"][0]["image"] = "trainer"
    kubernetes_validate.validate(template, KUBERNETES, strict=True)
    limits = template["spec"]["containers"][0]["resources"].pop("limits")
    template["spec"]["containers"][0]["resources"]["limit"] = limits
    with pytest.raises(kubernetes_validate.ValidationError, match="limit"):
        kubernetes_validate.validate(template, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("limits:", "limit:", r"fields that no pod has: spec.containers\[0\].resources.limit\n"),
        ("readOnlyRootFilesystem", "readonlyRootFilesystem", r"spec.containers\[0\].securityContext.readonlyRootFilesystem"),
        ("- name: workspace\n          mountPath", "- name: work\n          mountPath", "no volumeMounts entry `workspace`"),
        ("containers:", "container:", "is no pod with a container"),
        ("spec:", "spec: [", "cannot be read as the template of pods"),
    ],
)
def test_mistake_in_a_template_of_ones_own_is_named(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, told: str
) -> None:
    mine = workspace / "mine.yaml"
    mine.write_text(TEMPLATE.read_text().replace(right, wrong, 1))
    monkeypatch.setenv("MASKLINE_KUBERNETES_TEMPLATE", str(mine))
    with pytest.raises(AirflowFailException, match=told) as caught:
        kubernetes_pod.render(step(workspace, 1))
    assert "mine.yaml" in str(caught.value)
    assert "\n  fix: " in str(caught.value)
