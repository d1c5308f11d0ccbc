"""Where this deployment has tasks run otherwise than their DAGs say; Airflow's scheduler imports it by this name."""

from __future__ import annotations

from typing import Any

SPREAD = ("materialize_part", "backbone.evaluate")
QUEUES = ("default", "gpu")


def task_instance_mutation_hook(task_instance: Any, dag_run: Any) -> None:
    """Parts of a data set, and evaluations, go to the queues in turn. Airflow asks whenever it makes a task or a try of one."""
    if task_instance.task_id in SPREAD and task_instance.map_index >= 0:
        task_instance.queue = QUEUES[task_instance.map_index % len(QUEUES)]
