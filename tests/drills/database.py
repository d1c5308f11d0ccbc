"""The database of Airflow and MLflow is restarted under a run, on the cluster of `make cluster-test`."""

from __future__ import annotations

import time

from tasks.training.step_file import STEP
from tests.cluster.cluster import Cluster
from tests.cluster.service import ClusterError
from tests.cluster.test_cluster import CONFIGS, RUN, STEPS, Done, Follower, history, mlflow, rows, settings
from tests.cluster.trainers import Trainers
from tests.drills.drill import Bench, Drill, Found, verdict

_SECONDS_AWAY = 20.0
_MODEL = CONFIGS[0]


def _restarted(bench: Bench) -> Found:
    try:
        cluster = Cluster(bench.folder / "cluster", bench.say)
    except ClusterError as error:
        return Found(f"there is no cluster here: {' '.join(str(error).split())}", None, 0)
    try:
        cluster.start()
        trainers = Trainers(cluster.logs)
        with trainers.watched():
            return _struck(bench, Done(cluster, trainers, model=_MODEL))
    finally:
        cluster.stop()


def _struck(bench: Bench, done: Done) -> Found:
    cluster, started = done.cluster, list[str]()

    def start_again() -> None:
        for name in cluster.restart_ended():
            started.append(name)
            bench.say(f"{name} had ended, and is started again")

    follower = Follower(done, bench.say, start_again)
    done.run_id = cluster.airflow.trigger("mask_rcnn_zoo", {**settings(), "configs": [_MODEL]})
    follower.until(lambda: len(rows(done)) > STEPS // 6)
    before = rows(done)[-1][STEP]
    # What does not end while its clients stay, is killed.
    cluster.services["postgres"].end()
    bench.say(f"PostgreSQL ended after step {before}")
    time.sleep(_SECONDS_AWAY)
    after = rows(done)[-1][STEP]
    cluster.restart("postgres")
    bench.say(f"PostgreSQL serves again after step {after}")
    follower.until(lambda: follower.state in ("success", "failed"))
    tries = {task["task_id"]: task["try_number"] for task in cluster.airflow.task_instances("mask_rcnn_zoo", done.run_id)}
    again = [f"{name} {number} tries" for name, number in sorted(tries.items()) if number > 1]
    counted = sorted({row[STEP] for row in rows(done)})
    told, kept = verdict(
        f"the run ended {follower.state}" if follower.state != "success" else None,
        f"{len(done.trainers.of())} processes trained" if len(done.trainers.of()) != 1 else None,
        f"no step was taken while it was away: {before}, {after}" if after <= before else None,
        f"of {STEPS} steps {len(counted)} count" if counted != list(range(1, STEPS + 1)) else None,
        _not_in_mlflow(done),
    )
    happened = (
        f"ended after step {before}, there again after step {after}; the run ended well, {', '.join(again) or 'no task tried again'}, "
    )
    return Found(told or f"{happened}1 process trained; each of {STEPS} steps counts once, and is once in MLflow", kept)


def _not_in_mlflow(done: Done) -> str | None:
    experiments = mlflow(done, "experiments/search", {"max_results": 100})["experiments"]
    asked = {"experiment_ids": [one["experiment_id"] for one in experiments], "max_results": 1000}
    runs = {run["info"]["run_name"]: run["info"] for run in mlflow(done, "runs/search", asked)["runs"]}
    if {name: info["status"] for name, info in runs.items()} != {RUN: "FINISHED", _MODEL: "FINISHED"}:
        return f"MLflow's runs are {sorted((name, info['status']) for name, info in runs.items())}"
    steps = [point["step"] for point in history(done, runs[_MODEL]["run_id"], "Loss/total_loss")]
    return None if steps == list(range(1, STEPS + 1)) else f"MLflow has {len(steps)} losses of {len(set(steps))} steps"


DRILLS = [
    Drill(
        "airflow-database",
        f"PostgreSQL, which holds Airflow's and MLflow's records, is ended among the steps of a training on the cluster of "
        f"`make cluster-test`, and started again after {_SECONDS_AWAY:.0f} s; services that end are started again, as an engine does",
        "training goes on meanwhile; the run ends well by itself, each step counts once and is once in MLflow",
        _restarted,
    )
]
