"""A small cluster on this machine: the services of `docker/compose.yaml`, by its commands, settings and secrets, without containers;
with `docker/compose.objects.yaml` laid over it, which puts the workspace into the S3 store.

    postgres, redis       from the system's packages
    objects               an S3 server (moto), in memory
    mlflow                MLflow's server on PostgreSQL, its artifacts in the bucket `mlflow`
    airflow-apiserver, airflow-scheduler, airflow-dag-processor
    worker-default, worker-gpu   Celery's workers, each as if on a machine of its own

All listen on 127.0.0.1, on free ports. The workers share nothing but these servers: each has a home, temporary files and working copies
of its own, and the workspace is a bucket.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml

from tests.cluster.programs import postgres_user, programs
from tests.cluster.service import REPOSITORY, ClusterError, Service
from tests.drills.processes import free_port

sys.path.append(str(REPOSITORY / "dags" / "local"))
from airflow_rest import AirflowRest, answers_ok

DOCKER = REPOSITORY / "docker"
DEPLOYMENT = Path(__file__).with_name("deployment")
DAG_ID = "mask_rcnn_zoo"
USER = "admin"
QUEUES = ("default", "gpu")

NOTICED_SOONER = {
    # After so long without a sign of life from a task, Airflow tries it again; its default is 300.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    # So often a scheduler looks for tasks of one that has died, which nobody watches until then; the default is 300.
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
}
"""Where the settings are others than a deployment's would be: in seconds"""

_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
_BINARIES = {"airflow": REPOSITORY / "dags" / ".venv" / "bin", "mlflow": REPOSITORY / ".venv" / "bin"}
_DAGS = f"{REPOSITORY / 'dags'}"


class Cluster:
    """The services by their names in `docker/compose.yaml`. Everything that they write lies in `folder`, their logs in its `logs`."""

    def __init__(self, folder: Path, say: Callable[[str], None] = print) -> None:
        """ClusterError where a program is missing; nothing is started."""
        self._say = say
        self._programs = programs()
        if not (_BINARIES["airflow"] / "celery").exists():
            raise ClusterError(f"{_BINARIES['airflow']} has no Celery\n  fix: run `make cluster-test`, which installs what a cluster needs")
        self._root = folder
        self._logs = folder / "logs"
        self._secrets = folder / "secrets"
        self._ports = {name: free_port() for name in ("postgres", "redis", "objects", "mlflow", "airflow-apiserver")}
        self._compose = cast(dict[str, Any], yaml.safe_load((DOCKER / "compose.yaml").read_text()))
        # Not in pytest's folder, which no other user may enter.
        self._database = Path(tempfile.mkdtemp(prefix="maskline-postgres-"))
        self._machines: dict[str, int] = dict.fromkeys((f"worker-{queue}" for queue in QUEUES), 0)
        self._in_store = cast(dict[str, Any], yaml.safe_load((DOCKER / "compose.objects.yaml").read_text()))
        self.services: dict[str, Service] = {}

    # What a test or a drill asks of it.

    def start(self, without: Collection[str] = ()) -> None:
        """Returns when everything serves, with the pool `gpu` and the first user made, or all but a few services.

        ClusterError where something does not come up.
        """
        for folder in (self._logs, self._root / "schedules"):
            folder.mkdir(parents=True)
        self._make_secrets()
        self._prepare_database()
        stores = [name for name in ("postgres", "redis", "objects") if name not in without]
        for name in stores:
            self._add(getattr(self, f"_{name}")())
            self.services[name].start()
        self._wait(*stores)
        self._make_databases()
        self._add(self._mlflow())
        self.services["mlflow"].start()
        self._say("preparing Airflow's database ...")
        self._add(self._airflow_init())
        self.services["airflow-init"].start()
        self.services["airflow-init"].complete()
        airflow = (
            self._airflow("airflow-apiserver", self._answers, "--host", "127.0.0.1", "--port", f"{self._ports['airflow-apiserver']}"),
            self._airflow("airflow-scheduler", self._scheduler_lives, "--skip-serve-logs"),
            self._airflow("airflow-dag-processor", lambda _: self.airflow.has_dag(DAG_ID)),
            *(self._worker(queue) for queue in QUEUES),
        )
        airflow = tuple(service for service in airflow if service.name not in without)
        for service in airflow:
            self._add(service)
            service.start()
        self._wait("mlflow", *(service.name for service in airflow))

    def stop(self) -> None:
        """Ends all of it, whatever state it is in, and leaves the logs."""
        for service in reversed(self.services.values()):
            # PostgreSQL takes its shared memory away.
            service.end() if service.name == "postgres" else service.kill()
        shutil.rmtree(self._database, ignore_errors=True)

    def kill(self, name: str) -> int:
        """SIGKILL to a service and all that it has started; returns how many processes those were. What is on its disk stays."""
        return self.services[name].kill()

    def restart(self, name: str) -> None:
        """Starts a service that was killed as it was, and returns when it serves."""
        self.services[name].start()
        self._wait(name)

    def replace_worker(self, queue: str) -> None:
        """Starts, in place of the worker that was killed, one on a machine that nothing has run on."""
        service = self._worker(queue)
        self._add(service)
        self.restart(service.name)

    def confirm(self) -> None:
        """ClusterError where a service has ended that nobody killed."""
        for service in self.services.values():
            service.confirm()

    def restart_ended(self) -> list[str]:
        """Starts what has ended by itself, as an engine does with `restart: unless-stopped`; returns the names."""
        ended = [name for name, service in self.services.items() if service.has_ended()]
        for name in ended:
            self.services[name].start()
        return ended

    def tails(self) -> str:
        """The end of every log."""
        return "\n".join(service.tail() for service in self.services.values())

    @cached_property
    def airflow(self) -> AirflowRest:
        return AirflowRest(self.airflow_url, (USER, self._secret("airflow_admin_password")))

    @property
    def airflow_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['airflow-apiserver']}"

    @property
    def workspace_url(self) -> str:
        return self._settings("worker-gpu")["MASKLINE_WORKSPACE"]

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['mlflow']}"

    def stored(self, url: str) -> Any:
        """A path of the S3 store, by its URL; it reads as one of a disk does."""
        from upath import UPath

        keys = {"key": "maskline", "secret": self._secret("objects_key"), "endpoint_url": self._objects_url, "use_listings_cache": False}
        return UPath(url, **keys)

    def secret_file(self, name: str) -> Path:
        """Where a secret is, as `docker/make_secrets.py` names it."""
        return self._secrets / name

    def port(self, name: str) -> int:
        """Where a service listens on 127.0.0.1."""
        return self._ports[name]

    def binary(self, name: str) -> Path:
        """A program of the system's packages, such as `initdb`."""
        return Path(self._programs[name])

    @property
    def logs(self) -> Path:
        """The folder of every service's log."""
        return self._logs

    def copies(self, queue: str) -> Path:
        """Where the worker of a queue has its working copies of the workspace."""
        return self._machine(queue) / "copies"

    # The services.

    def _postgres(self) -> Service:
        # Its own is a log of its output; no socket lies where others see it.
        command = [self._programs["postgres"], "-D", f"{self._database / 'data'}", "-p", f"{self._ports['postgres']}"]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]

        def answers(_: Service) -> bool:
            return self._psql("postgres", "SELECT 1", check=False).returncode == 0

        return Service("postgres", command, {}, self._logs / "postgres.log", answers, user=postgres_user())

    def _redis(self) -> Service:
        command = [self._here(word) for word in self._compose["services"]["redis"]["command"]]
        command[0] = self._programs["redis-server"]
        folder = self._root / "redis"
        folder.mkdir()
        command += ["--bind", "127.0.0.1", "--port", f"{self._ports['redis']}", "--dir", f"{folder}"]
        return Service("redis", command, {}, self._logs / "redis.log", lambda _: self._redis_answers())

    def _objects(self) -> Service:
        command = [f"{Path(sys.executable).with_name('moto_server')}", "--host", "127.0.0.1", "--port", f"{self._ports['objects']}"]
        ready = f"{self._objects_url}/moto-api/"
        return Service("objects", command, {}, self._logs / "objects.log", lambda _: answers_ok(ready))

    def _mlflow(self) -> Service:
        script = self._here((DOCKER / "mlflow-server.sh").read_text())
        environment = {**self._settings("mlflow"), "PATH": self._path("mlflow")}
        command = ["/bin/sh", "-c", script.replace("--port 5000", f"--port {self._ports['mlflow']}")]
        return Service("mlflow", command, environment, self._logs / "mlflow.log", lambda _: answers_ok(f"{self.mlflow_url}/health"))

    def _airflow_init(self) -> Service:
        """The database, the first user and the pool; it ends when they are there."""
        name = "airflow-init"
        command = ["/bin/sh", "-c", self._here((DOCKER / "airflow-init.sh").read_text())]
        return Service(name, command, self._airflow_environment(name, self._root / name), self._logs / f"{name}.log", lambda _: False)

    def _airflow(self, name: str, ready: Callable[[Service], bool], *more: str) -> Service:
        command = ["airflow", *(self._here(word) for word in self._compose["services"][name]["command"]), *more]
        return Service(name, command, self._airflow_environment(name, self._root / name), self._logs / f"{name}.log", ready)

    def _worker(self, queue: str) -> Service:
        name = f"worker-{queue}"
        self._machines[name] += 1
        folder = self._machine(queue)
        environment = self._airflow_environment(name, folder) | {
            "MASKLINE_WORKING_COPIES": f"{self.copies(queue)}",
        }
        command = ["airflow", *(self._here(word) for word in self._compose["services"][name]["command"]), "--skip-serve-logs"]
        log = self._logs / f"{folder.name}.log"
        return Service(name, command, environment, log, lambda service: service.says(rf"{queue}@\S+ ready"))

    # What they are told.

    def _airflow_environment(self, name: str, folder: Path) -> dict[str, str]:
        """The settings of a service, in a home of its own."""
        places = {"HOME": folder / "home", "TMPDIR": folder / "tmp", "AIRFLOW_HOME": folder / "airflow"}
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        return {
            **self._settings(name),
            **NOTICED_SOONER,
            **{variable: f"{place}" for variable, place in places.items()},
            "PATH": self._path("airflow"),
            # As the images have it, and where the scheduler finds what this deployment says of queues.
            "PYTHONPATH": os.pathsep.join([_DAGS, f"{DEPLOYMENT}"]),
            "AIRFLOW__CORE__DAGS_FOLDER": _DAGS,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__API__BASE_URL": self.airflow_url,
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "machine_name.machine_name",
            "CLUSTER_MACHINE": folder.name,
            "MASKLINE_SCHEDULES": f"{self._root / 'schedules'}",
            "MASKLINE_MLFLOW_UI": self.mlflow_url,
        }

    def _settings(self, name: str) -> dict[str, str]:
        """The environment that the compose files give a service, with the addresses that hold here; no proxy stands before them."""
        services = (self._compose["services"][name], self._in_store["services"].get(name, {}))
        told = {variable: value for service in services for variable, value in service.get("environment", {}).items()}
        return {variable: self._here(f"{value}") for variable, value in told.items()} | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def _here(self, text: str) -> str:
        """A text of `docker/` with this machine's addresses and files, and the defaults of what `.env` could set."""
        text = _VARIABLE.sub(lambda found: found[2], text)
        for name in self._ports:
            text = re.sub(rf"\b{name}:\d+", f"127.0.0.1:{self._ports[name]}", text)
        return text.replace("/run/secrets", f"{self._secrets}").replace("0.0.0.0", "127.0.0.1")

    def _path(self, environment: str) -> str:
        return os.pathsep.join([f"{_BINARIES[environment]}", os.environ.get("PATH", os.defpath)])

    def _secret(self, name: str) -> str:
        return (self._secrets / name).read_text().strip()

    def _machine(self, queue: str) -> Path:
        name = f"worker-{queue}"
        return self._root / "machines" / f"{name}-{self._machines[name]}"

    @property
    def _objects_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['objects']}"

    # What has to be there before they serve.

    def _make_secrets(self) -> None:
        for name in runpy.run_path(f"{DOCKER / 'make_secrets.py'}")["make_secrets"](self._secrets):
            file = self._secrets / name
            text = self._here(file.read_text())
            file.chmod(0o600)
            file.write_text(text)

    def _prepare_database(self) -> None:
        user = postgres_user()
        password = self._database / "password"
        password.write_text(self._secret("postgres_password"))
        if user is not None:
            for place in (self._database, password):
                shutil.chown(place, user, user)
        command = [self._programs["initdb"], "-D", f"{self._database / 'data'}", "--username", "maskline", "--pwfile", f"{password}"]
        command += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale"]
        options = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        with (self._logs / "postgres.log").open("wb") as log:
            done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **options)
        password.unlink()
        if done.returncode:
            raise ClusterError(f"initdb ended with code {done.returncode}\n{(self._logs / 'postgres.log').read_text()}")

    def _make_databases(self) -> None:
        self._psql("postgres", "CREATE DATABASE airflow")
        self._psql("postgres", (DOCKER / "postgres-databases.sql").read_text())

    def _psql(self, database: str, statements: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [self._programs["psql"], "-h", "127.0.0.1", "-p", f"{self._ports['postgres']}", "-U", "maskline", "-v", "ON_ERROR_STOP=1"]
        environment = os.environ | {"PGPASSWORD": self._secret("postgres_password")}
        done = subprocess.run([*command, database], input=statements, env=environment, capture_output=True, text=True, cwd="/")
        if check and done.returncode:
            raise ClusterError(f"PostgreSQL refuses: {done.stderr}")
        return done

    # Whether they serve.

    def _add(self, service: Service) -> None:
        self.services[service.name] = service

    def _wait(self, *names: str) -> None:
        for name in names:
            self.services[name].wait()
            self._say(f"{name} serves")

    def _answers(self, _: Service) -> bool:
        return answers_ok(f"{self.airflow_url}/api/v2/version")

    def _scheduler_lives(self, service: Service) -> bool:
        """Whether it has given a sign of life since it was last started, and not only one before it."""
        try:
            scheduler = self.airflow._request("GET", "/api/v2/monitor/health")["scheduler"]
        except OSError:
            return False
        last = scheduler["latest_scheduler_heartbeat"]
        return last is not None and datetime.fromisoformat(last).timestamp() > service.begun

    def _redis_answers(self) -> bool:
        """Without the password it answers too, and says that it wants it."""
        try:
            with socket.create_connection(("127.0.0.1", self._ports["redis"]), timeout=5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(100).startswith(b"-NOAUTH")
        except OSError:
            return False
