"""How Airflow calls the machine that a task ran on: by the name that the cluster gave it, since all are on one."""

from __future__ import annotations

import os


def machine_name() -> str:
    return os.environ["CLUSTER_MACHINE"]
