"""Reads each DAG file that is named as Airflow's DAG processor does: in a process of its own, forked from one that has imported Airflow.

The last line of standard output: JSON, for each file the packages that it brought in, the CPU seconds it took, and what it did besides:
files that were read and written, processes started, connections opened.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

# What the DAG processor has imported when it forks.
import airflow.dag_processing.dagbag
import airflow.sdk  # noqa: F401

EFFECTS = (
    *("socket.connect", "socket.getaddrinfo", "sqlite3.connect"),
    *("subprocess.Popen", "os.system", "os.fork", "os.posix_spawn", "os.exec"),
    *("os.mkdir", "os.remove", "os.rename"),
)
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def parse(file: str) -> dict[str, Any]:
    did: dict[str, list[str]] = {"read": [], "written": [], "effects": []}
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching:
            return
        if event == "open" and isinstance(arguments[0], str):
            path, mode = arguments[0], arguments[1] or ""
            kind = "written" if set("wxa+") & set(mode) else "read"
            if kind == "written" or (not path.startswith(LIBRARIES) and Path(path).suffix not in (".py", ".pyc")):
                did[kind].append(path)
        elif event in EFFECTS:
            did["effects"].append(event)

    known = set(sys.modules)
    sys.dont_write_bytecode = True
    sys.addaudithook(watch)
    start = time.process_time()
    runpy.run_path(file)
    seconds = time.process_time() - start
    watching = False
    return {"packages": sorted({name.partition(".")[0] for name in set(sys.modules) - known}), "seconds": seconds, **did}


def main() -> None:
    answers = {}
    for file in sys.argv[1:]:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, json.dumps(parse(file)).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as stream:
            answers[file] = json.loads(stream.read())
        os.wait()
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
