"""The parts of the cluster that need no cluster: what it says where a server is missing, and that what it kills is dead."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster.deployment.airflow_local_settings import task_instance_mutation_hook
from tests.cluster.programs import postgres_user, programs
from tests.cluster.service import ClusterError, Service
from tests.cluster.trainers import Trainer, overlapping

# A parent, a child in a session of its own, and one that has lost its parent; each says its number.
FAMILY = """
import os, subprocess, sys, time
stray = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
subprocess.run([sys.executable, "-c", f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {stray!r}])"])
subprocess.Popen([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"], start_new_session=True)
print(os.getpid(), "serves", flush=True)
time.sleep(600)
"""


def service(folder: Path, program: str) -> Service:
    return Service("family", [sys.executable, "-c", program], {}, folder / "family.log", lambda one: one.says("serves"))


def test_missing_servers_are_named_with_the_packages_that_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError) as refused:
        programs(tmp_path)
    assert f"initdb, postgres, psql, redis-server: neither on the PATH nor in {tmp_path}/*/bin" in str(refused.value)
    assert "fix: apt install postgresql redis-server" in str(refused.value)


def test_of_several_versions_of_postgresql_the_newest_is_taken_and_redis_from_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"9": ["initdb", "postgres", "psql"], "15": ["initdb", "postgres", "psql"], "path": ["redis-server"]}
    for version, names in places.items():
        folder = tmp_path / version / "bin"
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path" / "bin"))
    found = {name: Path(where).parent.parent.name for name, where in programs(tmp_path).items()}
    assert found == {"initdb": "15", "postgres": "15", "psql": "15", "redis-server": "path"}


def test_a_killed_service_leaves_nothing_running_of_what_it_has_started(tmp_path: Path) -> None:
    family = service(tmp_path, FAMILY)
    family.start()
    try:
        family.wait()
        while len(numbers := [int(line.split()[0]) for line in family.log.read_text().splitlines()]) < 3:
            pass
        assert {process.pid for process in family.processes()} == set(numbers)
        assert os.getsid(numbers[0]) != os.getsid(numbers[-1])
    finally:
        killed = family.kill()
    assert killed == 3
    assert not any(psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE for number in numbers)
    family.confirm()


def test_a_service_that_ends_by_itself_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    broken = service(tmp_path, "import sys; sys.exit('no room')")
    broken.start()
    with pytest.raises(ClusterError, match=r"family ended with code 1\n(.*\n)*no room"):
        broken.wait()
    with pytest.raises(ClusterError, match="family ended with code 1"):
        broken.confirm()


def test_what_it_said_before_its_last_start_says_nothing_of_now(tmp_path: Path) -> None:
    one = service(tmp_path, "import time; print('serves', flush=True); time.sleep(600)")
    one.start()
    one.wait()
    one.kill()
    one._command = [sys.executable, "-c", "import time; time.sleep(600)"]
    one.start()
    try:
        assert not one.says("serves")
    finally:
        one.kill()
    assert one.log.read_text() == "serves\n"


def test_root_starts_the_database_as_another_user_and_others_start_it_themselves() -> None:
    assert postgres_user() in (("postgres", "nobody") if os.getuid() == 0 else (None,))


def test_trainers_overlap_where_the_later_begins_before_the_earlier_is_gone() -> None:
    first, second, third = (Trainer(pid, "m", began, seen) for pid, (began, seen) in enumerate([(0.0, 10.0), (9.0, 12.0), (12.5, 20.0)]))
    assert overlapping([first, second, third]) == [(first, second)]


@pytest.mark.parametrize(
    ("task", "index", "queue"),
    [
        ("materialize_part", 0, "default"),
        ("materialize_part", 1, "gpu"),
        ("materialize_part", -1, "as it was"),
        ("backbone.evaluate", 3, "gpu"),
        ("backbone.train", 0, "as it was"),
    ],
)
def test_parts_and_evaluations_take_turns_between_the_queues(task: str, index: int, queue: str) -> None:
    class Instance:
        task_id, map_index = task, index
        queue = "as it was"

    instance = Instance()
    task_instance_mutation_hook(instance, None)
    assert instance.queue == queue
