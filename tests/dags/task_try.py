"""Tries of a task, for tests of what the operator does when one dies and the next one comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from maskline_airflow.step_operator import StepOperator


class TaskStateStore(dict[str, Any]):
    """What outlives a try of a task, as Airflow's own store does."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value

    def delete(self, key: str) -> None:
        self.pop(key, None)


class Try:
    """One try of one task: a fresh operator and task instance over the state that tries share."""

    def __init__(self, store: TaskStateStore, number: int = 1, kind: type[StepOperator] = StepOperator, pool: str = "default_pool") -> None:
        self.xcoms: dict[str, Any] = {}
        self.operator = kind(
            task_id="train",
            step="train",
            arguments=["runs/r/some_model"],
            options={"--steps": 7, "--learning-rate": 0.5, "--precision": None, "--proposals": ""},
            mlflow_url="http://mlflow.example/parent",
            pool=pool,
        )
        task_instance = SimpleNamespace(
            dag_id="mask_rcnn_zoo",
            run_id="manual__2026-01-02T03:04:05+00:00",
            task_id="backbone.train",
            map_index=3,
            try_number=number,
            stats_tags={},
            xcom_push=lambda key, value: self.xcoms.__setitem__(key, value),
        )
        self.context = {"ti": task_instance, "task_state_store": store}

    def execute(self) -> dict[str, Any]:
        # Past Airflow's guard, which wants a task runner around the call.
        return type(self.operator).execute.__wrapped__(self.operator, self.context)


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "waited five minutes in vain"
        time.sleep(0.02)
