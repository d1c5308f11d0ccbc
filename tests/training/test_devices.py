"""The same training on one device, on two, and on two machines of which one is killed: the same losses."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from official.core import config_definitions as cfg

from tasks.checkpoints.own_checkpoint import written_checkpoints
from tasks.running.errors import UserError
from tasks.training.cluster import LEFT, Cluster
from tasks.training.devices import Devices, Together
from tasks.training.experiment import mask_rcnn_zoo
from tasks.training.overrides import adapt_to_machine
from tasks.training.step_file import StepFile
from tests.training.trained_on_devices import CONFIG_NAME, OPTIONS, STEPS, losses

PROGRAM = Path(__file__).with_name("trained_on_devices.py")
REPOSITORY = PROGRAM.parents[2]
# Survivors have it from TensorFlow within some ten seconds, on a machine that is free.
SECONDS_TO_NOTICE = 120
TWO = Cluster(("a:1", "b:2"), 1)


def experiment(batch_size: int = 4) -> cfg.ExperimentConfig:
    made = mask_rcnn_zoo()
    made.task.train_data.global_batch_size = batch_size
    return made


@pytest.mark.parametrize(
    ("gpus", "devices", "cluster", "strategy", "num_gpus"),
    [
        (0, Devices(), None, "one_device", 0),
        (1, Devices(), None, "one_device", 1),
        (4, Devices(), None, "mirrored", 4),
        (4, Devices(gpus=2), None, "mirrored", 2),
        (4, Devices(gpus=0), None, "one_device", 0),
        (4, Devices(strategy="one_device"), None, "one_device", 1),
        (1, Devices(strategy="mirrored"), None, "mirrored", 1),
        (0, Devices(), TWO, "multi_worker_mirrored", 0),
        (2, Devices(), TWO, "multi_worker_mirrored", 2),
    ],
)
def test_the_strategy_is_that_of_the_devices(gpus: int, devices: Devices, cluster: Cluster | None, strategy: str, num_gpus: int) -> None:
    made = experiment()
    adapt_to_machine(made, gpus, devices, cluster)
    assert (made.runtime.distribution_strategy, made.runtime.num_gpus) == (strategy, num_gpus)
    assert (made.runtime.worker_hosts, made.runtime.task_index) == (("a:1,b:2", 1) if cluster else (None, -1))


@pytest.mark.parametrize(
    ("gpus", "devices", "cluster", "batch_size", "told"),
    [
        (1, Devices(gpus=2), None, 4, "--gpus is 2, and TensorFlow sees 1"),
        (3, Devices(), None, 4, "--batch-size 4 cannot be split over 3 GPUs\n  fix: give a multiple of 3, or use fewer GPUs"),
        (0, Devices(), TWO, 3, "--batch-size 3 cannot be split over 2 workers\n  fix: give a multiple of 2"),
        (2, Devices(), TWO, 6, "--batch-size 6 cannot be split over 2 workers of 2 GPUs\n  fix: give a multiple of 4"),
        (2, Devices(strategy="mirrored"), TWO, 4, "--strategy is mirrored, and there are 2 workers"),
        (2, Devices(strategy="multi_worker_mirrored"), None, 4, "--strategy is multi_worker_mirrored, and there is one worker"),
        (2, Devices(all_reduce_alg="ring"), None, 4, "--all-reduce-alg is 'ring', and the strategy mirrored\n  fix: use one of nccl, hier"),
        (1, Devices(all_reduce_alg="nccl"), None, 4, "--all-reduce-alg is 'nccl', and the strategy one_device\n  fix: leave it out"),
    ],
)
def test_what_the_devices_cannot_do_is_refused(gpus: int, devices: Devices, cluster: Cluster | None, batch_size: int, told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        adapt_to_machine(experiment(batch_size), gpus, devices, cluster)


def test_unknown_strategies_are_refused() -> None:
    with pytest.raises(UserError, match="--strategy is 'tpu'"):
        Devices(strategy="tpu")
    with pytest.raises(UserError, match="--gpus is -1"):
        Devices(gpus=-1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("devices")


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, PROGRAM, folder], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {**json.loads(done.stdout.splitlines()[-1]), "told": done.stdout}


def test_two_devices_go_on_where_one_was_with_the_losses_that_it_has(trained: dict[str, Any]) -> None:
    assert len(trained["one"]) == STEPS
    # All five losses have something to say.
    assert all(trained["one"][0].values())
    assert trained["told"].count("2 replicas take 1 of each 2 images") == 1
    assert "training from step 1 to step 4" in trained["told"]
    for step, (one, after) in enumerate(zip(trained["one"], trained["two_after_one"], strict=True), start=1):
        assert after == pytest.approx(one, rel=1e-5), f"step {step}"
    # Of the first step on two devices alone: later ones begin with weights that differ in their last bits, at which a gradient can jump.
    norms = trained["norms"]
    assert norms["two_after_one"][1] == pytest.approx(norms["one"][1], rel=1e-5)


class Workers:
    """Two processes of `maskline train` on loopback, started together."""

    def __init__(self, root: Path, attempt: str) -> None:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        hosts = ",".join(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
        for each in sockets:
            each.close()
        self.logs = [root / f"{attempt}-{index}.log" for index in range(2)]
        command = [sys.executable, "-m", "tasks", "train", str(root / CONFIG_NAME), *OPTIONS, "--worker-hosts", hosts, "--task-index"]
        environment = os.environ | {"MASKLINE_WORKSPACE": str(root), "TF_CONFIG": "", "MLFLOW_TRACKING_URI": ""}
        self.processes = []
        for index, log in enumerate(self.logs):
            with log.open("w") as out:
                self.processes.append(
                    subprocess.Popen([*command, str(index)], cwd=REPOSITORY, env=environment, stdout=out, stderr=subprocess.STDOUT)
                )

    def codes(self, seconds: float) -> list[int]:
        return [process.wait(seconds) for process in self.processes]

    def told(self) -> str:
        return "\n".join(log.read_text()[-3000:] for log in self.logs)


def test_two_workers_have_the_losses_of_one_device_though_one_is_killed(folder: Path, trained: dict[str, Any]) -> None:
    train = folder / CONFIG_NAME / "train"
    killed = Workers(folder, "killed")
    try:
        while not written_checkpoints(train):
            assert [process.poll() for process in killed.processes] == [None, None], killed.told()
            time.sleep(0.05)
        killed.processes[1].kill()
        assert killed.processes[1].wait() == -signal.SIGKILL
        # The orchestrator's sign to start both again.
        assert killed.processes[0].wait(SECONDS_TO_NOTICE) == LEFT, killed.told()
    finally:
        for process in killed.processes:
            process.kill()
    assert "another worker is gone; TensorFlow says: " in killed.logs[0].read_text()
    reached = len(losses(train))
    assert 1 <= reached < STEPS
    again = Workers(folder, "again")
    try:
        assert again.codes(600) == [0, 0], again.told()
    finally:
        for process in again.processes:
            process.kill()
    assert "training from step 0 " not in again.told()
    rows = losses(train)
    for step, (one, two) in enumerate(zip(trained["one"], rows, strict=True), start=1):
        assert two == pytest.approx(one, rel=1e-5), f"step {step}"
    # The chief's alone, each step once.
    assert [row["step"] for row in StepFile(train / "metrics.jsonl").rows()] == [1, 2, 3, 4]
    assert json.loads((train / "result.json").read_text())["steps"] == STEPS
    assert {file.name for file in (folder / CONFIG_NAME).glob("*.log")} == {"tensorflow.log", "tensorflow-worker-1.log"}


def test_a_single_worker_decides_alone() -> None:
    together = Together(None, None)  # type: ignore[arg-type]
    assert together.is_chief
    assert (together.any(False), together.any(True), together.of_chief(3.5)) == (False, True, 3.5)
    together.confirm_same("anything")
