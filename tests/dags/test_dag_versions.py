"""Airflow keeps a version of a DAG for each serialized form that it meets: two processes must serialize it alike."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DAGS = Path(__file__).resolve().parents[2] / "dags"


def serialize(hash_seed: int) -> dict[str, tuple[str, str]]:
    """The hash that Airflow compares, and the JSON, of each DAG as a fresh process has it."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("serialize_dags.py"), DAGS],
        env=os.environ | {"PYTHONPATH": str(DAGS), "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split(" ", 3) for line in done.stdout.splitlines() if line.startswith("serialized ")]
    return {dag_id: (digest, data) for _, dag_id, digest, data in lines}


@pytest.fixture(scope="module")
def two_processes() -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]]]:
    return serialize(1), serialize(2)


def test_every_dag_is_serialized_alike_by_two_processes(two_processes: tuple[dict[str, tuple[str, str]], ...]) -> None:
    first, second = ({name: digest for name, (digest, _) in dags.items()} for dags in two_processes)
    assert "mask_rcnn_zoo" in first
    assert first == second


def test_no_address_in_memory_is_serialized(two_processes: tuple[dict[str, tuple[str, str]], ...]) -> None:
    for name, (_, data) in two_processes[0].items():
        assert " object at 0x" not in data, name
