"""The workers of a training on several machines: who they are, and how they meet. Needs no TensorFlow.

Each runs the same command with a number of its own, and sees the model's folder. The first is the chief, who alone writes there.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.running.errors import UserError

LEFT = os.EX_TEMPFAIL
"""The code of a worker that another one has left; all of them are to be started again"""

_SECONDS_TO_MEET = 600.0
_SECONDS_PER_LINE = 30.0
_TF_CONFIG = "TF_CONFIG"


@dataclass(frozen=True)
class Cluster:
    """The workers' addresses, `host:port`, the chief's first, and which of them this process is."""

    hosts: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        return self.index == 0

    def name(self, index: int) -> str:
        return f"worker {index} ({self.hosts[index]})"


def configured_cluster(worker_hosts: str | None, task_index: int | None) -> Cluster | None:
    """The cluster that the options name, or the environment's TF_CONFIG; None where there is a single worker.

    What the options say becomes TF_CONFIG, from which TensorFlow takes it.
    """
    given = os.environ.get(_TF_CONFIG)
    if given:
        if worker_hosts is not None or task_index is not None:
            raise UserError("TF_CONFIG is set, and so is --worker-hosts or --task-index", "say it once")
        return _in_tf_config(given)
    if worker_hosts is None:
        if task_index is not None:
            raise UserError("--task-index is set, and --worker-hosts is not", "give host:port of each worker, separated by commas")
        return None
    hosts = tuple(host.strip() for host in worker_hosts.split(","))
    if task_index is None or not 0 <= task_index < len(hosts):
        raise UserError(
            f"--task-index is {task_index}, and --worker-hosts names {len(hosts)}", f"give each its own, from 0 to {len(hosts) - 1}"
        )
    cluster = _confirmed(Cluster(hosts, task_index), "--worker-hosts")
    os.environ[_TF_CONFIG] = json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": task_index}})
    return cluster if len(hosts) > 1 else None


def meet(cluster: Cluster, seconds: float = _SECONDS_TO_MEET) -> None:
    """Returns as soon as every other worker listens at its address; SystemExit(`LEFT`) where one does not for so long.

    TensorFlow itself waits for them for an hour, hears no signal meanwhile and says nothing.
    """
    missing = [index for index in range(len(cluster.hosts)) if index != cluster.index]
    started = told = time.monotonic()
    with _listening(cluster):
        while True:
            missing = [index for index in missing if not _listens(cluster.hosts[index])]
            if not missing:
                return
            now = time.monotonic()
            names = ", ".join(cluster.name(index) for index in missing)
            if now - started > seconds:
                print(f"{names} did not come within {seconds:g} s: start all workers again", flush=True)
                raise SystemExit(LEFT)
            if now - told > _SECONDS_PER_LINE or told == started:
                print(f"waiting for {names}, up to {started + seconds - now:.0f} s", flush=True)
                told = now
            time.sleep(0.2)


def _in_tf_config(text: str) -> Cluster | None:
    try:
        values: Mapping[str, Any] = json.loads(text)
        jobs, task = values["cluster"], values["task"]
        chiefs, workers = list(jobs.get("chief", [])), list(jobs.get("worker", []))
        others = sorted(set(jobs) - {"chief", "worker"})
        kind, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        form = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        raise UserError(f"TF_CONFIG cannot be read: {error!r}", f"write {form}, or unset it") from error
    if others or kind not in ("chief", "worker"):
        raise UserError(
            f"TF_CONFIG names {', '.join(others or [kind])}, which this training has not", "name `worker` alone, and `chief` at most"
        )
    hosts = tuple(str(host) for host in (*chiefs, *workers))
    if not 0 <= index < len(jobs.get(kind, [])):
        raise UserError(f"TF_CONFIG says that this is {kind} {index}, and its cluster has none", "correct the index")
    cluster = _confirmed(Cluster(hosts, index + len(chiefs) * (kind == "worker")), _TF_CONFIG)
    return cluster if len(hosts) > 1 else None


def _confirmed(cluster: Cluster, where: str) -> Cluster:
    for host in cluster.hosts:
        name, _, port = host.rpartition(":")
        if not name or not port.isdigit():
            raise UserError(f"{where}: {host!r} is no address", "write host:port")
    if len(set(cluster.hosts)) < len(cluster.hosts):
        raise UserError(f"{where} names an address twice", "give each worker one of its own")
    return cluster


@contextlib.contextmanager
def _listening(cluster: Cluster) -> Iterator[None]:
    """Within the block, this worker can be reached at its port, as it can later by TensorFlow's own server."""
    port = int(cluster.hosts[cluster.index].rpartition(":")[2])
    try:
        listener = socket.create_server(("", port))
    except OSError as error:
        raise UserError(f"{cluster.name(cluster.index)}: the port cannot be used: {error.strerror}", "give another port") from error
    with listener:
        yield


def _listens(host: str) -> bool:
    name, _, port = host.rpartition(":")
    try:
        with socket.create_connection((name.strip("[]"), int(port)), timeout=1.0):
            return True
    except OSError:
        return False
