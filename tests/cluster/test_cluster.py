"""The demo's line on a small cluster whose scheduler and whose training machine die while it trains: `make cluster-test`."""

from __future__ import annotations

import json
import signal
import time
import traceback
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.training.step_file import StepFile
from tests.cluster.cluster import DAG_ID, Cluster
from tests.cluster.service import REPOSITORY, ClusterError
from tests.cluster.trainers import Trainer, Trainers, overlapping

pytestmark = pytest.mark.cluster

CONFIGS = ["mask_rcnn_inception_v2_coco", "mask_rcnn_resnet50_atrous_coco"]
STEPS, EVERY = 100, 50
RUN = "cluster"
TRAIN, EVALUATE, PART = "backbone.train", "backbone.evaluate", "materialize_part"
LIMIT_SECONDS = 1500.0


def settings() -> dict[str, Any]:
    """What is asked of the form: the demo's, for two of its configs, with fewer steps, and a data set in two parts."""
    demo = yaml.safe_load((REPOSITORY / "configs" / "demo.yaml").read_text())
    fields = [line for line in demo["config_fields"] if not line.startswith("mask_rcnn_")]
    smaller = {"steps": STEPS, "evaluate_every": f"{EVERY}", "batch_size": 2, "image_size": 64, "proposals": 16}
    parts = {"shards": 2, "shard_ranges": ["0:2", "2:4"]}
    return {**demo, "configs": CONFIGS, "run_name": RUN, "config_fields": fields, **smaller, **parts}


@dataclass
class Done:
    """What was done to the cluster, and when."""

    cluster: Cluster
    trainers: Trainers
    run_id: str = ""
    model: str = ""
    """The one whose training was disturbed"""
    under_scheduler: list[tuple[int, int]] = field(default_factory=list)
    """The process that trains and its last step, before the scheduler was killed and after another one lived"""
    killed: float = 0.0
    """When the worker was, in seconds since 1970"""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """What the trainer had written of its steps when it was killed"""
    checkpoint: int = 0
    """The step of the last checkpoint before it"""
    state: str = ""

    @property
    def index(self) -> int:
        ordered: list[str] = self.cluster.airflow.xcom(DAG_ID, self.run_id, "longest_first", "return_value")
        return ordered.index(self.model)

    def tries(self, task: str, index: int) -> list[dict[str, Any]]:
        path = f"/api/v2/dags/{DAG_ID}/dagRuns/{urllib.parse.quote(self.run_id)}/taskInstances/{task}/{index}/tries"
        return list(self.cluster.airflow._request("GET", path)["task_instances"])

    def stored(self, path: str) -> Any:
        """A path of the workspace."""
        return self.cluster.stored(f"{self.cluster.workspace_url}/{path}")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """The whole line, with its faults, to its end; the cluster still serves."""
    # So that nothing stays where this is told to stop.
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("told to stop", returncode=128 + signal.SIGTERM))
    try:
        cluster = Cluster(tmp_path_factory.mktemp("cluster"), say)
    except ClusterError as error:
        pytest.exit(f"{error}", returncode=2)
    try:
        cluster.start()
        trainers = Trainers(cluster.logs)
        with trainers.watched():
            found = Done(cluster, trainers)
            perform(found)
        yield found
    except (AssertionError, ClusterError, OSError) as error:
        # Every test here is about this one run.
        print(f"{cluster.tails()}\n{traceback.format_exc()}", flush=True)
        pytest.exit(f"{error}", returncode=1)
    finally:
        cluster.stop()


def perform(done: Done) -> None:
    """Triggers the run, and follows it; kills the scheduler and then the worker under the training that comes first."""
    cluster, follower = done.cluster, Follower(done)
    done.run_id = cluster.airflow.trigger(DAG_ID, settings())
    say(f"run {done.run_id}: {cluster.airflow_url}, user admin, password in {cluster.secret_file('airflow_admin_password')}")
    follower.until(lambda: bool(training(done)))
    done.model = training(done)
    say(f"{done.model} is at step {rows(done)[-1]['step']}: SIGKILL to the scheduler")
    done.under_scheduler.append(process_and_step(done))
    cluster.kill("airflow-scheduler")
    cluster.restart("airflow-scheduler")
    done.under_scheduler.append(process_and_step(done))
    say(f"{done.model} is at step {rows(done)[-1]['step']}")

    at_least = rows(done)[-1]["step"]
    follower.until(lambda: in_the_middle(done, at_least))
    count = cluster.kill("worker-gpu")
    done.killed, done.rows, done.checkpoint = time.time(), rows(done), max(checkpoints(done))
    say(f"SIGKILL to the worker of the queue gpu, {count} processes, at step {done.rows[-1]['step']}; last checkpoint {done.checkpoint}")
    cluster.replace_worker("gpu")
    follower.until(lambda: follower.state in ("success", "failed"))
    done.state = follower.state
    say(f"the run ended: {done.state}")


class Follower:
    """Says what becomes of the run's tasks."""

    def __init__(self, done: Done, tell: Callable[[str], None] = say, confirm: Callable[[], None] | None = None) -> None:
        """`confirm` is called at each look, by default to see that no service has ended by itself."""
        self._done = done
        self._say = tell
        self._confirm = confirm or done.cluster.confirm
        self._told: dict[tuple[str, int], tuple[str, int]] = {}
        self._limit = time.monotonic() + LIMIT_SECONDS
        self.state = ""

    def until(self, condition: Callable[[], bool]) -> None:
        """Returns when it holds; AssertionError where the run ends, or half an hour is over, without it."""
        while not condition():
            assert self.state not in ("success", "failed"), f"the run ended: {self.state}"
            assert time.monotonic() < self._limit, f"waited {LIMIT_SECONDS:.0f} s in vain"
            time.sleep(0.3)
            self._look()

    def _look(self) -> None:
        cluster, run_id = self._done.cluster, self._done.run_id
        self._confirm()
        try:
            self.state = cluster.airflow.run_state(DAG_ID, run_id)
            tasks = cluster.airflow.task_instances(DAG_ID, run_id)
        except OSError:  # a busy machine's; what is gone for good, the limit ends
            return
        for task in tasks:
            key, now = (task["task_id"], task["map_index"]), (task["state"], task["try_number"])
            if now != self._told.get(key) and task["state"] in (
                "running",
                "success",
                "failed",
                "up_for_retry",
                "upstream_failed",
                "skipped",
            ):
                index = f" {task['map_index']}" if task["map_index"] >= 0 else ""
                self._say(f"{task['task_id']}{index}: {task['state']}, try {task['try_number']}, {task['hostname']}, queue {task['queue']}")
                self._told[key] = now


def rows(done: Done, model: str | None = None) -> list[dict[str, Any]]:
    """The steps that were taken of a model, as they stand where the worker works; none where it has none."""
    files = list(done.cluster.copies("gpu").rglob(f"runs/{RUN}/{model or done.model}/train/metrics.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def training(done: Done) -> str:
    """The model that has taken steps."""
    return next((model for model in CONFIGS if rows(done, model)), "")


def checkpoints(done: Done) -> list[int]:
    """The steps of those that the workspace itself has."""
    return [int(file.name[5:-6]) for file in done.stored(f"runs/{RUN}/{done.model}/train").glob("ckpt-*.index")]


def in_the_middle(done: Done, at_least: int) -> bool:
    """Whether the training has a checkpoint to go on from, and has gone on from it for some steps."""
    saved, step = max(checkpoints(done), default=0), rows(done)[-1]["step"]
    assert step < STEPS, f"{done.model} was trained before its worker could be killed: this machine wants more STEPS"
    return saved > 0 and step >= max(saved + 3, at_least)


def process_and_step(done: Done) -> tuple[int, int]:
    return done.trainers.of(done.model)[-1].pid, rows(done)[-1]["step"]


def test_the_run_ends_green(done: Done) -> None:
    states = {task["state"] for task in done.cluster.airflow.task_instances(DAG_ID, done.run_id)}
    assert (done.state, states) == ("success", {"success"})


def test_trainings_ran_on_the_queue_gpu_and_both_workers_made_records_and_evaluated(done: Done) -> None:
    ran: dict[str, set[tuple[str, str]]] = {}
    for task in done.cluster.airflow.task_instances(DAG_ID, done.run_id):
        ran.setdefault(task["task_id"], set()).add((task["queue"], task["hostname"].rpartition("-")[0]))
    assert ran[TRAIN] == {("gpu", "worker-gpu")}
    assert ran[PART] == ran[EVALUATE] == {("default", "worker-default"), ("gpu", "worker-gpu")}
    others = ran.keys() - {TRAIN, PART, EVALUATE}
    assert {place for task in others for place in ran[task]} == {("default", "worker-default")}


def test_the_scheduler_s_death_disturbed_no_training(done: Done) -> None:
    (before, step), (after, later) = done.under_scheduler
    assert before == after
    assert later > step > 0


def test_the_worker_died_in_the_middle_and_its_training_alone_was_tried_again(done: Done) -> None:
    assert 0 < done.checkpoint < done.rows[-1]["step"] < STEPS
    tries = done.tries(TRAIN, done.index)
    assert [(one["state"], one["hostname"]) for one in tries] == [("failed", "worker-gpu-1"), ("success", "worker-gpu-2")]
    others = [
        task
        for task in done.cluster.airflow.task_instances(DAG_ID, done.run_id)
        if (task["task_id"], task["map_index"]) != (TRAIN, done.index)
    ]
    assert {task["try_number"] for task in others} == {1}


def test_it_went_on_from_its_checkpoint_and_every_step_counts_once(done: Done, tmp_path: Path) -> None:
    for model in CONFIGS:
        file = tmp_path / f"{model}.jsonl"
        file.write_bytes(done.stored(f"runs/{RUN}/{model}/train/metrics.jsonl").read_bytes())
        written = [json.loads(line) for line in file.read_text().splitlines()]
        before = [row["step"] for row in written if model != done.model or row["time"] <= done.killed]
        after = [row["step"] for row in written[len(before) :]]
        if model == done.model:
            # What was lost with the machine, since its last checkpoint, is all that was taken again.
            assert after == list(range(done.checkpoint + 1, STEPS + 1))
            assert done.checkpoint <= before[-1] <= done.rows[-1]["step"]
        else:
            assert after == []
        assert before == list(range(1, before[-1] + 1))
        assert [row["step"] for row in StepFile(file).rows()] == list(range(1, STEPS + 1))
    (log,) = done.stored("steps").glob(f"*/{TRAIN}.{done.index}/2/log.txt")
    assert f"training from step {done.checkpoint} to step {STEPS}" in log.read_text()


def test_no_two_processes_trained_one_model_at_a_time_and_none_trained_it_for_nothing(done: Done) -> None:
    for model in CONFIGS:
        trainers: list[Trainer] = done.trainers.of(model)
        assert len(trainers) == (2 if model == done.model else 1)
        assert overlapping(trainers) == []
    # One GPU: a worker of one process.
    assert overlapping(done.trainers.of()) == []


def test_mlflow_has_one_run_for_each_model_with_each_number_once(done: Done) -> None:
    experiments = mlflow(done, "experiments/search", {"max_results": 100})["experiments"]
    asked = {"experiment_ids": [one["experiment_id"] for one in experiments], "max_results": 1000}
    runs = mlflow(done, "runs/search", asked)["runs"]
    names = [run["info"]["run_name"] for run in runs]
    assert [names.count(model) for model in CONFIGS] == [1, 1]
    for run in runs:
        assert run["info"]["status"] == "FINISHED"
        if run["info"]["run_name"] in CONFIGS:
            steps = [point["step"] for point in history(done, run["info"]["run_id"], "Loss/total_loss")]
            assert steps == list(range(1, STEPS + 1))


def test_artifacts_and_the_comparison_are_in_the_store(done: Done) -> None:
    artifacts = done.cluster.stored("s3://mlflow/artifacts")
    assert any(artifacts.rglob("*.png"))
    compared = done.stored(f"runs/{RUN}/compare")
    text = "\n".join(file.read_text() for file in compared.glob("*.md"))
    assert all(model in text for model in CONFIGS)


def mlflow(done: Done, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{done.cluster.mlflow_url}/api/2.0/mlflow/{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
        return dict(json.load(response))


def history(done: Done, run_id: str, name: str) -> list[dict[str, Any]]:
    asked = urllib.parse.urlencode({"run_id": run_id, "metric_key": name, "max_results": 10000})
    url = f"{done.cluster.mlflow_url}/api/2.0/mlflow/metrics/get-history?{asked}"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=60) as response:
        return list(json.load(response)["metrics"])
