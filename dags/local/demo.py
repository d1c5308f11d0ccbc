"""Runs the DAG once through a real Airflow, shows what happens and prints the comparison.

    python demo.py configs/demo.yaml

Uses the stack that is up; where none is, brings one up, and down again at the end. Ends with 0 when the run succeeded,
with 1 when it failed, with 2 when the stack does not come up.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from airflow_rest import AirflowRest
from stack import DAG_ID, LOGIN, Settings, StackError, describe, down, up

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from maskline_airflow import storage
from maskline_airflow.step_log import LogReader, latest_log

LOOK_EVERY_SECONDS = 2.0
PATIENCE_SECONDS = 120.0
"""How long the api-server may stay silent on a busy machine before the demo gives up on it."""
FINISHED = {"success", "failed"}
SHOWN_STATES = {"running", "success", "failed", "up_for_retry", "upstream_failed", "skipped"}


class Follower:
    """Prints the changes of a run since the last look: states of its tasks, and new lines of their steps' logs."""

    def __init__(self, workspace: Path, run_id: str) -> None:
        self._workspace = workspace
        self._run_id = run_id
        self._began = time.monotonic()
        self._states: dict[tuple[str, int], str] = {}
        self._logs: dict[Path, LogReader] = {}

    def show(self, task_instances: list[dict[str, Any]]) -> None:
        for task in sorted(task_instances, key=lambda task: (task["start_date"] or "", task["task_id"])):
            key, name = (task["task_id"], task["map_index"]), self._name(task)
            changed = task["state"] != self._states.get(key) and task["state"] in SHOWN_STATES
            if changed and task["state"] == "running":
                self._say(f"{name}: running")
            for line in self._new_lines(task):
                self._say(f"{name} | {line}")
            if changed and task["state"] != "running":
                self._say(f"{name}: {task['state'].replace('_', ' ')}")
            self._states[key] = task["state"]

    def _new_lines(self, task: dict[str, Any]) -> Iterator[str]:
        log = latest_log(self._workspace, self._run_id, task["task_id"], task["map_index"])
        if log is not None:
            reader = self._logs.setdefault(log, LogReader(log))
            yield from reader.new_lines(whole=task["state"] not in ("running", None))

    def _name(self, task: dict[str, Any]) -> str:
        """`train mask_rcnn_resnet50_atrous_coco` for an instance of a mapped task, else the task's id."""
        short = task["task_id"].rpartition(".")[2]
        return f"{short} {task['rendered_map_index'] or task['map_index']}" if task["map_index"] >= 0 else short

    def _say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        print(f"{minutes:3d}:{seconds:02d}  {text}", flush=True)


def run(settings: Settings, conf: dict[str, Any]) -> tuple[bool, str | None]:
    """Triggers one run, follows it to its end and prints its comparison, if any.

    Returns whether it succeeded, and MLflow's page that shows its models side by side, where there is one.
    """
    airflow = AirflowRest(settings.airflow_url, LOGIN)
    run_id = airflow.trigger(DAG_ID, conf)
    print(f"\nrun {run_id}\n{describe(settings)}\n", flush=True)
    follower = Follower(storage.local_folder() if storage.is_remote() else settings.workspace, run_id)
    side_by_side: str | None = None
    state, silent_since = "queued", time.monotonic()
    while state not in FINISHED:
        time.sleep(LOOK_EVERY_SECONDS)
        try:
            state = airflow.run_state(DAG_ID, run_id)
            tasks = airflow.task_instances(DAG_ID, run_id)
        except OSError:
            if time.monotonic() - silent_since > PATIENCE_SECONDS:
                raise
            continue
        silent_since = time.monotonic()
        follower.show(tasks)
    if any(task["task_id"] == "compare" and task["state"] == "success" for task in tasks):
        comparison = Path(airflow.xcom(DAG_ID, run_id, "compare", "markdown"))
        print(f"\n{comparison.read_text()}\n({comparison})")
        side_by_side = airflow.xcom(DAG_ID, run_id, "compare", "return_value")["summary"].get("mlflow_url")
    print(f"\nthe run ended: {state}", flush=True)
    if side_by_side:
        print(f"its models side by side: {side_by_side}", flush=True)
    return state == "success", side_by_side


def main() -> int:
    conf = yaml.safe_load(Path(sys.argv[1]).read_text())
    settings = Settings.from_environment()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    started = False
    try:
        started = up(settings)
        succeeded, side_by_side = run(settings, conf)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if started:
            print("stopping Airflow and MLflow ...", flush=True)
            down(settings)
    if started:
        print(f"`make up` brings both back, with this run in them:\n{describe(settings)}")
        if side_by_side:
            print(f"         {side_by_side}")
    return 0 if succeeded else 1


if __name__ == "__main__":
    sys.exit(main())
