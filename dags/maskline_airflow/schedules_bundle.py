"""A DAG bundle of the schedules' files: one DAG file each, so that Airflow keeps their import errors and their DAGs apart.

    AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST='[...,
      {"name": "schedules", "classpath": "maskline_airflow.schedules_bundle.SchedulesBundle", "kwargs": {"refresh_interval": 30}}]'

Why a bundle: docs/decisions/0008-schedules.md.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from airflow.configuration import AIRFLOW_HOME
from airflow.dag_processing.bundles.base import BaseDagBundle

from maskline_airflow.schedule import schedule_files
from maskline_airflow.step_log import as_file_name

_DAG_FILE = '''"""Made of {file}, which is the file to change:

{text}
"""

from airflow.sdk import DAG
from maskline_airflow.champion import champion_dag
from maskline_airflow.retrain import retrain_dag

retrain: DAG | None = retrain_dag({file!r})
champion: DAG | None = champion_dag({file!r})
'''


class SchedulesBundle(BaseDagBundle):
    """Writes the DAG files into `$AIRFLOW_HOME/schedules/` whenever Airflow refreshes it: a folder of this machine, made anew by each."""

    supports_versioning = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._path = Path(AIRFLOW_HOME) / "schedules"

    @property
    def path(self) -> Path:
        return self._path

    def initialize(self) -> None:
        self.refresh()
        super().initialize()

    def refresh(self) -> None:
        """Makes the DAG files those of the schedules that there are; one whose schedule has not changed keeps its time of change."""
        self._path.mkdir(parents=True, exist_ok=True)
        files = schedule_files()
        wanted = {self._path / _file_name(file, files): dag_file(file) for file in files}
        for path, text in wanted.items():
            if not path.exists() or path.read_text() != text:
                _write(path, text)
        for path in self._path.glob("*.py"):
            if path not in wanted:
                path.unlink(missing_ok=True)

    def get_current_version(self) -> None:
        return None


def _file_name(schedule: Path, files: list[Path]) -> str:
    """Of two schedules with one name, which the later one is refused for, both have a file."""
    first = next(file for file in files if file.stem == schedule.stem)
    return f"{as_file_name(schedule.stem if schedule == first else str(schedule))}.py"


def dag_file(schedule: Path) -> str:
    """The DAG file of a schedule, with its text: Airflow shows it as the DAG's code, and reads the file again when it changes."""
    text = schedule.read_text(errors="replace") if schedule.is_file() else ""
    text = text.replace("\\", "\\\\").replace('"""', "'''")
    return _DAG_FILE.format(file=str(schedule), text=text.rstrip())


def _write(path: Path, text: str) -> None:
    """Whole or not at all: other processes of Airflow read it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    Path(temporary).replace(path)
