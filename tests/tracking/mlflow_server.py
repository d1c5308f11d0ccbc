"""A real MLflow server that tests start, kill and let hang."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


class Server:
    """`mlflow server` on a port of its own, with SQLite."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        stores = [
            "--backend-store-uri",
            f"sqlite:///{self._folder / 'mlflow.db'}",
            "--artifacts-destination",
            str(self._folder / "artifacts"),
        ]
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen([sys.executable, *command, *stores], stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                assert time.monotonic() < deadline, (self._folder / "server.log").read_text()[-2000:]
                assert self._process.poll() is None, (self._folder / "server.log").read_text()[-2000:]
                time.sleep(0.2)

    def signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()

    def history(self, run_id: str, name: str) -> list[tuple[int, float]]:
        with sqlite3.connect(self._folder / "mlflow.db") as database:
            question = "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY rowid"
            return list(database.execute(question, (run_id, name)))

    def column(self, run_id: str, name: str) -> object:
        with sqlite3.connect(self._folder / "mlflow.db") as database:
            (value,) = database.execute(f"SELECT {name} FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
            return value
