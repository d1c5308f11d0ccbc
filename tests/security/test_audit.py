"""The audit, by a stand-in of the database of advisories; and the recorded answers themselves."""

from __future__ import annotations

import datetime
import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
AUDIT = REPOSITORY / ".ci" / "audit.py"
TODAY = datetime.date(2026, 12, 1)
ADVISORY = {
    "id": "PYSEC-2026-1",
    "aliases": ["CVE-2026-1"],
    "summary": "a heap overflow",
    "details": "in the reader of FITS files",
    "modified": "2026-01-01T00:00:00Z",
    "published": "2026-01-01T00:00:00Z",
    "affected": [{"package": {"name": "pillow", "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}],
    "references": [{"type": "WEB", "url": "https://advisory.example/1"}],
}
LOCKED = {("pillow", "13.0.0")}
ANSWER = {
    "id": "CVE-2026-1",
    "package": "pillow",
    "version": "13.0.0",
    "why": "No step opens FITS files, which it is about.",
    "until": datetime.date(2027, 3, 1),
}


@pytest.fixture(scope="module")
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", AUDIT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module
    spec.loader.exec_module(module)
    return module


class Advisories(BaseHTTPRequestHandler):
    """As OSV answers: one advisory, of Pillow."""

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        of_pillow = {"vulns": [{"id": ADVISORY["id"], "modified": ADVISORY["modified"]}]}
        self._answer({"results": [of_pillow if query["package"]["name"] == "pillow" else {} for query in queries]})

    def do_GET(self) -> None:
        self._answer(ADVISORY)

    def _answer(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Advisories)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, AUDIT, *arguments], capture_output=True, text=True, check=False)


def test_the_recorded_answers_hold() -> None:
    answer = run("--offline")
    assert answer.returncode == 0, answer.stderr


def test_a_finding_without_an_answer_fails_and_is_named(service: str) -> None:
    told = run("--service", service)
    assert told.returncode == 1, told.stderr
    assert "error: no answer to pillow " in told.stderr
    assert ": PYSEC-2026-1: a heap overflow; mended in no version yet; https://advisory.example/1" in told.stderr
    assert "fix: take a version without it" in told.stderr


def test_an_answer_is_to_one_version_and_by_any_name(service: str, audit: Any, tmp_path: Path) -> None:
    until = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=30)
    versions = [version for name, version in audit.locked_packages() if name == "pillow"]
    answers = [
        f'[[answer]]\nid = "CVE-2026-1"\npackage = "pillow"\nversion = "{version}"\nwhy = "{ANSWER["why"]}"\nuntil = {until}\n'
        for version in versions
    ]
    file = tmp_path / "answers.toml"
    file.write_text("".join(answers))
    told = run("--service", service, "--answers", str(file))
    assert told.returncode == 0, told.stderr
    assert told.stdout.endswith(f"audit: {len(versions)} findings, all answered; {len(versions)} recorded answers hold\n")


def test_a_database_that_cannot_be_reached_is_told_and_is_no_answer() -> None:
    told = run("--service", "http://127.0.0.1:1")
    assert told.returncode == 75
    assert "WARNING: the database of advisories cannot be reached: nothing is known of new findings" in told.stderr


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"version": "12.0.0"}, "no lock file has pillow 12.0.0 any more"),
        ({"until": datetime.date(2026, 11, 30)}, "held until 2026-11-30"),
        ({"until": datetime.date(2028, 1, 1)}, "190 days are the most"),
        ({"until": "2027-01-01"}, "is no date"),
        ({"why": "harmless"}, "does not say why"),
        ({"why": None}, "does not say why"),
        ({"reviewed": True}, "its fields are"),
    ],
)
def test_what_an_answer_has_to_be(audit: Any, change: dict[str, Any], fault: str | None) -> None:
    found = list(audit.faults([ANSWER | change], LOCKED, TODAY))
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]


def test_answers_are_to_the_finding_alone(audit: Any) -> None:
    def finding(package: str, version: str, *names: str) -> Any:
        return audit.Finding(package, version, frozenset(names), "")

    answered = finding("pillow", "13.0.0", "PYSEC-2026-1", "CVE-2026-1")
    others = [finding("pillow", "13.0.1", "CVE-2026-1"), finding("numpy", "13.0.0", "CVE-2026-1"), finding("pillow", "13.0.0", "CVE-2")]
    assert audit.unanswered([answered, *others], [ANSWER]) == others
    assert list(audit.faults([ANSWER, ANSWER], LOCKED, TODAY)) == ["answer 2 (CVE-2026-1): is there twice"]
