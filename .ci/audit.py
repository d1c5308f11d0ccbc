"""Looks what both lock files name up among known vulnerabilities, and holds each finding against its recorded answer.

    python .ci/audit.py [--offline] [--service URL]

Exit code 0: every finding is answered. 1: one is not, or an answer does not hold any more. 75: the database of advisories cannot be
reached, so that nothing is known of findings; the answers were looked at all the same. With --offline nothing else is looked at.

The findings are uv's, by OSV (https://osv.dev); the answers are in audit_answers.toml, which says how to write one.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ANSWERS = Path(__file__).with_name("audit_answers.toml")
PROJECTS = (REPOSITORY, REPOSITORY / "dags")
LONGEST_DAYS = 190
"""Nobody answers for longer than half a year."""
_FIELDS = {"id", "package", "version", "why", "until"}
_FEWEST_WORDS = 5


@dataclass(frozen=True)
class Finding:
    """A vulnerability of a package that a lock file names; `names` are its id and its aliases."""

    package: str
    version: str
    names: frozenset[str]
    told: str


def faults(answers: Sequence[Mapping[str, object]], locked: set[tuple[str, str]], today: datetime.date) -> Iterator[str]:
    """What is wrong with the answers by themselves, a line each."""
    seen = set()
    for number, answer in enumerate(answers, 1):
        name = f"answer {number} ({answer.get('id', 'without id')})"
        if set(answer) != _FIELDS:
            yield f"{name}: its fields are {', '.join(sorted(answer))}, and have to be {', '.join(sorted(_FIELDS))}"
            continue
        key, until = (answer["id"], answer["package"], answer["version"]), answer["until"]
        if key in seen:
            yield f"{name}: is there twice"
        seen.add(key)
        if (answer["package"], answer["version"]) not in locked:
            yield f"{name}: no lock file has {answer['package']} {answer['version']} any more; take the answer out"
        if len(str(answer["why"]).split()) < _FEWEST_WORDS:
            yield f"{name}: `why` does not say why"
        if not isinstance(until, datetime.date):
            yield f"{name}: `until` is no date, such as 2027-01-31"
        elif until < today:
            yield f"{name}: held until {until}; look at it again"
        elif (until - today).days > LONGEST_DAYS:
            yield f"{name}: holds until {until}, and {LONGEST_DAYS} days are the most"


def unanswered(findings: Sequence[Finding], answers: Sequence[Mapping[str, object]]) -> list[Finding]:
    """The findings that no answer is of, by any of their names and the very version."""
    told = {(answer.get("id"), answer.get("package"), answer.get("version")) for answer in answers}
    return [one for one in findings if not any((name, one.package, one.version) in told for name in one.names)]


def locked_packages() -> set[tuple[str, str]]:
    """Name and version of all that both lock files name."""
    locks = [tomllib.loads((project / "uv.lock").read_text()) for project in PROJECTS]
    return {(package["name"], package["version"]) for lock in locks for package in lock["package"] if "version" in package}


def found(uv: str, service: str | None) -> list[Finding] | None:
    """What the database of advisories knows of the locked packages; None where it cannot be reached, which is said."""
    findings = {}
    for project in PROJECTS:
        command = [uv, "audit", "--frozen", "--project", str(project), "--preview-features", "audit-command,json-output"]
        command += ["--output-format", "json", *(["--service-url", service] if service else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "unrecognized subcommand" in done.stderr:
            sys.exit(f"error: {uv} cannot audit\n  fix: install a newer uv, or take it off the PATH, then `make setup`")
        if done.returncode not in (0, 1) or not done.stdout.strip():
            print(f"{project}: not audited:\n{done.stderr.strip()}", file=sys.stderr)
            return None
        report = json.loads(done.stdout)
        for one in report["vulnerabilities"]:
            package = one["dependency"]
            fix = ", ".join(one["fix_versions"] or ["no version yet"])
            told = f"{package['name']} {package['version']}: {one['id']}: {one['summary']}; mended in {fix}; {one['link']}"
            findings[told] = Finding(package["name"], package["version"], frozenset([one["id"], *one["aliases"]]), told)
        for status in report["adverse_statuses"]:
            print(f"note: {json.dumps(status)}")
    return list(findings.values())


def own_uv() -> str:
    """The uv that `make setup` uses: the machine's, else the one that it has installed."""
    own = REPOSITORY / ".uv" / "bin" / "uv"
    return str(own) if own.exists() else shutil.which("uv") or "uv"


def main() -> int:
    parser = argparse.ArgumentParser(description="Known vulnerabilities in both lock files, held against their recorded answers.")
    parser.add_argument("--offline", action="store_true", help="look at the recorded answers alone")
    parser.add_argument("--service", help="the database's address; default: uv's, which is OSV's")
    parser.add_argument("--answers", type=Path, default=ANSWERS, help="default: audit_answers.toml beside this file")
    arguments = parser.parse_args()
    answers = tomllib.loads(arguments.answers.read_text()).get("answer", [])
    today = datetime.datetime.now(datetime.UTC).date()
    wrong = [f"{arguments.answers.name}: {fault}" for fault in faults(answers, locked_packages(), today)]
    findings = [] if arguments.offline else found(own_uv(), arguments.service)
    wrong += [f"no answer to {one.told}" for one in unanswered(findings or [], answers)]
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    if wrong:
        print("  fix: take a version without it (`uv lock --upgrade-package NAME`), or record why it does no harm here", file=sys.stderr)
        return 1
    if findings is None:
        print("WARNING: the database of advisories cannot be reached: nothing is known of new findings", file=sys.stderr)
        return os.EX_TEMPFAIL
    told = "not looked up" if arguments.offline else f"{len(findings)} findings, all answered"
    print(f"audit: {told}; {len(answers)} recorded answers hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())
