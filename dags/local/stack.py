"""Airflow and the MLflow server on this machine: `python stack.py up` and `python stack.py down`.

Both listen on 127.0.0.1 only, for the login is one that everybody knows. Settings from the environment:

    MASKLINE_WORKSPACE      where everything is written; default `<repository>/workspace`. Of a URL, what Airflow and MLflow keep themselves
                            is in the default nonetheless
    MASKLINE_AIRFLOW_PORT   default 8080
    MASKLINE_MLFLOW_PORT    default 5000
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
from airflow_rest import AirflowRest, answers_ok
from mlflow_rest import experiment_pages

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from maskline_airflow import storage
from maskline_airflow.machine_gpus import gpus_here

REPOSITORY = Path(__file__).resolve().parents[2]
LOGIN = ("admin", "admin")
DAG_ID = "mask_rcnn_zoo"

READY_SECONDS = 600.0
"""A cold start on a slow and busy machine takes minutes; on an idle one about half a minute."""
STOP_SECONDS = 90.0
"""More than a step may take to write its checkpoint, and more than supervisord gives the scheduler."""

_MLFLOW = REPOSITORY / ".venv/bin/mlflow"
_AIRFLOW = REPOSITORY / "dags/.venv/bin/airflow"
_SUPERVISORD = REPOSITORY / "dags/.venv/bin/supervisord"
_TOOLS = (_MLFLOW, _AIRFLOW, _SUPERVISORD)

_MARK = "MASKLINE_STACK"
"""In the environment of every process of the stack, so that `down` finds also those that lost their parent."""


BUNDLES = [
    {"name": "dags-folder", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", "kwargs": {}},
    {"name": "schedules", "classpath": "maskline_airflow.schedules_bundle.SchedulesBundle", "kwargs": {"refresh_interval": 15}},
]
"""The DAG files of this repository, and one for each schedule. New schedules are looked for every 15 seconds."""


class StackError(Exception):
    """What a person has to mend before the stack can run."""


@dataclass(frozen=True)
class Settings:
    workspace: Path
    airflow_port: int
    mlflow_port: int

    @classmethod
    def from_environment(cls) -> Settings:
        return cls(
            workspace=REPOSITORY / "workspace" if storage.is_remote() else storage.local_folder(),
            airflow_port=int(os.environ.get("MASKLINE_AIRFLOW_PORT") or 8080),
            mlflow_port=int(os.environ.get("MASKLINE_MLFLOW_PORT") or 5000),
        )

    @property
    def airflow_home(self) -> Path:
        return self.workspace / "airflow"

    @property
    def airflow_url(self) -> str:
        return f"http://127.0.0.1:{self.airflow_port}"

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def passwords(self) -> Path:
        return self.airflow_home / "passwords.json"

    def process_environment(self) -> dict[str, str]:
        """The environment of every process of the stack, and thereby of the steps."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW") or name.startswith("AIRFLOW_CONN_")
        }
        # Tasks reach the api-server directly, whatever proxy the machine has.
        unproxied = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1"]))
        return inherited | {
            _MARK: str(self.airflow_home),
            "NO_PROXY": unproxied,
            "no_proxy": unproxied,
            "SPT_NOENV": "1",  # setproctitle must leave the mark readable in /proc/<pid>/environ
            "MASKLINE_REPOSITORY": str(REPOSITORY),
            "MASKLINE_WORKSPACE": storage.workspace() if storage.is_remote() else str(self.workspace),
            "MASKLINE_STACK_FOLDER": str(self.workspace),
            "MASKLINE_AIRFLOW_PORT": str(self.airflow_port),
            "MASKLINE_MLFLOW_PORT": str(self.mlflow_port),
            "MASKLINE_MLFLOW_UI": self.mlflow_url,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # ten more processes, for features that are not used here
            "AIRFLOW_HOME": str(self.airflow_home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(BUNDLES),
            "PYTHONPATH": str(REPOSITORY / "dags"),  # where every part of Airflow finds the class of the second bundle
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            # One task more than train, which does not wait for them.
            "AIRFLOW__CORE__PARALLELISM": str(trainings_at_a_time() + 1),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.airflow_url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{LOGIN[0]}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.passwords),
            "AIRFLOW__API__BASE_URL": self.airflow_url,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.airflow_home}/airflow.db",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            # The default of 5 s fails the first tasks where a cold api-server shares two cores with a training.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        }


def trainings_at_a_time() -> int:
    """As many as there are GPUs, each of which is one training's; without any two, if there are cores for them.

    On a CPU the first minute of a training, its imports and its graph, takes one core alone: another one uses the rest meanwhile.
    """
    return len(gpus_here()) or min(2, os.cpu_count() or 1)


def up(settings: Settings) -> bool:
    """Brings the stack up and returns True, or False when it is up already.

    Raises StackError, leaving nothing running, when a port is taken, an environment is missing or a process does not
    come up.
    """
    if _supervisor(settings) is not None:
        _wait_until_ready(settings)
        return False
    for tool in _TOOLS:
        if not tool.exists():
            raise StackError(f"{tool} is missing; run `make setup` first")
    _stop_strays(settings)
    _refuse_taken_port(settings.airflow_port, "Airflow", "MASKLINE_AIRFLOW_PORT")
    _refuse_taken_port(settings.mlflow_port, "MLflow", "MASKLINE_MLFLOW_PORT")

    settings.airflow_home.mkdir(parents=True, exist_ok=True)
    settings.passwords.write_text(json.dumps(dict([LOGIN])))
    try:
        _migrate_database(settings)
        _say("starting Airflow and MLflow ...")
        _start_supervisor(settings)
        _wait_until_ready(settings)
        AirflowRest(settings.airflow_url, LOGIN).ensure_pool(
            "gpu", trainings_at_a_time(), "trainings and evaluations that may run at a time"
        )
    except BaseException:
        down(settings)
        raise
    return True


def down(settings: Settings) -> int:
    """Stops the stack and the steps that run under it; returns how many processes there were."""
    supervisor = _supervisor(settings)
    stopped: set[psutil.Process] = set(_marked_processes(settings))
    if supervisor is not None:
        supervisor.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while supervisor.is_running() and supervisor.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.2)
    return len(stopped | _stop_strays(settings))


def _stop_strays(settings: Settings) -> set[psutil.Process]:
    """Stops what carries our mark, the eldest by SIGTERM, what is left in the end by SIGKILL; returns all it found."""
    found = set(_marked_processes(settings))
    numbers = {process.pid for process in found}
    for process in found:
        # Only the eldest: a step's keeper passes the signal on, and a second one might cut its checkpoint short.
        if _parent(process) not in numbers:
            _quietly(process.terminate)
    deadline = time.monotonic() + STOP_SECONDS
    while (left := set(_marked_processes(settings))) and time.monotonic() < deadline:
        found |= left
        time.sleep(0.2)
    for process in left:
        _quietly(process.kill)
    return found


def _marked_processes(settings: Settings) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == str(settings.airflow_home) and process.pid != os.getpid():
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def _quietly(act: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        act()


def _supervisor(settings: Settings) -> psutil.Process | None:
    """The supervisord of this workspace, when it runs."""
    try:
        process = psutil.Process(int((settings.airflow_home / "supervisord.pid").read_text()))
        return process if process.environ().get(_MARK) == str(settings.airflow_home) else None
    except (OSError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def _start_supervisor(settings: Settings) -> None:
    """Returns when supervisord has gone to the background and said its process number."""
    configuration = Path(__file__).with_name("supervisord.conf")
    subprocess.run([_SUPERVISORD, "-c", configuration], env=settings.process_environment(), check=True)
    deadline = time.monotonic() + STOP_SECONDS
    while _supervisor(settings) is None:
        if time.monotonic() > deadline:
            raise StackError(f"supervisord did not start; see {settings.airflow_home}/supervisord.log")
        time.sleep(0.1)


def _refuse_taken_port(port: int, service: str, variable: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StackError(
                f"port {port}, meant for {service}, is not free ({error.strerror}); "
                f"stop what listens there, or choose another with {variable}=<port>"
            ) from error


def _migrate_database(settings: Settings) -> None:
    """Creates or upgrades the metadata database, once for each version of Airflow."""
    stamp, wanted = settings.airflow_home / "database_version", version("apache-airflow")
    if stamp.exists() and stamp.read_text() == wanted:
        return
    _say("preparing Airflow's database ...")
    log = settings.airflow_home / "migrate.log"
    with log.open("wb") as stream:
        done = subprocess.run([_AIRFLOW, "db", "migrate"], env=settings.process_environment(), stdout=stream, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise StackError(f"`airflow db migrate` failed; see {log}")
    stamp.write_text(wanted)


def _wait_until_ready(settings: Settings) -> None:
    """Returns when both servers answer, the scheduler has a heartbeat, and the DAG is there."""
    airflow = AirflowRest(settings.airflow_url, LOGIN)
    awaited: list[tuple[str, Callable[[], bool]]] = [
        ("mlflow", lambda: answers_ok(f"{settings.mlflow_url}/health")),
        ("api-server", lambda: answers_ok(f"{settings.airflow_url}/api/v2/version")),
        ("scheduler", airflow.scheduler_is_healthy),
        ("dag-processor", lambda: airflow.has_dag(DAG_ID)),
    ]
    deadline = time.monotonic() + READY_SECONDS
    for name, ready in awaited:
        while not ready():
            if _supervisor(settings) is None:
                raise StackError(f"the stack has stopped; see {settings.airflow_home}/*.log")
            if time.monotonic() > deadline:
                raise StackError(f"{name} was not ready after {READY_SECONDS:.0f} s; see {settings.airflow_home}/{name}.log")
            time.sleep(1.0)
        _say(f"  {name} is ready")


def describe(settings: Settings) -> str:
    """Addresses and login; of MLflow also the pages that show the backbones of each data set, while it runs."""
    lines = [f"Airflow  {settings.airflow_url}   user {LOGIN[0]}, password {LOGIN[1]}", f"MLflow   {settings.mlflow_url}"]
    lines.append("         for whoever is on this machine: both answer on 127.0.0.1 alone (docs/security.md)")
    return "\n".join(lines + [f"         {name}: {page}" for name, page in experiment_pages(settings.mlflow_url).items()])


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    settings = Settings.from_environment()
    try:
        match sys.argv[1:]:
            case ["up"]:
                started = up(settings)
                _say(f"{'up' if started else 'already up'}; `make down` stops both\n{describe(settings)}")
            case ["down"]:
                count = down(settings)
                _say(f"stopped {count} processes" if count else "nothing was running")
            case _:
                print("usage: stack.py up | down", file=sys.stderr)
                return 2
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
