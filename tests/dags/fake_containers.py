"""Two engines without containers: what a Docker engine or a cluster is asked to run, the fake trainer runs as a process of this machine.

Each answers the few requests that our code makes, as the real interface documents them, and keeps what it was asked for.
"""

from __future__ import annotations

import contextlib
import json
import socketserver
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

FAKE_TRAINER = [sys.executable, "-I", str(Path(__file__).with_name("fake_trainer.py"))]
_POD_PATH = "/api/v1/namespaces/"


@dataclass
class Running:
    """A container or the only container of a pod."""

    name: str
    request: dict[str, Any]
    words: list[str]
    environment: dict[str, str]
    labels: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    lines: list[tuple[str, str]] = field(default_factory=list)
    out_of_memory: bool = False

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*FAKE_TRAINER, *self.words], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/"
        )
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def code(self) -> int | None:
        code = None if self.process is None else self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def stop(self, seconds: float) -> None:
        assert self.process is not None
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        if self.code is not None:
            self._done.wait(5)
        return "".join(f"{moment} {line}" for moment, line in self.lines)

    def __post_init__(self) -> None:
        self._done = threading.Event()

    def _read(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            seconds, rest = divmod(time.time_ns(), 10**9)
            moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
            self.lines.append((f"{moment}.{rest:09d}Z", line.decode()))
        self._done.set()


class Engine:
    """What both have: the containers or pods that there are, all that were ever asked for, and every request."""

    def __init__(self) -> None:
        self.there: dict[str, Running] = {}
        self.asked: list[Running] = []
        self.requests: list[str] = []
        self.refuses = 0
        """How many of the next requests it does not answer, as while it is being restarted"""

    def stop_all(self) -> None:
        for one in self.asked:
            one.kill()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Engine

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        # A client that was killed with its task hangs up in the middle.
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def answer(self, code: int, content: Any = None) -> None:
        body = b"" if content is None else content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(content, bytes) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def content(self) -> dict[str, Any]:
        length = int(self.headers.get("Content-Length") or 0)
        return json.loads(self.rfile.read(length) or b"{}")

    def route(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        if self.engine.refuses > 0:
            self.engine.refuses -= 1
            self.answer(503, {"message": "being restarted"})
        else:
            self.route()

    do_POST = do_DELETE = do_GET  # noqa: N815


class _DockerHandler(_Handler):
    def route(self) -> None:
        url = urllib.parse.urlparse(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        path = urllib.parse.unquote(url.path)
        path = path[path.index("/", 1) :] if path.startswith("/v1.") else path
        self.engine.requests.append(f"{self.command} {path}")
        body = self.content()
        match [self.command, *path.strip("/").split("/")]:
            case ["GET", "version"]:
                self.answer(200, {"ApiVersion": "1.47", "MinAPIVersion": "1.24"})
            case ["GET", "images", *name, "json"]:
                self.answer(200, {"Id": "sha256:" + "a" * 64, "RepoTags": ["/".join(name)]})
            case ["GET", "containers", "json"]:
                wanted = [label.partition("=") for label in json.loads(query.get("filters", "{}")).get("label", [])]
                found = [
                    self._inspected(one)
                    for one in self.engine.there.values()
                    if all(name in one.labels and (not sign or one.labels[name] == value) for name, sign, value in wanted)
                ]
                self.answer(200, [{"Id": one["Id"], "Labels": one["Labels"], "State": one["State"]["Status"]} for one in found])
            case ["POST", "containers", "create"]:
                environment = dict(pair.split("=", 1) for pair in body["Env"])
                one = Running(f"{len(self.engine.asked):064x}", body, body["Cmd"], environment, body["Labels"])
                self.engine.asked.append(one)
                self.engine.there[one.name] = one
                self.answer(201, {"Id": one.name, "Warnings": []})
            case [_, "containers", name, *_] if name not in self.engine.there:
                self.answer(404, {"message": f"No such container: {name}"})
            case ["POST", "containers", name, "start"]:
                self.engine.there[name].start()
                self.answer(204)
            case ["GET", "containers", name, "json"]:
                self.answer(200, self._inspected(self.engine.there[name]))
            case ["GET", "containers", name, "logs"]:
                log = self.engine.there[name].log().encode()
                self.answer(200, struct.pack(">BxxxL", 1, len(log)) + log)
            case ["POST", "containers", name, "stop"]:
                self.engine.there[name].stop(float(query["t"]))
                self.answer(204)
            case ["DELETE", "containers", name]:
                self.engine.there.pop(name).kill()
                self.answer(204)
            case _:
                self.answer(501, {"message": f"the fake engine knows no {self.command} {path}"})

    def _inspected(self, one: Running) -> dict[str, Any]:
        status = "created" if one.process is None else "running" if one.code is None else "exited"
        state = {"Status": status, "ExitCode": one.code or 0, "OOMKilled": one.out_of_memory, "Error": ""}
        return {"Id": one.name, "State": state, "Labels": one.labels, "Config": {"Tty": False, "Labels": one.labels}}


class _KubernetesHandler(_Handler):
    def route(self) -> None:
        url = urllib.parse.urlparse(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        self.engine.requests.append(f"{self.command} {url.path}")
        body = self.content()
        match [self.command, *url.path.removeprefix(_POD_PATH).split("/")]:
            case ["GET", _, "pods"]:
                wanted = [pair.partition("=")[::2] for pair in query.get("labelSelector", "").split(",")]
                found = [one for one in self.engine.there.values() if all(one.labels.get(name) == value for name, value in wanted)]
                self.answer(200, {"kind": "PodList", "apiVersion": "v1", "items": [self._told(one) for one in found]})
            case ["POST", _, "pods"]:
                container = body["spec"]["containers"][0]
                environment = {pair["name"]: pair["value"] for pair in container["env"]}
                one = Running(body["metadata"]["name"], body, container["args"], environment, body["metadata"]["labels"])
                self.engine.asked.append(one)
                self.engine.there[one.name] = one
                one.start()
                self.answer(201, self._told(one))
            case [_, _, "pods", name, *_] if name not in self.engine.there:
                self.answer(404, {"kind": "Status", "code": 404, "message": f'pods "{name}" not found'})
            case ["GET", _, "pods", name]:
                self.answer(200, self._told(self.engine.there[name]))
            case ["GET", _, "pods", name, "log"]:
                self.answer(200, self.engine.there[name].log().encode())
            case ["DELETE", _, "pods", name]:
                one = self.engine.there[name]
                seconds = float(query["gracePeriodSeconds"])
                # The answer comes at once, and the pod goes when its process has ended.
                threading.Thread(target=self._delete, args=(one, seconds), daemon=True).start()
                self.answer(200, self._told(one))
            case _:
                self.answer(501, {"message": f"the fake cluster knows no {self.command} {url.path}"})

    def _delete(self, one: Running, seconds: float) -> None:
        one.stop(seconds)
        self.engine.there.pop(one.name, None)

    def _told(self, one: Running) -> dict[str, Any]:
        ended = {"exitCode": one.code, "reason": "OOMKilled" if one.out_of_memory else "Error" if one.code else "Completed"}
        status = {
            "name": one.request["spec"]["containers"][0]["name"],
            **{"image": "trainer", "imageID": "", "ready": True, "restartCount": 0},
            "state": {"running": {}} if one.code is None else {"terminated": ended},
        }
        phase = "Running" if one.code is None else "Failed" if one.code else "Succeeded"
        return {**one.request, "status": {"phase": phase, "containerStatuses": [status]}}


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self) -> tuple[Any, Any]:
        request, _ = super().get_request()
        return request, ("engine", 0)


class _HttpServer(socketserver.ThreadingMixIn, HTTPServer):
    daemon_threads = True


@contextlib.contextmanager
def docker_engine(folder: Path) -> Iterator[tuple[Engine, str]]:
    """The engine, and its address for DOCKER_HOST."""
    address = folder / "docker.sock"
    with _served(_UnixServer, str(address), _DockerHandler) as (engine, _):
        yield engine, f"unix://{address}"


@contextlib.contextmanager
def kubernetes_cluster(folder: Path) -> Iterator[tuple[Engine, Path]]:
    """The cluster, and its kubeconfig."""
    with _served(_HttpServer, ("127.0.0.1", 0), _KubernetesHandler) as (engine, server):
        config = {
            **{"apiVersion": "v1", "kind": "Config", "current-context": "c"},
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        }
        file = folder / "kubeconfig.json"
        file.write_text(json.dumps(config))
        yield engine, file


@contextlib.contextmanager
def _served(kind: Any, address: Any, handler: type[_Handler]) -> Iterator[tuple[Engine, Any]]:
    engine = Engine()
    server = kind(address, type("Handler", (handler,), {"engine": engine}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield engine, server
    finally:
        server.shutdown()
        server.server_close()
        engine.stop_all()
        if isinstance(address, str):
            Path(address).unlink()
