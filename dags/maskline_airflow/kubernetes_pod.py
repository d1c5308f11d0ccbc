"""A step as a pod of a cluster, made of a template, found again by its name, or by its labels where nobody kept the name.

    MASKLINE_KUBERNETES_TEMPLATE    default `<repository>/docker/kubernetes/pod-template.yaml`
    MASKLINE_IMAGE ...              see container_settings.py; default: the template's
    MASKLINE_KUBERNETES_NAMESPACE   default: the template's, else the worker's own, else `default`
    MASKLINE_KUBERNETES_CONNECTION  Airflow's connection to the cluster; default: the worker's own cluster, else its kubeconfig
    MASKLINE_KUBERNETES_GPU         the resource that is a GPU; default `nvidia.com/gpu`
    MASKLINE_KUBERNETES_QUEUE       Kueue's local queue

The pod is built by KubernetesPodOperator; secrets reach it by the template (`envFrom`), never from here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import yaml
from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator, make_safe_label_value
from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager, detect_pod_terminate_early_issues
from airflow.sdk.exceptions import AirflowFailException
from kubernetes.client import CoreV1Api, V1Pod
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from maskline_airflow import step_runner, storage
from maskline_airflow.concealment import is_secret
from maskline_airflow.container_settings import passed_environment, trainer_image
from maskline_airflow.form import REPOSITORY
from maskline_airflow.step_log import StampedLog
from maskline_airflow.step_runner import (
    FAILED,
    LOST,
    OUT_OF_MEMORY,
    PREEMPTED,
    RUNNING,
    SUCCEEDED,
    Outcome,
    StartedStep,
    Step,
    UnreachableError,
    ended,
)

log = logging.getLogger(__name__)

CONTAINER = "step"
WORKSPACE_VOLUME = "workspace"
_FOLDER = "maskline/folder"
_QUEUE = "kueue.x-k8s.io/queue-name"
_SAME_TASK = ("dag_id", "run_id", "task_id", "map_index")
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_NOT_FOUND, _NOT_STARTED, _TOO_MANY, _SERVER_ERROR = 404, 400, 429, 500
_PUSHED_OUT = ("Evicted", "Preempting", "NodeShutdown", "NodeLost", "Terminated", "Shutdown")
_CLOCKS_DIFFER = 60
"""Seconds of the log that are asked for once more: the clocks of worker and node need not agree."""


@dataclass(frozen=True)
class Pod(StartedStep):
    """Identity of a step's pod."""

    name: str
    namespace: str

    poll_seconds: ClassVar[float] = 5.0

    @property
    def result(self) -> Any:
        return storage.stored(super().result)

    def outcome(self) -> Outcome:
        try:
            with _asking():
                return outcome_of(self._client.read_namespaced_pod(self.name, self.namespace))
        except ApiException as error:
            if error.status == _NOT_FOUND:
                return Outcome(LOST)
            raise

    def new_lines(self, *, whole: bool = False) -> list[str]:  # noqa: ARG002
        since = {"since_seconds": int(time.time() - self._log.last) + _CLOCKS_DIFFER} if self._log.last else {}
        try:
            with _asking():
                answer = self._client.read_namespaced_pod_log(
                    self.name, self.namespace, container=CONTAINER, timestamps=True, _preload_content=False, **since
                )
        except ApiException as error:
            if error.status in (_NOT_FOUND, _NOT_STARTED):
                return []
            raise
        return self._log.new_lines(answer.data)

    def stop(self) -> None:
        self._delete(int(step_runner.GRACE_SECONDS))

    def clear(self) -> None:
        self.new_lines()
        self._delete(0)

    def _delete(self, grace_seconds: int) -> None:
        try:
            self._client.delete_namespaced_pod(self.name, self.namespace, grace_period_seconds=grace_seconds)
        except ApiException as error:
            if error.status != _NOT_FOUND:
                raise

    @cached_property
    def _client(self) -> CoreV1Api:
        return _hook().core_v1_client

    @cached_property
    def _log(self) -> StampedLog:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        return StampedLog(self.log)


def outcome_of(pod: V1Pod) -> Outcome:
    """How the step of a pod stands. Another container of the pod, such as a mesh's, may go on after it."""
    states = [status.state for status in pod.status.container_statuses or () if status.name == CONTAINER]
    terminated = next((state.terminated for state in states if state and state.terminated), None)
    if terminated is not None:
        reason = "" if terminated.reason in (None, "Completed", "Error") else terminated.reason
        cause = OUT_OF_MEMORY if reason == "OOMKilled" else PREEMPTED if _is_disrupted(pod) else ""
        return ended(terminated.exit_code, ": ".join(filter(None, [reason, terminated.message])), cause)
    if pod.status.phase == "Failed":
        # Evicted or pushed out by a more important pod, it may have no container that could tell an exit code.
        reason = ": ".join(filter(None, [pod.status.reason, pod.status.message]))
        of_memory = pod.status.reason == "Evicted" and "memory" in (pod.status.message or "")
        cause = OUT_OF_MEMORY if of_memory else PREEMPTED if pod.status.reason in _PUSHED_OUT or _is_disrupted(pod) else ""
        return Outcome(FAILED, None, reason, cause)
    if hopeless := detect_pod_terminate_early_issues(pod):
        return Outcome(FAILED, None, hopeless)
    return Outcome(RUNNING, reason=_waits_for(pod))


def _is_disrupted(pod: V1Pod) -> bool:
    """Whether the cluster says that it ended the pod itself: for a more important one, or because its node goes."""
    return any(one.type == "DisruptionTarget" and one.status == "True" for one in pod.status.conditions or ())


def _waits_for(pod: V1Pod) -> str:
    """Why a pod has not begun: no node has room, its queue holds it back, its image is being fetched."""
    if pod.status.phase != "Pending":
        return ""
    waiting = [status.state.waiting for status in pod.status.container_statuses or () if status.state and status.state.waiting]
    refused = [condition for condition in pod.status.conditions or () if condition.status == "False" and condition.message]
    gates = ", ".join(gate.name for gate in pod.spec.scheduling_gates or ()) if pod.spec else ""
    told = [": ".join(filter(None, [one.reason, one.message])) for one in (*waiting, *refused)]
    return "; ".join([*([f"held back by {gates}"] if gates else []), *told])


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """The pods of a cluster whose API does not answer for a while go on."""
    try:
        yield
    except HTTPError as error:
        raise UnreachableError(f"the cluster does not answer: {error}") from error
    except ApiException as error:
        if error.status == _TOO_MANY or error.status >= _SERVER_ERROR:
            raise UnreachableError(f"the cluster does not answer: {error.status} {error.reason}") from error
        raise


def attach(identity: Mapping[str, Any]) -> Pod:
    return Pod(**identity)


def start(step: Step) -> Pod:
    """The step's new pod; or that of an earlier try of its task whose name was lost with the worker."""
    pod, client = render(step), _hook().core_v1_client
    left = _left_by_earlier_tries(client, pod)
    if left is not None:
        step.folder.rmdir()
        log.info("An earlier try of this task has left the pod %s", left.name)
        return left
    created = PodManager(kube_client=client).create_pod(pod)
    log.info("The step runs in the pod %s of the namespace %s", created.metadata.name, created.metadata.namespace)
    return Pod(name=created.metadata.name, namespace=created.metadata.namespace, folder=str(step.folder))


def render(step: Step) -> V1Pod:
    """The pod of a step: the template, with the image, the command, what the step is told, its GPUs and its queue."""
    template = _template()
    container = template["spec"]["containers"][0]
    if step.gpus:
        gpu = os.environ.get("MASKLINE_KUBERNETES_GPU") or "nvidia.com/gpu"
        container.setdefault("resources", {}).setdefault("limits", {})[gpu] = str(step.gpus)
    mounts = [mount for mount in container.get("volumeMounts", ()) if mount["name"] == WORKSPACE_VOLUME]
    if not mounts:
        raise AirflowFailException(
            f"{_template_file()}: its first container has no volumeMounts entry `{WORKSPACE_VOLUME}`\n"
            "  fix: mount there the volume that the workers see as MASKLINE_WORKSPACE, or an emptyDir where that is a URL"
        )
    # Paths in results are the same for all.
    mounts[0]["mountPath"] = str(storage.shared_folder())
    queue = os.environ.get("MASKLINE_KUBERNETES_QUEUE")
    return KubernetesPodOperator(
        task_id=step.task["task_id"],
        name=f"maskline-{step.command[0]}",
        namespace=_namespace(template),
        pod_template_dict=template,
        base_container_name=CONTAINER,
        image=trainer_image(container.get("image")),
        # Where the workspace is a URL, the pod has its own copy, and the result comes back through the store.
        arguments=[storage.address(word) for word in step.command],
        env_vars={**_passed(), **step.environment, "HOME": "/tmp"},
        labels={**_labels(step), **({_QUEUE: queue} if queue else {})},
        annotations={_FOLDER: str(step.folder)},
        termination_grace_period=int(step_runner.GRACE_SECONDS),
        do_xcom_push=False,
    ).build_pod_request_obj(dry_run=True)


def _labels(step: Step) -> dict[str, str]:
    """Those that Airflow gives a pod, by which its own commands find it too."""
    return {**{name: make_safe_label_value(value) for name, value in step.task.items()}, "kubernetes_pod_operator": "True"}


def _left_by_earlier_tries(client: CoreV1Api, pod: V1Pod) -> Pod | None:
    """A pod that still runs, or has ended well and whose result nobody took; others of the task are removed."""
    selector = ",".join(f"{name}={pod.metadata.labels[name]}" for name in _SAME_TASK)
    found = None
    for one in client.list_namespaced_pod(pod.metadata.namespace, label_selector=selector).items:
        left = Pod(name=one.metadata.name, namespace=one.metadata.namespace, folder=one.metadata.annotations[_FOLDER])
        if found is None and outcome_of(one).status in (RUNNING, SUCCEEDED):
            found = left
        else:
            left.clear()
    return found


def _passed() -> dict[str, str]:
    passed = passed_environment()
    secrets = sorted(name for name, value in passed.items() if is_secret(name, value))
    if secrets:
        log.info("Not written into the pod: %s; it has what the template's envFrom gives it", ", ".join(secrets))
    return {name: value for name, value in passed.items() if name not in secrets}


def _template_file() -> Path:
    return Path(os.environ.get("MASKLINE_KUBERNETES_TEMPLATE") or REPOSITORY / "docker/kubernetes/pod-template.yaml")


def _template() -> dict[str, Any]:
    file = _template_file()
    try:
        template = yaml.safe_load(file.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise AirflowFailException(
            f"{file} cannot be read as the template of pods: {error}\n  fix: mend it, or name another with MASKLINE_KUBERNETES_TEMPLATE"
        ) from None
    if not isinstance(template, dict) or not (template.get("spec") or {}).get("containers"):
        raise AirflowFailException(f"{file} is no pod with a container\n  fix: begin with docker/kubernetes/pod-template.yaml")
    lost = sorted(_lost(template, PodGenerator.serialize_pod(PodGenerator.deserialize_model_dict(template))))
    if lost:
        raise AirflowFailException(f"{file} has fields that no pod has: {', '.join(lost)}\n  fix: correct or remove them")
    return template


def _lost(told: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Paths of the fields that Kubernetes' client leaves out without a word, as it does with misspelt ones."""
    if isinstance(told, dict) and isinstance(kept, dict):
        for name, value in told.items():
            if name in kept:
                yield from _lost(value, kept[name], f"{path}.{name}".lstrip("."))
            elif value is not None:
                yield f"{path}.{name}".lstrip(".")
    elif isinstance(told, list) and isinstance(kept, list):
        for index, (one, other) in enumerate(zip(told, kept, strict=True)):
            yield from _lost(one, other, f"{path}[{index}]")


def _namespace(template: Mapping[str, Any]) -> str:
    own = _OWN_NAMESPACE.read_text().strip() if _OWN_NAMESPACE.exists() else "default"
    return os.environ.get("MASKLINE_KUBERNETES_NAMESPACE") or (template.get("metadata") or {}).get("namespace") or own


def _hook() -> KubernetesHook:
    return KubernetesHook(conn_id=os.environ.get("MASKLINE_KUBERNETES_CONNECTION") or None, kubernetes_conn_id=None)
