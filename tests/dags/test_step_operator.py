"""The operator against a fake trainer: what it runs, what it answers, and what it does when a step or a task dies."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout
from maskline_airflow import step_keeper, step_runner, storage
from maskline_airflow.local_process import LocalProcess
from maskline_airflow.machine_gpus import gpus_here
from maskline_airflow.pipeline import Plan
from maskline_airflow.step_keeper import OUT_OF_MEMORY_FILE, killed_for_memory
from maskline_airflow.step_operator import AT_ONCE_AFTER_PREEMPTION, MlflowRunLink, PreemptedError, StepOperator, gpus_per_training, run_dir

from tests.dags.task_try import TaskStateStore, Try, wait_until

Commands = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def store() -> TaskStateStore:
    return TaskStateStore()


@pytest.fixture(autouse=True)
def _quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalProcess, "poll_seconds", 0.02)


def test_runs_the_step_with_the_options_that_were_given(workspace: Path, commands: Commands, store: TaskStateStore) -> None:
    Try(store).execute()
    (call,) = commands()
    folder = workspace / "steps" / "manual__2026-01-02T03-04-05-00-00" / "backbone.train.3" / "1"
    assert call["command"] == [
        *("train", "runs/r/some_model", "--steps", "7", "--learning-rate", "0.5"),
        *("--result", str(folder / "result.json")),
    ]
    assert (folder / "log.txt").read_text() == "train: done\n"
    assert (folder / "exit_code").read_text() == "0\n"


def test_answers_with_the_result_and_names_each_output(workspace: Path, store: TaskStateStore) -> None:
    attempt = Try(store)
    result = attempt.execute()
    assert (result["step"], result["status"]) == ("train", "done")
    assert attempt.xcoms["model"] == result["outputs"]["model"] == "runs/r/some_model"
    assert attempt.xcoms["checkpoint"] == "runs/r/some_model/train/ckpt-1"


def test_link_leads_to_the_parent_run_first_and_to_the_steps_own_in_the_end(
    workspace: Path,
    store: TaskStateStore,
) -> None:
    attempt = Try(store)
    attempt.execute()
    assert attempt.xcoms["_link_MlflowRunLink"] == "http://mlflow.example/parent"
    assert MlflowRunLink().get_link(attempt.operator, ti_key=None) == "http://mlflow.example/train"


def test_step_learns_which_task_it_runs_for_and_none_of_airflows_secrets(
    workspace: Path, commands: Commands, store: TaskStateStore
) -> None:
    Try(store, number=2).execute()
    environment = commands()[0]["environment"]
    assert {name: value for name, value in environment.items() if "AIRFLOW" in name} == {
        "MASKLINE_AIRFLOW_DAG_ID": "mask_rcnn_zoo",
        "MASKLINE_AIRFLOW_RUN_ID": "manual__2026-01-02T03:04:05+00:00",
        "MASKLINE_AIRFLOW_TASK_ID": "backbone.train",
        "MASKLINE_AIRFLOW_TRY_NUMBER": "2",
        "MASKLINE_AIRFLOW_URL": "http://airflow.example/dags/mask_rcnn_zoo/runs/manual__2026-01-02T03%3A04%3A05%2B00%3A00",
    }
    assert environment["MASKLINE_WORKSPACE"] == str(workspace)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (2, AirflowFailException),
        (1, AirflowException),
        (137, AirflowException),
        # After SIGTERM, with its checkpoint written, or after another worker of it.
        (143, PreemptedError),
        (os.EX_TEMPFAIL, PreemptedError),
    ],
)
def test_bad_input_is_not_tried_again_and_everything_else_is(
    workspace: Path,
    store: TaskStateStore,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error: type[Exception],
) -> None:
    monkeypatch.setenv("FAKE_TRAINER_FAILS", f"train some_model {code}")
    with pytest.raises(AirflowException, match="some_model is broken\n  fix: mend it") as caught:
        Try(store).execute()
    assert type(caught.value) is error


def test_what_was_preempted_is_tried_again_at_once_and_nothing_else_is() -> None:
    for error, delay in ((PreemptedError("gone"), timedelta(0)), (AirflowException("broken"), None)):
        decision = AT_ONCE_AFTER_PREEMPTION.evaluate(error, 1, 2)
        assert (decision.action is RetryAction.RETRY, decision.retry_delay) == (delay is not None, delay)


def test_answer_no_is_no_failure_and_keeps_its_result(workspace: Path, store: TaskStateStore) -> None:
    """Also where the task died meanwhile, and its next try finds a step that has ended with that code."""
    killed = Try(store)
    killed.operator.step, killed.operator.arguments, killed.operator.options = "promote", ["runs/r/weak"], {}
    store["step_process"] = killed.operator.submit_job(killed.context)
    wait_until(lambda: step_runner.attach(store["step_process"]).outcome().status != step_runner.RUNNING)
    assert step_runner.attach(store["step_process"]).outcome() == step_runner.Outcome(step_runner.SUCCEEDED, 3)
    result = Try(store, number=2).execute()
    assert (result["status"], result["summary"]["decision"]) == ("refused", "refused")


def test_kernel_that_kills_a_step_for_its_memory_ends_the_task_with_a_way_out(
    workspace: Path, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAINER_FAILS", "train some_model 137")
    killed = Try(store)
    store["step_process"] = killed.operator.submit_job(killed.context)
    started = step_runner.attach(store["step_process"])
    wait_until(lambda: started.outcome().status != step_runner.RUNNING)
    (Path(started.folder) / OUT_OF_MEMORY_FILE).touch()
    with pytest.raises(AirflowFailException, match=r"train ran out of memory(?s:.)*\n  fix: ask for less at a time: fewer images per step"):
        killed.operator.poll_until_complete(store["step_process"], killed.context)


def test_the_keeper_asks_the_control_group_whether_a_step_was_killed_for_its_memory(tmp_path: Path) -> None:
    own, group = tmp_path / "cgroup", tmp_path / "groups" / "some" / "one"
    group.mkdir(parents=True)
    own.write_text("0::/some/one\n")
    assert killed_for_memory(tmp_path / "groups", own) == 0  # nothing tells
    (group / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert killed_for_memory(tmp_path / "groups", own) == 2
    own.write_text("4:memory:/old\n")  # control groups of the first version
    assert killed_for_memory(tmp_path / "groups", own) == 0


@pytest.mark.parametrize(("code", "risen", "marked"), [(137, 1, True), (137, 0, False), (1, 1, False)])
def test_the_keeper_marks_what_the_kernel_killed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, risen: int, marked: bool
) -> None:
    counts = iter((5, 5 + risen))
    monkeypatch.setattr(step_keeper, "killed_for_memory", lambda: next(counts))
    monkeypatch.setattr(step_keeper.Keeper, "run", lambda *_: code)
    monkeypatch.setattr(sys, "argv", ["step_keeper.py", str(tmp_path), "1", "0", "", "true"])
    step_keeper.main()
    assert ((tmp_path / OUT_OF_MEMORY_FILE).exists(), (tmp_path / "exit_code").read_text()) == (marked, f"{code}\n")


def test_trainer_that_is_not_there_says_so(
    workspace: Path,
    store: TaskStateStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASKLINE_TRAINER", "/nowhere/python -m tasks")
    with pytest.raises(AirflowException, match="/nowhere/python does not start"):
        Try(store).execute()


def test_next_try_finds_the_step_of_a_killed_task_still_running(
    workspace: Path, commands: Commands, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = workspace / "gate"
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(gate))
    killed = Try(store)
    store["step_process"] = killed.operator.submit_job(killed.context)  # and here the task dies
    wait_until(commands)

    threading.Timer(0.3, gate.touch).start()
    second = Try(store, number=2)
    assert second.execute()["status"] == "done"
    assert second.xcoms["model"] == "runs/r/some_model"
    assert len(commands()) == 1


def test_next_try_takes_the_result_that_a_killed_tasks_step_has_left(
    workspace: Path,
    commands: Commands,
    store: TaskStateStore,
) -> None:
    killed = Try(store)
    store["step_process"] = killed.operator.submit_job(killed.context)
    wait_until(lambda: step_runner.attach(store["step_process"]).outcome().status == step_runner.SUCCEEDED)
    assert Try(store, number=2).execute()["status"] == "done"
    assert len(commands()) == 1


def test_step_that_failed_is_started_again_by_the_next_try(
    workspace: Path, commands: Commands, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAINER_FAILS", "train some_model 1")
    with pytest.raises(AirflowException):
        Try(store).execute()
    monkeypatch.delenv("FAKE_TRAINER_FAILS")
    assert Try(store, number=2).execute()["status"] == "done"
    results = [Path(call["command"][-1]).relative_to(workspace).parent.name for call in commands()]
    assert results == ["1", "2"]


def test_finished_step_runs_again_when_its_task_is_cleared(
    workspace: Path,
    commands: Commands,
    store: TaskStateStore,
) -> None:
    Try(store).execute()
    assert store == {}
    Try(store, number=2).execute()
    assert len(commands()) == 2


def test_next_try_leaves_nothing_running_beside_it_when_the_keeper_was_killed(
    workspace: Path, commands: Commands, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(workspace / "gate"))
    killed = Try(store)
    store["step_process"] = killed.operator.submit_job(killed.context)
    wait_until(commands)
    keeper = store["step_process"]["pid"]
    os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, 0)
    monkeypatch.delenv("FAKE_TRAINER_WAITS")
    assert Try(store, number=2).execute()["status"] == "done"
    first, second = (call["pid"] for call in commands())
    assert first != second
    wait_until(lambda: not psutil.pid_exists(first) or psutil.Process(first).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize(("deaf", "code"), [(False, 128 + signal.SIGTERM), (True, 128 + signal.SIGKILL)])
def test_killing_the_task_ends_the_step_by_term_and_a_deaf_one_by_kill(
    workspace: Path, commands: Commands, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch, deaf: bool, code: int
) -> None:
    monkeypatch.setattr(step_runner, "GRACE_SECONDS", 0.3)
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(workspace / "gate"))
    if deaf:
        monkeypatch.setenv("FAKE_TRAINER_DEAF", "1")
    attempt = Try(store)
    log = workspace / "steps" / "manual__2026-01-02T03-04-05-00-00" / "backbone.train.3" / "1" / "log.txt"

    def kill() -> None:
        wait_until(lambda: log.exists() and "waiting" in log.read_text())
        attempt.operator.on_kill()

    threading.Thread(target=kill).start()
    with pytest.raises(AirflowException, match=f"train ended with code {code}"):
        attempt.execute()
    assert not psutil.pid_exists(commands()[0]["pid"])


def gpu_try(store: TaskStateStore, slots: int = 1) -> Try:
    attempt = Try(store, pool="gpu")
    attempt.operator.pool_slots = slots
    return attempt


def test_each_step_on_a_gpu_has_one_for_itself_until_the_last_of_it_has_ended(
    workspace: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(workspace))
    monkeypatch.setenv("MASKLINE_LOCAL_GPUS", "0, GPU-b")
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(workspace / "never"))
    stores = [TaskStateStore() for _ in range(3)]
    tries = [gpu_try(store) for store in stores]
    started = [step_runner.attach(one.operator.submit_job(one.context)) for one in tries[:2]]
    wait_until(lambda: len(commands()) == 2)
    assert sorted(call["environment"]["CUDA_VISIBLE_DEVICES"] for call in commands()) == ["0", "GPU-b"]

    started.append(step_runner.attach(tries[2].operator.submit_job(tries[2].context)))
    told = r"waiting for 1 of the GPUs 0, GPU-b; held: 0 by process \d+ \(.*train runs/r/some_model.*\); GPU-b by process"
    wait_until(lambda: started[2].log.exists() and re.search(told, started[2].log.read_text()))
    # A keeper is killed, and its training goes on: the GPU is not free.
    first = next(call for call in commands() if call["command"][-1].startswith(started[0].folder))
    keeper = psutil.Process(started[0].pid)
    keeper.kill()
    keeper.wait()
    time.sleep(0.2)
    assert len(commands()) == 2
    psutil.Process(first["pid"]).kill()
    wait_until(lambda: len(commands()) == 3)
    assert commands()[2]["environment"]["CUDA_VISIBLE_DEVICES"] == first["environment"]["CUDA_VISIBLE_DEVICES"]
    for one in started[1:]:
        one.stop()
        wait_until(lambda one=one: one.outcome().status == step_runner.FAILED)


def test_step_that_waits_for_a_gpu_can_be_stopped_and_one_that_wants_too_many_says_so(
    workspace: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(workspace))
    monkeypatch.setenv("MASKLINE_LOCAL_GPUS", "0,1")
    with pytest.raises(AirflowFailException, match="takes 3 GPUs, and the worker has 2: 0, 1\n  fix: lower MASKLINE_GPUS_PER_TRAINING"):
        gpu_try(TaskStateStore(), slots=3).execute()
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(workspace / "never"))
    one, both = gpu_try(TaskStateStore()), gpu_try(TaskStateStore(), slots=2)
    holder = step_runner.attach(one.operator.submit_job(one.context))
    wait_until(commands)
    waiting = step_runner.attach(both.operator.submit_job(both.context))
    wait_until(lambda: waiting.log.exists() and "waiting for 2 of the GPUs" in waiting.log.read_text())
    waiting.stop()
    wait_until(lambda: waiting.outcome().exit_code == 128 + signal.SIGTERM)
    holder.stop()
    wait_until(lambda: holder.outcome().status == step_runner.FAILED)
    monkeypatch.delenv("FAKE_TRAINER_WAITS")
    assert gpu_try(TaskStateStore(), slots=2).execute()["status"] == "done"
    assert commands()[-1]["environment"]["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize(
    ("driver", "visible", "gpus"),
    [
        ("echo GPU-a; echo GPU-b", None, ["GPU-a", "GPU-b"]),
        ("echo GPU-a; echo GPU-b", "1", ["1"]),
        ("echo GPU-a", "", []),
        ("echo GPU-a", "-1", []),
        ("echo no devices were found; exit 6", None, []),
    ],
)
def test_gpus_of_a_machine_are_those_that_its_worker_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str, visible: str | None, gpus: list[str]
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{driver}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_here() == gpus


@pytest.mark.parametrize("text", ["0", "two", "-1", "1.5"])
def test_number_of_gpus_of_a_training_is_whole_and_above_zero(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MASKLINE_GPUS_PER_TRAINING", text)
    with pytest.raises(ValueError, match=f"MASKLINE_GPUS_PER_TRAINING is '{text}'"):
        gpus_per_training()


def test_another_process_with_the_same_number_is_not_the_step(workspace: Path) -> None:
    myself = psutil.Process()
    stranger = LocalProcess(host=os.uname().nodename, pid=myself.pid, started=myself.create_time() - 60, folder=str(workspace))
    assert stranger.outcome() == step_runner.Outcome(step_runner.LOST)
    stranger.stop()  # which would end this test, were it taken for the step


@pytest.mark.parametrize(
    ("run_name", "folder"),
    [("demo", "demo"), ("", "manual__2026-01-02T03-04-05-00-00")],
    ids=["given", "from the run id"],
)
def test_run_folder(workspace: Path, run_name: str, folder: str) -> None:
    assert run_dir(run_name, "manual__2026-01-02T03:04:05+00:00") == str(workspace / "runs" / folder)


@pytest.mark.parametrize("error", [AirflowTaskTimeout("Timeout"), OSError("the workspace is gone")])
def test_plan_that_does_not_come_stops_nothing(
    store: TaskStateStore,
    commands: Commands,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    monkeypatch.setenv("FAKE_TRAINER_WAITS", str(workspace / "never"))

    def interrupted(_self: StepOperator, _lines: list[str], _tail: Any) -> None:
        if commands():
            raise error

    monkeypatch.setattr(StepOperator, "_print", interrupted)
    result = Try(store, kind=Plan).execute()
    assert (result["status"], result["summary"]) == ("failed", {"reason": str(error)})
    # What was left running is told to end.
    wait_until(lambda: not psutil.pid_exists(commands()[0]["pid"]))


def test_a_workspace_in_a_store_is_named_as_every_machine_knows_it(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKLINE_WORKSPACE", "s3://bucket/maskline/")
    monkeypatch.setenv("MASKLINE_WORKING_COPIES", str(tmp_path))
    assert run_dir(" nightly ", "manual") == "s3://bucket/maskline/runs/nightly"
    assert storage.local_folder() == tmp_path / "s3/bucket/maskline"
    assert (
        storage.address(f"--result {storage.local_folder()}/steps/r/1/result.json") == "--result s3://bucket/maskline/steps/r/1/result.json"
    )
    assert storage.environment() == {"MASKLINE_WORKSPACE": "s3://bucket/maskline", "MASKLINE_WORKING_COPIES": str(tmp_path)}
    monkeypatch.setenv("MASKLINE_WORKSPACE", "memory://maskline")
    kept = storage.stored(storage.local_folder() / "steps/r/1/result.json")
    kept.write_text("{}")
    assert storage.stored(storage.local_folder() / "steps/r/1/result.json").read_text() == "{}"


def test_a_try_on_another_machine_has_another_folder_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: TaskStateStore
) -> None:
    folders: list[Path] = []

    def start(step: step_runner.Step) -> tuple[None, dict[str, str]]:
        folders.append(step.folder)
        return None, {}

    monkeypatch.setattr(step_runner, "start", start)
    monkeypatch.setenv("MASKLINE_WORKSPACE", "s3://bucket/maskline")
    for machine, number in (("one", 1), ("two", 2), ("one", 3), ("one", 3)):
        monkeypatch.setenv("MASKLINE_WORKING_COPIES", str(tmp_path / machine))
        attempt = Try(store, number)
        attempt.operator.submit_job(attempt.context)
    assert [folder.name for folder in folders] == ["1", "2", "3", "4"]
    assert {folder.relative_to(tmp_path).parts[1:4] for folder in folders} == {("s3", "bucket", "maskline")}
