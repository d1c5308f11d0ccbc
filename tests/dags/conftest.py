"""These tests run in the Airflow environment, on a metadata database and a workspace of their own."""

from __future__ import annotations

import atexit
import importlib
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DAGS = REPOSITORY / "dags"

# Airflow reads its settings when it is imported.
_home = tempfile.mkdtemp(prefix="maskline-airflow-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
for _name in [name for name in os.environ if name.startswith(("AIRFLOW", "MASKLINE"))]:
    del os.environ[_name]
sys.path[:0] = [str(DAGS), str(DAGS / "local")]
stack = importlib.import_module("stack")
assert "airflow" not in sys.modules, "the local stack makes the settings that Airflow reads when it is imported"
os.environ |= {
    "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(stack.BUNDLES),
    "AIRFLOW_HOME": _home,
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "True",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_home}/airflow.db",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "AIRFLOW__API__BASE_URL": "http://airflow.example",
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace in which the fake trainer answers for the real one."""
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("MASKLINE_TRAINER", shlex.join([sys.executable, "-I", str(Path(__file__).parent / "fake_trainer.py")]))
    return tmp_path


@pytest.fixture
def commands(workspace: Path) -> Callable[[], list[dict[str, Any]]]:
    """Reads what the fake trainer was called with so far: `command`, `environment` and `pid` of each call."""

    def read() -> list[dict[str, Any]]:
        file = workspace / "commands.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    return read


@pytest.fixture(scope="session")
def airflow_database() -> None:
    from airflow.utils.db import resetdb

    resetdb()
