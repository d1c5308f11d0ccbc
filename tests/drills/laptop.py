"""The stack of `make up`, and a small run on it whose parts are killed."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import yaml

from tasks.running.workspace import ModelDir
from tasks.training.step_file import StepFile
from tests.drills.left import TOTAL_LOSS, rows_of
from tests.drills.processes import PATIENCE, REPOSITORY, free_port

sys.path.append(str(REPOSITORY / "dags" / "local"))
from airflow_rest import AirflowRest

DAG_ID, RUN, CONFIG = "mask_rcnn_zoo", "drill", "mask_rcnn_inception_v2_coco"
STEPS, EVERY = 160, 40
LOGIN = ("admin", "admin")
TRAIN = "backbone.train"
_MARK = "MASKLINE_STACK"
_TOLD = ("running", "success", "failed", "up_for_retry", "upstream_failed")


class Laptop:
    """Airflow and MLflow as `make up` starts them, in a workspace below `folder`; `say` is told what becomes of the run's tasks."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.workspace = folder / "workspace"
        self.model = ModelDir(self.workspace / "runs" / RUN / CONFIG)
        self._say = say
        self._ports = {"MASKLINE_AIRFLOW_PORT": free_port(), "MASKLINE_MLFLOW_PORT": free_port()}
        self._rest: AirflowRest | None = None
        self._run_id = ""
        self._seen: set[tuple[str, str, int]] = set()
        self.trainers: list[int] = []
        """The processes that have trained, in their order"""

    @contextmanager
    def serving(self) -> Iterator[None]:
        """The stack, which does not outlive the block."""
        try:
            self.up()
            yield
        finally:
            self._stack("down")

    def up(self) -> None:
        """`make up`."""
        done = self._stack("up")
        if done.returncode:
            raise RuntimeError(f"the stack does not come up: {done.stdout[-500:]}")

    def begin(self) -> None:
        """Triggers a run of one small model on generated pictures."""
        demo = yaml.safe_load((REPOSITORY / "configs" / "demo.yaml").read_text())
        fields = [line for line in demo["config_fields"] if not line.startswith("mask_rcnn_")]
        small = {"steps": STEPS, "evaluate_every": f"{EVERY}", "batch_size": 2, "image_size": 64, "proposals": 16}
        self._run_id = self.airflow.trigger(DAG_ID, {**demo, "configs": [CONFIG], "run_name": RUN, "config_fields": fields, **small})

    @property
    def airflow(self) -> AirflowRest:
        if self._rest is None:
            self._rest = AirflowRest(f"http://127.0.0.1:{self._ports['MASKLINE_AIRFLOW_PORT']}", LOGIN)
        return self._rest

    def in_the_middle(self) -> bool:
        """Whether the training has taken a few steps behind its first measured checkpoint."""
        return EVERY + 3 <= self.step() < STEPS - EVERY

    def step(self) -> int:
        """The last one whose figures are written."""
        return max((row["step"] for row in list(rows_of(self.model))[-1:]), default=0)

    def ended(self) -> bool:
        return self.state() in ("success", "failed")

    def state(self) -> str:
        """Of the run, "" while nobody answers."""
        try:
            return self.airflow.run_state(DAG_ID, self._run_id)
        except OSError:
            return ""

    def tries(self) -> dict[str, int]:
        """Of each task, how often it was begun."""
        return {task["task_id"]: task["try_number"] for task in self.airflow.task_instances(DAG_ID, self._run_id)}

    def clear(self, task_id: str) -> None:
        """As a person does on the page: this task runs again, and what comes after it."""
        asked = {"dry_run": False, "task_ids": [task_id], "only_failed": False, "include_downstream": True, "dag_run_id": self._run_id}
        self.airflow._request("POST", f"/api/v2/dags/{DAG_ID}/clearTaskInstances", asked)

    def last_words(self, task_id: str) -> str:
        """What the newest try of a task has as its error."""
        logs = sorted((self.workspace / "steps").glob(f"*/{task_id}.0/*/log.txt"), key=lambda file: int(file.parent.name))
        return next((line for line in reversed(logs[-1].read_text().splitlines()) if line.startswith("error:")), "") if logs else ""

    def until(self, condition: Callable[[], bool]) -> None:
        """TimeoutError after half an hour, RuntimeError where the run ends without it."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.look()
            if self.ended() and not condition():
                raise RuntimeError(f"the run ended meanwhile: {self.state()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {PATIENCE:.0f} s; the run is {self.state() or 'unknown: nobody answers'}")
            time.sleep(0.2)

    def look(self) -> None:
        """Tells what is new of the run's tasks, and sees who trains."""
        with contextlib.suppress(OSError):
            for task in self.airflow.task_instances(DAG_ID, self._run_id):
                key = (task["task_id"], f"{task['state']}", task["try_number"])
                if task["state"] in _TOLD and key not in self._seen:
                    self._seen.add(key)
                    self._say(f"{key[0]}: {key[1]}, try {key[2]}")
        for process in self._trainers():
            if process.pid not in self.trainers:
                self.trainers.append(process.pid)

    # Whom to strike.

    def trainer(self) -> psutil.Process:
        """The process that trains."""
        return self._trainers()[0]

    def task(self) -> psutil.Process:
        """The process of the Airflow task that watches the training: the parent of the step's keeper."""
        found = self._keeper(self.trainer()).parent()
        assert found is not None
        return found

    def worker(self) -> psutil.Process:
        """The executor's process that supervises the task."""
        found = self.task().parent()
        assert found is not None
        return found

    def scheduler(self) -> psutil.Process:
        return self._program("scheduler")

    def mlflow(self) -> psutil.Process:
        return self._program("server")

    def everything(self) -> list[psutil.Process]:
        """All that `make up` has started, and the steps, and supervisord itself."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get(_MARK) == f"{self.workspace / 'airflow'}":
                    found.append(process)
        return found

    # What has come of it.

    def problems(self) -> list[str]:
        """What is not as it should be after a run that was disturbed."""
        found = [] if self.state() == "success" else [f"the run ended {self.state()}: {self.last_words(TRAIN)}"]
        steps = [row["step"] for row in StepFile(self.model.train / "metrics.jsonl").rows()]
        if steps != list(range(1, STEPS + 1)):
            found.append(f"of {STEPS} steps {len(set(steps))} count")
        with sqlite3.connect(self.workspace / "mlflow.db") as database:
            question = "SELECT step FROM metrics WHERE key = ? ORDER BY rowid"
            sent = [step for (step,) in database.execute(question, (TOTAL_LOSS,))]
            runs = list(database.execute("SELECT name, status FROM runs WHERE lifecycle_stage = 'active'"))
        if sent != list(range(1, STEPS + 1)):
            found.append(f"MLflow has {len(sent)} losses of {len(set(sent))} steps")
        if sorted(runs) != sorted([(RUN, "FINISHED"), (CONFIG, "FINISHED")]):
            found.append(f"MLflow's runs are {runs}")
        if self.everything_trains():
            found.append("a trainer is left running")
        return found

    def everything_trains(self) -> bool:
        return bool(self._trainers())

    def kept(self) -> str:
        tries = {name: number for name, number in self.tries().items() if number > 1}
        again = ", ".join(f"{name} {number} tries" for name, number in sorted(tries.items())) or "no task tried again"
        trained = f"{len(self.trainers)} process{'es' if len(self.trainers) > 1 else ''} trained"
        return f"the run ended well, {again}, {trained}; each of {STEPS} steps counts once, and is once in MLflow"

    def _trainers(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [process for process in self.everything() if process.cmdline()[1:4] == ["-m", "tasks", "train"]]
        return []

    def _keeper(self, process: psutil.Process) -> psutil.Process:
        return next(parent for parent in process.parents() if any("step_keeper.py" in word for word in parent.cmdline()))

    def _program(self, word: str) -> psutil.Process:
        """One of supervisord's, by the word that follows its name."""
        return next(one for one in self.everything() if word in one.cmdline()[:4] and "supervisord" in f"{one.parent().cmdline()}")

    def _stack(self, what: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "MASKLINE_", "MLFLOW_"))}
        environment |= {"MASKLINE_WORKSPACE": f"{self.workspace}", **{name: f"{port}" for name, port in self._ports.items()}}
        command = [f"{REPOSITORY / 'dags/.venv/bin/python'}", f"{REPOSITORY / 'dags/local/stack.py'}", what]
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
