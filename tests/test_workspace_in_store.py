"""The whole line on a workspace in a server of the S3 protocol; each step runs on a machine of its own, which is a folder of copies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs
import tensorflow as tf
from moto.server import ThreadedMotoServer

from tests.tracking.mlflow_server import Server

CONFIG = "mask_rcnn_inception_v2_coco"
URL = "s3://data/ws"
SMALL = ["--image-size", "64", "--batch-size", "2", "--proposals", "8", "--deterministic"]
STEPS = 120

pytestmark = pytest.mark.slow


class Machines:
    """Runs commands, each in a process with the copies and the home of the machine that is named."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment

    def start(self, machine: str, *words: str) -> subprocess.Popen[str]:
        home = self._folder / machine
        home.mkdir(exist_ok=True)
        environment = {**os.environ, **self._environment, "HOME": str(home), "MASKLINE_WORKING_COPIES": str(home / "copies")}
        command = [sys.executable, "-m", "tasks", *words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, machine: str, *words: str) -> str:
        process = self.start(machine, *words)
        printed, _ = process.communicate(timeout=600)
        assert process.returncode == 0, printed
        assert str(self._folder) not in printed, "a path of one machine says nothing to a person on another"
        return printed

    def copy(self, machine: str) -> Path:
        return self._folder / machine / "copies/s3/data/ws"


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    server, folder = ThreadedMotoServer("127.0.0.1", 0, verbose=False), tmp_path_factory.mktemp("machines")
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    mlflow = Server(folder)
    mlflow.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("data")
        yield Machines(folder, {**settings, "MASKLINE_WORKSPACE": URL, "MLFLOW_TRACKING_URI": mlflow.url})
    mlflow.kill()
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def dataset(machines: Machines) -> str:
    machines.run("reader", "materialize", "configs/datasets/shapes.yaml")
    return f"{URL}/datasets/shapes"


def read(name: str) -> bytes:
    content: bytes = s3fs.S3FileSystem(skip_instance_cache=True).cat_file(f"data/ws/{name}")
    return content


def later_checkpoints(run: str) -> list[str]:
    """Those behind the first, which is written as soon as the training has begun."""
    store = s3fs.S3FileSystem(skip_instance_cache=True)
    return [file for file in store.glob(f"data/ws/runs/{run}/{CONFIG}/train/ckpt-*.index") if not file.endswith("/ckpt-2.index")]


def weights(train: Path) -> dict[str, Any]:
    found = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(train)))
    return {name: found.get_tensor(name) for name in found.get_variable_to_shape_map() if "model/" in name}


def test_the_line_goes_through_with_every_step_on_a_machine_of_its_own(machines, dataset):
    run = f"{URL}/runs/line"
    machines.run("opener", "open-run", run, "--dataset", dataset)
    machines.run("converter", "convert", CONFIG, "--dataset", dataset, "--output", f"{run}/{CONFIG}")
    machines.run("planner", "plan", f"{run}/{CONFIG}", "--count-only", "--steps", "6", *SMALL[:6])
    machines.run("trainer", "train", f"{run}/{CONFIG}", "--steps", "6", *SMALL)
    machines.run("evaluator", "evaluate", f"{run}/{CONFIG}")
    printed = machines.run("comparer", "compare", run)
    assert f"page: {run}/compare/comparison.html" in printed
    (row,) = json.loads(read("runs/line/compare/comparison.json"))["rows"]
    assert (row["config"], row["state"]) == (CONFIG, "evaluated")
    assert f"input_path: {dataset}/train.record" in read(f"runs/line/{CONFIG}/experiment.yaml").decode()
    # Who only compares has no use for weights.
    assert not list(machines.copy("comparer").rglob("*.data-*"))
    assert "train: skipped" in machines.run("another trainer", "train", f"{run}/{CONFIG}", "--steps", "6", *SMALL)
    told = machines.run("cleaner", "gc")
    assert "stays    runs/line: written to" in told


def test_a_training_killed_on_one_machine_goes_on_on_another_to_the_same_weights(machines, dataset):
    for name in ("struck", "whole"):
        machines.run("converter", "convert", CONFIG, "--dataset", dataset, "--output", f"{URL}/runs/{name}/{CONFIG}")
    words = ("train", f"{URL}/runs/struck/{CONFIG}", "--steps", str(STEPS), *SMALL)
    first = machines.start("first", *words)
    deadline = time.monotonic() + 400
    while not later_checkpoints("struck"):
        assert first.poll() is None
        assert time.monotonic() < deadline, "no checkpoint came to the store while it trained"
        time.sleep(0.5)
    first.kill()
    first.communicate()
    # Its lease is left behind.
    assert json.loads(read(f"runs/struck/{CONFIG}/.lease.json"))["process"] == first.pid
    printed = machines.run("second", *words)
    assert "of which nothing was heard for 45 s: it is taken over" in printed
    assert "training from step 0 to" not in printed
    machines.run("whole", "train", f"{URL}/runs/whole/{CONFIG}", "--steps", str(STEPS), *SMALL)
    struck = weights(machines.copy("second") / f"runs/struck/{CONFIG}/train")
    whole = weights(machines.copy("whole") / f"runs/whole/{CONFIG}/train")
    assert struck.keys() == whole.keys()
    assert [name for name in whole if not np.array_equal(struck[name], whole[name])] == []
    # What the first machine has left is not what the model is by now.
    assert "train: skipped" in machines.run("first", *words)
