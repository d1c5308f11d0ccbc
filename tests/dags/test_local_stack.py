"""The local stack: what it refuses before it starts anything, and that nothing of it stays behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import stack
from airflow_rest import AirflowRest
from maskline_airflow import step_log

TRAINER = stack.REPOSITORY / ".venv" / "bin" / "python"
RETRAIN = "retrain_minutely"
SCHEDULE = """
cron: "* * * * *"
on_dataset_change: true
dataset: configs/datasets/shapes.yaml
configs: [mask_rcnn_inception_v2_coco]
start_from: last_good_run
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("service", ["Airflow", "MLflow"])
def test_taken_port_is_named_before_anything_starts(
    tmp_path: Path, taken_port: int, free_port: int, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "_TOOLS", ())
    ports = (taken_port, free_port) if service == "Airflow" else (free_port, taken_port)
    settings = stack.Settings(tmp_path / "workspace", *ports)
    with pytest.raises(stack.StackError, match=rf"port {taken_port}, meant for {service}, .* MASKLINE_{service.upper()}_PORT"):
        stack.up(settings)
    assert not settings.airflow_home.exists()


def test_missing_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_TOOLS", (tmp_path / "mlflow",))
    with pytest.raises(stack.StackError, match="mlflow is missing; run `make setup`"):
        stack.up(stack.Settings(tmp_path, 1, 2))


def test_down_where_nothing_runs_finds_nothing(tmp_path: Path) -> None:
    assert stack.down(stack.Settings(tmp_path, 1, 2)) == 0


def test_down_ends_what_lost_its_parent_and_ignores_term_but_no_other_workspaces_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "STOP_SECONDS", 0.5)
    mine, others = stack.Settings(tmp_path / "mine", 1, 2), stack.Settings(tmp_path / "others", 1, 2)
    deaf, stranger = (
        subprocess.Popen(
            [sys.executable, "-c", DEAF],
            env=settings.process_environment(),
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        for settings in (mine, others)
    )
    for process in (deaf, stranger):
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    try:
        assert stack.down(mine) == 1
        assert deaf.wait(timeout=10) == -9
        assert stranger.poll() is None
    finally:
        for process in (deaf, stranger):
            process.kill()
            process.communicate()


def test_every_address_is_this_machines_own(tmp_path: Path) -> None:
    settings = stack.Settings(tmp_path, 8080, 5000)
    addresses = [value for value in settings.process_environment().values() if value.startswith("http://")]
    assert addresses
    assert all(address.startswith("http://127.0.0.1:") for address in addresses if "example" not in address)


@pytest.mark.parametrize(("named", "cores", "slots"), [("", 2, 2), ("", 8, 2), ("", 1, 1), ("0,1,2", 2, 3), ("GPU-a,", 8, 1), ("-1", 8, 2)])
def test_two_trainings_share_a_processor_and_each_gpu_has_one(monkeypatch: pytest.MonkeyPatch, named: str, cores: int, slots: int) -> None:
    monkeypatch.delenv("MASKLINE_LOCAL_GPUS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert stack.trainings_at_a_time() == slots


def listening_addresses(settings: stack.Settings) -> set[str]:
    processes = list(stack._marked_processes(settings))
    return {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.slow
def test_training_survives_its_task_under_the_real_scheduler_and_down_leaves_nothing(
    workspace: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        mlflow_port = probe.getsockname()[1]
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(workspace / "gate"))
    settings = stack.Settings(workspace, free_port, mlflow_port)
    try:
        assert stack.up(settings)
        assert not stack.up(settings)
        assert listening_addresses(settings) == {"127.0.0.1"}

        airflow = AirflowRest(settings.airflow_url, stack.LOGIN)
        run = airflow.trigger(stack.DAG_ID, {"configs": ["mask_rcnn_inception_v2_coco"], "run_name": "r"})
        kept = workspace / "commands.jsonl"
        wait_until(kept.exists)
        task = kill_the_task_process(settings)
        wait_until(lambda: not task.is_running())
        (workspace / "gate").touch()
        wait_until(lambda: airflow.run_state(stack.DAG_ID, run) in {"success", "failed"})

        assert airflow.run_state(stack.DAG_ID, run) == "success"
        first = next(task for task in airflow.task_instances(stack.DAG_ID, run) if task["task_id"] == "check_request")
        assert first["try_number"] == 2
        assert link(airflow, run, "open_run") == {"MLflow run": "http://mlflow.example/open-run"}
        assert link(airflow, run, "compare") == {"MLflow run": "http://mlflow.example/compare", "Comparison": "http://mlflow.example/page"}
        steps = [line.split('"')[3] for line in kept.read_text().splitlines()]
        assert steps == ["preflight", "materialize", "open-run", "plan", "convert", "train", "evaluate", "compare"]
    finally:
        stack.down(settings)
    assert list(stack._marked_processes(settings)) == []
    for port in (free_port, mlflow_port):
        stack._refuse_taken_port(port, "anybody", "")


@pytest.mark.slow
def test_a_schedules_file_runs_by_itself_is_skipped_the_second_time_and_its_dag_keeps_one_version(
    workspace: Path, free_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not TRAINER.exists():
        pytest.skip(f"the trainer environment is not here: {TRAINER}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        mlflow_port = probe.getsockname()[1]
    schedules = tmp_path_factory.mktemp("schedules")
    monkeypatch.setenv("MASKLINE_SCHEDULES", str(schedules))
    # What decides whether to train is the real trainer's; training itself is not what is tested here.
    monkeypatch.setenv("FAKE_TRAINER_REAL", f"{TRAINER} -m tasks")
    settings = stack.Settings(workspace, free_port, mlflow_port)
    often = settings.process_environment() | {"AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10"}
    monkeypatch.setattr(stack.Settings, "process_environment", lambda _: often)
    try:
        stack.up(settings)
        airflow = AirflowRest(settings.airflow_url, stack.LOGIN)
        (schedules / "broken.yaml").write_text(SCHEDULE + "stpes: 3\n")
        (schedules / "minutely.yaml").write_text(SCHEDULE)

        # The clock's run trains; that its data is new is an event, which makes one more run that finds nothing to do.
        wait_until(lambda: [run["state"] for run in runs(airflow)] == ["success", "success"])
        first, second = (run["dag_run_id"] for run in runs(airflow))
        assert (states(airflow, first)["anything_new"], states(airflow, second)["anything_new"]) == ("success", "skipped")
        assert states(airflow, first)["remember"] == "success"
        assert states(airflow, second)["backbone.train"] == "skipped"
        reason = airflow.xcom(RETRAIN, second, "anything_new", "reason")
        folder = step_log.as_file_name(first)
        assert reason == f"nothing has changed since {folder}, the last good run: the same data, configs, settings and code"
        assert reason in step_log.latest_log(workspace, second, "anything_new", None).read_text()

        (error,) = airflow._request("GET", "/api/v2/importErrors")["import_errors"]
        assert error["filename"] == "broken.py"
        assert error["stack_trace"].endswith(f"{schedules / 'broken.yaml'}\n  there is no field `stpes`: did you mean `steps`?\n")

        parsed = {dag_id: airflow._request("GET", f"/api/v2/dags/{dag_id}")["last_parsed_time"] for dag_id in (stack.DAG_ID, RETRAIN)}
        for _ in range(3):
            for dag_id, before in parsed.items():
                wait_until(lambda dag_id=dag_id, before=before: last_parsed(airflow, dag_id) != before)
                parsed[dag_id] = last_parsed(airflow, dag_id)
        for dag_id in parsed:
            assert len(airflow._request("GET", f"/api/v2/dags/{dag_id}/dagVersions")["dag_versions"]) == 1
    finally:
        stack.down(settings)


def runs(airflow: AirflowRest) -> list[dict[str, Any]]:
    """The first two runs of the schedule's DAG, as soon as there is one."""
    if not airflow.has_dag(RETRAIN):
        return []
    return list(airflow._request("GET", f"/api/v2/dags/{RETRAIN}/dagRuns?order_by=id&limit=2")["dag_runs"])


def states(airflow: AirflowRest, run: str) -> dict[str, str]:
    return {task["task_id"]: task["state"] for task in airflow.task_instances(RETRAIN, run)}


def last_parsed(airflow: AirflowRest, dag_id: str) -> str:
    return str(airflow._request("GET", f"/api/v2/dags/{dag_id}")["last_parsed_time"])


def kill_the_task_process(settings: stack.Settings) -> psutil.Process:
    """Kills the parent of the running step's keeper, which is the process of its Airflow task, and returns it."""
    keeper = next(process for process in stack._marked_processes(settings) if "step_keeper.py" in " ".join(process.cmdline()))
    task = psutil.Process(keeper.ppid())
    assert task.pid not in (1, os.getpid())
    task.kill()
    return task


def link(airflow: AirflowRest, run: str, task: str) -> dict[str, str]:
    """The extra links of a task as the browser gets them."""
    links = airflow._request("GET", f"{airflow._run(stack.DAG_ID, run)}/taskInstances/{task}/links")
    return dict(links["extra_links"])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "waited five minutes in vain"
        time.sleep(0.5)
