"""Steps in containers and in pods, against an engine and a cluster that run the fake trainer: what they are asked for, and what becomes of
a step when its task, its worker, or the container itself dies."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from maskline_airflow import step_runner
from maskline_airflow.docker_container import Container
from maskline_airflow.kubernetes_pod import Pod, outcome_of
from maskline_airflow.step_runner import FAILED, OUT_OF_MEMORY, PREEMPTED, RUNNING, SUCCEEDED, Outcome, UnreachableError

from tests.dags.fake_containers import Engine, docker_engine, kubernetes_cluster
from tests.dags.task_try import TaskStateStore, Try, wait_until

Commands = Callable[[], list[dict[str, Any]]]
IMAGE = "registry.example/maskline/trainer@sha256:" + "0123456789abcdef" * 4
TRY = "steps/manual__2026-01-02T03-04-05-00-00/backbone.train.3"


@pytest.fixture
def store() -> TaskStateStore:
    return TaskStateStore()


@pytest.fixture(params=["docker", "kubernetes"])
def engine(request: pytest.FixtureRequest, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Each of the two, chosen by the deployment's settings."""
    monkeypatch.setenv("MASKLINE_RUNNER", request.param)
    monkeypatch.setenv("MASKLINE_IMAGE", IMAGE)
    monkeypatch.setenv("MASKLINE_DOCKER_USER", "10001:0")
    monkeypatch.setenv("MASKLINE_PASS", "FAKE_TRAINER_WAITS FAKE_TRAINER_FAILS FAKE_TRAINER_DEAF")
    monkeypatch.setattr(Container, "poll_seconds", 0.02)
    monkeypatch.setattr(Pod, "poll_seconds", 0.02)
    if request.param == "docker":
        with docker_engine(workspace) as (engine, address):
            monkeypatch.setenv("DOCKER_HOST", address)
            yield engine
    else:
        with kubernetes_cluster(workspace) as (engine, kubeconfig):
            connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(kubeconfig)}}
            monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", json.dumps(connection))
            monkeypatch.setenv("MASKLINE_KUBERNETES_CONNECTION", "cluster")
            yield engine


only_docker = pytest.mark.parametrize("engine", ["docker"], indirect=True)


def test_step_answers_from_its_container_and_leaves_only_its_folder(workspace: Path, engine: Engine, store: TaskStateStore) -> None:
    attempt = Try(store)
    result = attempt.execute()
    assert (result["step"], result["status"]) == ("train", "done")
    assert attempt.xcoms["checkpoint"] == "runs/r/some_model/train/ckpt-1"
    (one,) = engine.asked
    folder = workspace / TRY / "1"
    assert one.words == ["train", "runs/r/some_model", "--steps", "7", "--learning-rate", "0.5", "--result", str(folder / "result.json")]
    assert (folder / "log.txt").read_text() == "train: done\n"
    wait_until(lambda: not engine.there)
    assert store == {}


def test_next_try_finds_the_container_of_a_killed_task(
    workspace: Path, engine: Engine, commands: Commands, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = workspace / "gate"
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(gate))
    killed = Try(store)
    store["step_process"] = json.loads(json.dumps(killed.operator.submit_job(killed.context)))  # and here the task dies
    wait_until(commands)
    # By then the deployment may say otherwise.
    monkeypatch.setenv("MASKLINE_RUNNER", "local")

    threading.Timer(0.3, gate.touch).start()
    assert Try(store, number=2).execute()["status"] == "done"
    assert len(engine.asked) == 1
    assert (workspace / TRY / "1" / "log.txt").read_text() == "waiting\ntrain: done\n"


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended well"])
def test_next_try_finds_the_container_whose_name_died_with_the_worker(
    workspace: Path, engine: Engine, commands: Commands, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    gate = workspace / "gate"
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(gate))
    killed = Try(store)
    killed.operator.submit_job(killed.context)  # and here the worker dies, before Airflow has the identity
    wait_until(commands)
    if ended:
        gate.touch()
        wait_until(lambda: engine.asked[0].code == 0)
    else:
        threading.Timer(0.3, gate.touch).start()
    assert Try(store, number=2).execute()["status"] == "done"
    assert len(engine.asked) == 1
    assert sorted(path.name for path in (workspace / TRY).iterdir()) == ["1"]


@pytest.mark.parametrize(("code", "error"), [(2, AirflowFailException), (1, AirflowException)])
def test_failed_container_tells_its_last_words_and_goes(
    workspace: Path, engine: Engine, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    monkeypatch.setenv("FAKE_TRAINER_FAILS", f"train some_model {code}")
    with pytest.raises(AirflowException, match="some_model is broken\n  fix: mend it") as caught:
        Try(store).execute()
    assert type(caught.value) is error
    wait_until(lambda: not engine.there)
    assert "mend it" in (workspace / TRY / "1" / "log.txt").read_text()
    monkeypatch.delenv("FAKE_TRAINER_FAILS")
    assert Try(store, number=2).execute()["status"] == "done"
    assert len(engine.asked) == 2


def test_lack_of_memory_is_told(
    workspace: Path, engine: Engine, commands: Commands, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(workspace / "never"))

    def kill() -> None:
        wait_until(commands)
        engine.asked[0].out_of_memory = True
        engine.asked[0].kill()

    threading.Thread(target=kill).start()
    # Another try would end the same way.
    with pytest.raises(AirflowFailException, match=r"train ran out of memory \((out of memory|OOMKilled)\)(.|\n)*fix: ask for less"):
        Try(store).execute()


def test_container_that_somebody_removed_is_started_anew(
    workspace: Path, engine: Engine, commands: Commands, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(workspace / "never"))

    def remove() -> None:
        wait_until(commands)
        engine.there.pop(engine.asked[0].name).kill()

    threading.Thread(target=remove).start()
    first = Try(store)
    with pytest.raises(AirflowException, match="train vanished without an exit code"):
        first.execute()
    monkeypatch.delenv("FAKE_TRAINER_WAITS")
    assert Try(store, number=2).execute()["status"] == "done"


def test_engine_that_is_restarted_ends_no_step_and_one_that_stays_silent_fails_the_task(
    workspace: Path, engine: Engine, commands: Commands, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = workspace / "gate"
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(gate))
    first = Try(store)
    identity = store["step_process"] = first.operator.submit_job(first.context)
    wait_until(commands)
    monkeypatch.setattr("maskline_airflow.step_operator._SILENT_SECONDS", 0.0)
    engine.refuses = 100
    with pytest.raises(UnreachableError, match=r"the (engine|cluster) does not answer"):
        first.operator.poll_until_complete(identity, first.context)

    monkeypatch.setattr("maskline_airflow.step_operator._SILENT_SECONDS", 60.0)
    engine.refuses = 5
    threading.Timer(0.3, gate.touch).start()
    first.operator.poll_until_complete(identity, first.context)
    assert engine.refuses == 0
    assert Try(store, number=2).execute()["status"] == "done"
    assert len(engine.asked) == 1


@pytest.mark.parametrize("deaf", [False, True])
def test_killing_the_task_ends_the_container_by_term_and_a_deaf_one_by_kill(
    workspace: Path, engine: Engine, commands: Commands, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    monkeypatch.setattr(step_runner, "GRACE_SECONDS", 1.0)
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(workspace / "never"))
    if deaf:
        monkeypatch.setenv("FAKE_TRAINER_DEAF", "1")
    attempt = Try(store)

    def kill() -> None:
        wait_until(lambda: engine.asked and engine.asked[0].lines)
        attempt.operator.on_kill()

    threading.Thread(target=kill).start()
    with pytest.raises(AirflowException, match=r"train (ended with code|vanished)"):
        attempt.execute()
    assert engine.asked[0].process.poll() == (-signal.SIGKILL if deaf else -signal.SIGTERM)


def test_task_that_is_killed_while_its_container_is_being_started_leaves_none_running(
    workspace: Path, engine: Engine, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(workspace / "never"))
    attempt, start = Try(store), step_runner.start

    def killed_meanwhile(step: step_runner.Step) -> Any:
        started = start(step)
        attempt.operator.on_kill()
        return started

    monkeypatch.setattr(step_runner, "start", killed_meanwhile)
    with pytest.raises(AirflowException, match=r"train (ended with code|vanished)"):
        attempt.execute()
    assert engine.asked[0].process.poll() is not None


def test_image_by_tag_is_refused_unless_a_setting_allows_it(
    workspace: Path, engine: Engine, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKLINE_IMAGE", "maskline/trainer:gpu")
    with pytest.raises(AirflowFailException, match=r"trainer:gpu is a tag.*\n  fix: .*docker image inspect"):
        Try(store).execute()
    assert engine.asked == []
    monkeypatch.setenv("MASKLINE_IMAGE_BY_TAG", "1")
    assert Try(store, number=2).execute()["status"] == "done"


def test_result_on_another_workspace_is_told(
    workspace: Path, engine: Engine, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = workspace / "gate"
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(gate))
    monkeypatch.setattr(Container, "result", Path("/elsewhere/result.json"))
    monkeypatch.setattr(Pod, "result", Path("/elsewhere/result.json"))
    gate.touch()
    with pytest.raises(AirflowException, match=r"there is no /elsewhere/result.json\n  fix: mount for the step the same workspace"):
        Try(store).execute()


@only_docker
def test_steps_never_run_as_root(workspace: Path, engine: Engine, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for user in ("0:0", "root", "10001"):
        monkeypatch.setenv("MASKLINE_DOCKER_USER", user)
        with pytest.raises(AirflowFailException, match=rf"steps would run as {user}, .*\n  fix: set MASKLINE_DOCKER_USER"):
            Try(store).execute()
    assert engine.asked == []


@only_docker
def test_each_training_has_gpus_of_its_own_until_its_container_ends(
    workspace: Path, engine: Engine, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKLINE_DOCKER_GPUS", "0,GPU-b")
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(workspace / "gate"))
    tries = [Try(TaskStateStore(), pool="gpu") for _ in range(3)]
    for index, one in enumerate(tries):
        one.context["ti"].map_index = index
    for one in tries[:2]:
        one.operator.submit_job(one.context)
    requests = [one.request["HostConfig"]["DeviceRequests"] for one in engine.asked]
    assert [request[0]["DeviceIDs"] for request in requests] == [["0"], ["GPU-b"]]
    with pytest.raises(AirflowException, match=r"takes 1 of the GPUs 0,GPU-b, of which 0 are free \(held: 0 by 0+, GPU-b by 0+\)"):
        tries[2].operator.submit_job(tries[2].context)
    engine.asked[0].kill()
    tries[2].operator.submit_job(tries[2].context)
    assert engine.asked[2].request["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] == ["0"]


@only_docker
def test_engine_that_is_not_there_says_so(workspace: Path, engine: Engine, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(AirflowException, match=r"there is no engine to run the step: (.|\n)*DOCKER_HOST"):
        Try(store).execute()


def told_pod(phase: str, state: dict[str, Any] | None = None, **status: Any) -> Any:
    """A pod as a cluster tells of it, with a container of a mesh beside the step's."""
    beside = {"name": "mesh", "state": {"running": {}}}
    states = [{"name": "step", "state": state}, beside] if state else []
    known = {"image": "i", "imageID": "", "ready": False, "restartCount": 0}
    spec = {"containers": [{"name": "step"}], "schedulingGates": status.pop("gates", None)}
    statuses = [{**known, **one} for one in states]
    return PodGenerator.deserialize_model_dict({"spec": spec, "status": {"phase": phase, "containerStatuses": statuses, **status}})


@pytest.mark.parametrize(
    ("pod", "outcome"),
    [
        (told_pod("Running", {"running": {}}), Outcome(RUNNING)),
        (told_pod("Running", {"terminated": {"exitCode": 0, "reason": "Completed"}}), Outcome(SUCCEEDED, 0)),
        (told_pod("Running", {"terminated": {"exitCode": 2, "reason": "Error"}}), Outcome(FAILED, 2)),
        (
            told_pod("Failed", reason="Evicted", message="The node was low on memory"),
            Outcome(FAILED, None, "Evicted: The node was low on memory", OUT_OF_MEMORY),
        ),
        (
            told_pod("Failed", reason="Preempting", message="Preempted by a more important pod"),
            Outcome(FAILED, None, "Preempting: Preempted by a more important pod", PREEMPTED),
        ),
        (
            told_pod(
                "Failed",
                {"terminated": {"exitCode": 137, "reason": "Error"}},
                conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}],
            ),
            Outcome(FAILED, 137, "", PREEMPTED),
        ),
        (told_pod("Failed", {"terminated": {"exitCode": 143, "reason": "Error"}}), Outcome(FAILED, 143, "", PREEMPTED)),
        (told_pod("Failed", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}), Outcome(FAILED, 137, "OOMKilled", OUT_OF_MEMORY)),
        (
            told_pod("Pending", {"waiting": {"reason": "ErrImagePull", "message": "not found"}}),
            Outcome(FAILED, None, "Image cannot be pulled, unable to start: ErrImagePull\nnot found"),
        ),
        (told_pod("Pending", {"waiting": {"reason": "ContainerCreating"}}), Outcome(RUNNING, reason="ContainerCreating")),
        (
            told_pod("Pending", conditions=[{"type": "PodScheduled", "status": "False", "reason": "NoNode", "message": "no GPU"}]),
            Outcome(RUNNING, reason="NoNode: no GPU"),
        ),
        (
            told_pod("Pending", gates=[{"name": "kueue.x-k8s.io/admission"}]),
            Outcome(RUNNING, reason="held back by kueue.x-k8s.io/admission"),
        ),
    ],
    ids=[
        *("runs", "ended beside a mesh", "failed", "evicted for memory", "preempted", "node goes", "told to go", "out of memory"),
        *("no image", "being made", "no node", "in a queue"),
    ],
)
def test_how_a_pod_stands(pod: Any, outcome: Outcome) -> None:
    assert outcome_of(pod) == outcome


def test_package_that_is_not_installed_is_named(workspace: Path, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_RUNNER", "docker")
    monkeypatch.setitem(sys.modules, "docker", None)
    monkeypatch.delitem(sys.modules, "maskline_airflow.docker_container")
    with pytest.raises(AirflowFailException, match=r"docker is not installed\n  fix: .*uv sync --project dags --extra docker"):
        Try(store).execute()


def test_misspelt_place_is_told(workspace: Path, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_RUNNER", "podman")
    with pytest.raises(AirflowFailException, match="MASKLINE_RUNNER is 'podman'\n  fix: set it to one of local, docker, kubernetes"):
        Try(store).execute()
