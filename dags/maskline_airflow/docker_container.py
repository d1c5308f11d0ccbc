"""A step as a container of this machine's engine, found again by its id, or by its labels where nobody kept the id.

    DOCKER_HOST ...            the engine, as for the command `docker`; default: the socket of this machine
    MASKLINE_IMAGE ...         see container_settings.py
    MASKLINE_DOCKER_USER       UID:GID of steps; default: the worker's own. Never root
    MASKLINE_DOCKER_WORKSPACE  what is mounted as the workspace, or as the folder of its copies, where it is another one for the engine:
                               a path or a volume's name
    MASKLINE_DOCKER_MOUNTS     more folders, read-only, with spaces between: SOURCE:TARGET, or one path that is both
    MASKLINE_DOCKER_NETWORK    the network of steps; default: the engine's
    MASKLINE_DOCKER_GPUS       ids of the GPUs that steps may have, `0,1`, each one step's at a time; or `all` for each; default: none

The client is docker's own Python package. docs/decisions/0013-runners.md says why not Airflow's provider.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from airflow.sdk.exceptions import AirflowException, AirflowFailException
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest, Mount
from requests.exceptions import RequestException

import docker
from maskline_airflow import step_runner, storage
from maskline_airflow.container_settings import passed_environment, trainer_image
from maskline_airflow.step_log import StampedLog
from maskline_airflow.step_runner import LOST, OUT_OF_MEMORY, RUNNING, SUCCEEDED, Outcome, StartedStep, Step, UnreachableError, ended

log = logging.getLogger(__name__)

_SAME_TASK = ("dag_id", "run_id", "task_id", "map_index")
_FOLDER, _GPUS = "maskline.folder", "maskline.gpus"
_ENDED = ("exited", "dead")
_SHARED_MEMORY = "1g"
"""GPUs of one training exchange gradients through it; an engine's 64 MB are too few."""
_SECONDS_TO_ASK = 3.0


@dataclass(frozen=True)
class Container(StartedStep):
    """Identity of a step's container."""

    id: str

    poll_seconds: ClassVar[float] = 2.0

    def outcome(self) -> Outcome:
        try:
            with _asking():
                state = self._client.api.inspect_container(self.id)["State"]
        except NotFound:
            return Outcome(LOST)
        if state["Status"] not in _ENDED:
            return Outcome(RUNNING)
        if state.get("OOMKilled"):
            return ended(state["ExitCode"], OUT_OF_MEMORY, OUT_OF_MEMORY)
        return ended(state["ExitCode"], state.get("Error", ""))

    def new_lines(self, *, whole: bool = False) -> list[str]:  # noqa: ARG002
        try:
            with _asking():
                told = self._client.api.logs(self.id, timestamps=True, since=self._log.last)
        except NotFound:
            return []
        return self._log.new_lines(told)

    def stop(self) -> None:
        """The engine goes on with it when this process ends, which Airflow sees to after five seconds."""
        asking = threading.Thread(target=self._stop, daemon=True)
        asking.start()
        asking.join(_SECONDS_TO_ASK)

    def clear(self) -> None:
        self.new_lines()
        with contextlib.suppress(NotFound):
            self._client.api.remove_container(self.id, force=True)

    def _stop(self) -> None:
        # A client of its own: the other one may be in the middle of a request.
        with contextlib.suppress(NotFound):
            _client().api.stop(self.id, timeout=int(step_runner.GRACE_SECONDS))

    @cached_property
    def _client(self) -> docker.DockerClient:
        try:
            return docker.from_env()
        except DockerException as error:
            raise UnreachableError(str(error)) from error

    @cached_property
    def _log(self) -> StampedLog:
        return StampedLog(self.log)


def attach(identity: Mapping[str, Any]) -> Container:
    return Container(**identity)


def start(step: Step) -> Container:
    """The step's new container; or that of an earlier try of its task whose id was lost with the worker."""
    client = _client()
    left = _left_by_earlier_tries(client, step)
    if left is not None:
        step.folder.rmdir()
        log.info("An earlier try of this task has left the container %s", left.id)
        return left
    with _gpus(client, step) as gpus:
        request = render(step, gpus)
        _get_image(client, request["image"])
        if os.getuid() == 0:
            os.chown(step.folder, *(int(number) for number in request["user"].split(":")))
        created = client.containers.create(**request)
    started = Container(id=str(created.id), folder=str(step.folder))
    try:
        created.start()
    except APIError as error:
        started.clear()
        raise AirflowException(f"the engine does not start {request['image']}: {error.explanation}") from error
    log.info("The step runs in the container %s of %s", created.short_id, request["image"])
    return started


def render(step: Step, gpus: Sequence[str]) -> dict[str, Any]:
    """The container of a step that may use these GPUs, as arguments of the client's `containers.create`."""
    shared = str(storage.shared_folder())
    return {
        "image": trainer_image(),
        "command": [*step.command],
        "environment": {**passed_environment(), **step.environment, "HOME": "/tmp"},
        "labels": {**{f"maskline.{name}": value for name, value in step.task.items()}, _FOLDER: str(step.folder), _GPUS: ",".join(gpus)},
        "user": _user(),
        "mounts": [_mount(os.environ.get("MASKLINE_DOCKER_WORKSPACE") or shared, shared), *_more_mounts()],
        "read_only": True,
        "tmpfs": {"/tmp": "mode=1777"},
        "security_opt": ["no-new-privileges:true"],
        "cap_drop": ["ALL"],
        "shm_size": _SHARED_MEMORY,
        # A step as the first process of its container would not hear SIGTERM.
        "init": True,
        "network_mode": os.environ.get("MASKLINE_DOCKER_NETWORK") or None,
        "device_requests": [_device_request(gpus)] if gpus else None,
    }


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """An engine that is being restarted comes back, and its containers may have gone on."""
    try:
        yield
    except APIError as error:
        if error.is_server_error():
            raise UnreachableError(f"the engine does not answer: {error.explanation or error}") from error
        raise
    except (RequestException, UnreachableError) as error:
        raise UnreachableError(f"the engine does not answer: {error}") from error


def _client() -> docker.DockerClient:
    try:
        return docker.from_env()
    except DockerException as error:
        raise AirflowException(
            f"there is no engine to run the step: {error}\n  fix: start it, give the worker its socket, or say where it is with DOCKER_HOST"
        ) from error


def _left_by_earlier_tries(client: docker.DockerClient, step: Step) -> Container | None:
    """A container that still runs, or has ended well and whose result nobody took; others of the task are removed."""
    labels = [f"maskline.{name}={step.task[name]}" for name in _SAME_TASK]
    found = None
    for one in client.api.containers(all=True, filters={"label": labels}):
        left = Container(id=one["Id"], folder=one["Labels"][_FOLDER])
        if found is None and one["State"] != "created" and left.outcome().status in (RUNNING, SUCCEEDED):
            found = left
        else:
            left.clear()
    return found


def _user() -> str:
    user = os.environ.get("MASKLINE_DOCKER_USER") or f"{os.getuid()}:{os.getgid()}"
    uid, _, gid = user.partition(":")
    if not (uid.isdigit() and gid.isdigit()) or int(uid) == 0:
        raise AirflowFailException(
            f"steps would run as {user}, and may only run as a user other than root, given as UID:GID\n"
            "  fix: set MASKLINE_DOCKER_USER, such as 10001:0, to one that may write to the workspace"
        )
    return user


def _get_image(client: docker.DockerClient, image: str) -> None:
    try:
        client.images.get(image)
    except ImageNotFound:
        if image.startswith("sha256:"):
            raise AirflowFailException(
                f"the engine has no image {image}, and an id cannot be pulled\n"
                "  fix: build or load it on this machine, or name an image of a registry by its digest"
            ) from None
        log.info("Pulling %s", image)
        client.images.pull(image)


def _mount(source: str, target: str, *, read_only: bool = False) -> Mount:
    return Mount(target=target, source=source, type="bind" if source.startswith("/") else "volume", read_only=read_only)


def _more_mounts() -> list[Mount]:
    pairs = (words.partition(":") for words in os.environ.get("MASKLINE_DOCKER_MOUNTS", "").split())
    return [_mount(source, target or source, read_only=True) for source, _, target in pairs]


@contextlib.contextmanager
def _gpus(client: docker.DockerClient, step: Step) -> Iterator[list[str]]:
    """Ids of the GPUs for the container that the block creates: its label is what keeps them, for as long as it has not ended."""
    named = os.environ.get("MASKLINE_DOCKER_GPUS", "")
    if not step.gpus or named in ("", "all"):
        yield ["all"] if step.gpus and named else []
        return
    with (storage.shared_folder() / ".docker_gpus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        held = {
            gpu: one["Id"][:12]
            for one in client.api.containers(all=True, filters={"label": [_GPUS]})
            if one["State"] not in _ENDED
            for gpu in one["Labels"][_GPUS].split(",")
        }
        free = [gpu for gpu in named.split(",") if gpu not in held]
        if len(free) < step.gpus:
            holders = ", ".join(f"{gpu} by {holder}" for gpu, holder in sorted(held.items()) if gpu)
            raise AirflowException(
                f"the step takes {step.gpus} of the GPUs {named}, of which {len(free)} are free (held: {holders or 'none'})\n"
                "  fix: give the pool `gpu` as many slots as there are GPUs in MASKLINE_DOCKER_GPUS"
            )
        yield free[: step.gpus]


def _device_request(gpus: Sequence[str]) -> DeviceRequest:
    chosen: dict[str, Any] = {"count": -1} if [*gpus] == ["all"] else {"device_ids": [*gpus]}
    return DeviceRequest(driver="nvidia", capabilities=[["gpu"]], **chosen)
