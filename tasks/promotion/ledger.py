"""What was decided about a registered model's champion: a file that only grows, a JSON object a line."""

from __future__ import annotations

import getpass
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.promotion.policy import Policy
from tasks.promotion.rules import Ruling
from tasks.running.errors import UserError
from tasks.running.lease import leased
from tasks.running.line_file import append_lines, whole_lines
from tasks.running.workspace import promotion_dir
from tasks.tracking import registry, store
from tasks.tracking.provenance import airflow_tags

PROMOTED, REFUSED, DECLINED, ROLLED_BACK, FAILED = "promoted", "refused", "declined", "rolled back", "failed"
FORMAT_VERSION = 1
_SHORTEST_REASON = 5
_SHOWN = 10

Decision = dict[str, Any]


def user() -> str:
    """Whose process this is; a container's numeric user may have no name."""
    with suppress(KeyError, OSError):
        return getpass.getuser()
    return "unknown"


def confirm_reason(reason: str) -> None:
    if len(reason.strip()) < _SHORTEST_REASON:
        raise UserError(f"--reason is {reason!r}", f"say in {_SHORTEST_REASON} letters or more why; it is kept with the decision")


def decision(
    kind: str,
    version: registry.Version,
    champion: registry.Version | None,
    by: str,
    reason: str,
    policy: Policy | None = None,
    rulings: Sequence[Ruling] = (),
    **about: Any,
) -> Decision:
    """Who decided what, when, why, and by which numbers."""
    return {
        "format_version": FORMAT_VERSION,
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "decision": kind,
        "name": version.name,
        "version": version.number,
        "config": version.tags.get("config"),
        "checkpoint": version.tags.get("checkpoint"),
        "champion_before": champion.number if champion else None,
        "by": by,
        "user": f"{user()} on {platform.node()}",
        "reason": reason,
        "policy": policy and policy.file,
        "policy_digest": policy and policy.digest,
        "rulings": [asdict(one) for one in rulings],
        "numbers": {name: value for one in rulings for name, value in one.numbers.items()},
        **airflow_tags(),
        **about,
    }


def ledger_file(name: str) -> Path:
    return promotion_dir(name) / "ledger.jsonl"


def append(entry: Mapping[str, Any]) -> None:
    append_to(ledger_file(entry["name"]), entry)


def append_to(file: Path, entry: Mapping[str, Any]) -> None:
    """Adds a line to a file beside the ledger, to which other machines may add lines too."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with leased(file.parent / ".promotions.lock", "is written to"):
        append_lines(file, [json.dumps(entry, sort_keys=True)])


def decisions(name: str) -> Iterator[Decision]:
    """All of them, the oldest first."""
    for line, _ in whole_lines(ledger_file(name)):
        yield json.loads(line)


def show_in_mlflow(held: registry.Registry, entry: Decision) -> str | None:
    """Keeps a decision in MLflow too; the address of its page, or None and a warning where MLflow does not take it: the ledger has it."""
    try:
        text = f"{entry['reason']}\n\n" + "\n".join(f"- {one['rule']}: {one['evidence']}" for one in entry["rulings"])
        page = held.record(entry, text)
        held.describe(markdown(entry["name"]))
    except Exception as error:  # What was decided holds.
        store.warn(f"the decision on {entry['name']}, which stands in {ledger_file(entry['name'])}", error)
        return None
    return page


def markdown(name: str) -> str:
    """The last decisions as a table, for the page of the registered model."""
    rows = [
        f"| {one['at']} | {one['decision']} | {one['version']} {one['config'] or ''} | {one['by']} | {_cell(one['reason'])} |"
        for one in list(decisions(name))[-_SHOWN:][::-1]
    ]
    return "\n".join(["| when | decision | version | by | why |", "|---|---|---|---|---|", *rows])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
