"""Who the workers are, how they meet, and what is said where they cannot."""

from __future__ import annotations

import json
import os
import socket
import threading

import pytest

from tasks.running.errors import UserError
from tasks.training.cluster import LEFT, Cluster, configured_cluster, meet


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TF_CONFIG, and whatever a test makes of it is undone."""
    monkeypatch.setenv("TF_CONFIG", "")


def tf_config(jobs: dict[str, list[str]], kind: str, index: int) -> str:
    return json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_the_options_name_the_cluster_and_tensorflow_is_told() -> None:
    assert configured_cluster("a:1, b:2", 1) == Cluster(("a:1", "b:2"), 1)
    assert json.loads(os.environ["TF_CONFIG"]) == {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}


@pytest.mark.parametrize(
    ("jobs", "kind", "index", "cluster"),
    [
        ({"worker": ["a:1", "b:2"]}, "worker", 0, Cluster(("a:1", "b:2"), 0)),
        ({"worker": ["a:1", "b:2"], "chief": ["c:3"]}, "chief", 0, Cluster(("c:3", "a:1", "b:2"), 0)),
        ({"worker": ["a:1", "b:2"], "chief": ["c:3"]}, "worker", 1, Cluster(("c:3", "a:1", "b:2"), 2)),
        ({"worker": ["[::1]:1"]}, "worker", 0, None),
    ],
)
def test_tf_config_names_the_cluster(
    monkeypatch: pytest.MonkeyPatch, jobs: dict[str, list[str]], kind: str, index: int, cluster: Cluster | None
) -> None:
    monkeypatch.setenv("TF_CONFIG", tf_config(jobs, kind, index))
    assert configured_cluster(None, None) == cluster


def test_without_either_there_is_no_cluster_and_of_one_worker_none() -> None:
    assert configured_cluster(None, None) is None
    assert configured_cluster("a:1", 0) is None


@pytest.mark.parametrize(
    ("hosts", "index", "told"),
    [
        (None, 0, "--task-index is set, and --worker-hosts is not"),
        ("a:1,b:2", None, "--task-index is None, and --worker-hosts names 2"),
        ("a:1,b:2", 2, "--task-index is 2, and --worker-hosts names 2"),
        ("a:1,b:2", -1, "--task-index is -1"),
        ("a:1,b", 0, "--worker-hosts: 'b' is no address"),
        ("a:1,b:x", 0, "--worker-hosts: 'b:x' is no address"),
        ("a:1,a:1", 0, "--worker-hosts names an address twice"),
    ],
)
def test_wrong_options_are_refused(hosts: str | None, index: int | None, told: str) -> None:
    with pytest.raises(UserError, match=told):
        configured_cluster(hosts, index)
    assert not os.environ["TF_CONFIG"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "TF_CONFIG cannot be read"),
        ("[]", "TF_CONFIG cannot be read"),
        ('{"cluster": {"worker": ["a:1"]}}', "TF_CONFIG cannot be read"),
        (tf_config({"worker": ["a:1"], "ps": ["b:2"]}, "worker", 0), "TF_CONFIG names ps, which this training has not"),
        (tf_config({"worker": ["a:1"]}, "evaluator", 0), "TF_CONFIG names evaluator"),
        (tf_config({"worker": ["a:1"]}, "worker", 1), "this is worker 1, and its cluster has none"),
        (tf_config({"worker": ["a:1"]}, "chief", 0), "this is chief 0, and its cluster has none"),
        (tf_config({"worker": ["a"]}, "worker", 0), "TF_CONFIG: 'a' is no address"),
    ],
)
def test_a_wrong_tf_config_is_refused(monkeypatch: pytest.MonkeyPatch, text: str, told: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=told):
        configured_cluster(None, None)


def test_said_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", tf_config({"worker": ["a:1", "b:2"]}, "worker", 0))
    with pytest.raises(UserError, match="TF_CONFIG is set, and so is"):
        configured_cluster("a:1,b:2", 0)


def test_workers_meet_in_any_order_and_none_goes_before_all_are_there() -> None:
    hosts = tuple(f"127.0.0.1:{port}" for port in free_ports(3))
    met = [threading.Event() for _ in hosts]

    def worker(index: int) -> None:
        meet(Cluster(hosts, index), seconds=30)
        met[index].set()
        # As TensorFlow's server would: whoever has not seen this one yet still can.
        with socket.create_server(("127.0.0.1", int(hosts[index].rpartition(":")[2]))):
            assert all(each.wait(30) for each in met)

    threads = [threading.Thread(target=worker, args=(index,)) for index in range(3)]
    for thread in threads[:2]:
        thread.start()
    # Two of three wait.
    assert not met[0].wait(1.0)
    assert not met[1].is_set()
    threads[2].start()
    for thread in threads:
        thread.join(60)
    assert all(each.is_set() for each in met)


def test_a_worker_that_does_not_come_is_named_and_ends_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = (f"127.0.0.1:{port}" for port in free_ports(2))
    with pytest.raises(SystemExit) as ended:
        meet(Cluster((theirs, ours), 1), seconds=0.5)
    assert ended.value.code == LEFT == 75
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"waiting for worker 0 ({theirs})")
    assert lines[-1] == f"worker 0 ({theirs}) did not come within 0.5 s: start all workers again"


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("", 0)) as taken:
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match="the port cannot be used: Address already in use"):
            meet(Cluster((host, "127.0.0.1:1"), 0), seconds=0.5)
