"""The secrets of `compose.yaml`, as files: `python make_secrets.py FOLDER`.

What is there stays, so that running it again changes no password; what is there and keeps nobody out, such as an empty file or an
example's password, is refused. The folder opens for its owner alone; the files in it have to be readable by the users of the containers,
which see each its own.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import sys
from collections.abc import Callable
from pathlib import Path


def make_secrets(folder: Path) -> list[str]:
    """Writes what is missing and returns the names of it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = []
    for name, make in SECRETS.items():
        file = folder / name
        if not file.exists():
            temporary = folder / f".{name}"
            temporary.write_text(make(folder))
            temporary.chmod(0o444)
            temporary.replace(file)
            made.append(name)
    return made


_EXAMPLES = re.compile(r"change.?me|example|passw|secret|placeholder|your.?key|12345678", re.IGNORECASE)
_LEAST_CHARACTERS = 16
_PASSWORD_OF_ADDRESS = re.compile(r"://[^:/@]*:([^@]*)@")


def refusals(folder: Path) -> list[str]:
    """What is wrong with the secrets that are there, a line for each that keeps nobody out."""
    found = []
    for name, make in SECRETS.items():
        text = _read(folder, name) if (folder / name).exists() else None
        if text is None:
            continue
        password = _PASSWORD_OF_ADDRESS.search(text)
        if not text:
            found.append(f"{name} is empty")
        elif make is _random and len(text) < _LEAST_CHARACTERS:
            found.append(f"{name} has {len(text)} characters, and {_LEAST_CHARACTERS} are the least")
        elif (make is _random and _EXAMPLES.search(text)) or (password and _EXAMPLES.search(password[1])):
            found.append(f"{name} reads like an example, which others can guess")
    return found


def _random(_: Path) -> str:
    return secrets.token_urlsafe(32)


def _read(folder: Path, name: str) -> str:
    return (folder / name).read_text().strip()


def _database(name: str, scheme: str) -> Callable[[Path], str]:
    return lambda folder: f"{scheme}://maskline:{_read(folder, 'postgres_password')}@postgres:5432/{name}"


def _identities(folder: Path) -> str:
    keys = {"accessKey": "maskline", "secretKey": _read(folder, "objects_key")}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    return json.dumps({"identities": [{"name": "maskline", "credentials": [keys], "actions": actions}]})


SECRETS: dict[str, Callable[[Path], str]] = {
    "airflow_admin_password": _random,
    "airflow_fernet_key": lambda _: base64.urlsafe_b64encode(os.urandom(32)).decode(),
    "airflow_jwt_secret": _random,
    "airflow_secret_key": _random,
    "postgres_password": _random,
    "airflow_database": _database("airflow", "postgresql+psycopg2"),
    "airflow_results": _database("airflow", "db+postgresql+psycopg2"),
    "mlflow_database": _database("mlflow", "postgresql+psycopg2"),
    "redis_password": _random,
    "redis_configuration": lambda folder: f"requirepass {_read(folder, 'redis_password')}\nappendonly yes\n",
    "airflow_broker": lambda folder: f"redis://:{_read(folder, 'redis_password')}@redis:6379/0",
    "objects_key": _random,
    "objects_identities": _identities,
    "objects_credentials": lambda folder: (
        f"[default]\naws_access_key_id = maskline\naws_secret_access_key = {_read(folder, 'objects_key')}\n"
    ),
}
"""In the order of making: what others quote comes first"""
QUOTED_BY = {
    "postgres_password": ("airflow_database", "airflow_results", "mlflow_database"),
    "redis_password": ("redis_configuration", "airflow_broker"),
    "objects_key": ("objects_identities", "objects_credentials"),
}


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: make_secrets.py FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    if wrong := refusals(folder):
        refused = [line.split()[0] for line in wrong]
        quoting = [name for one in refused for name in QUOTED_BY.get(one, ()) if (folder / name).exists()]
        names = " ".join(str(folder / name) for name in dict.fromkeys([*refused, *quoting]))
        print("\n".join(f"error: {folder}/{line}" for line in wrong), file=sys.stderr)
        print(
            f"  fix: rm {names}\n  then run this again, which makes new ones, and tell them to the services that keep the old ones"
            " (docs/containers.md#what-protects-it)",
            file=sys.stderr,
        )
        return 2
    made = make_secrets(folder)
    print(f"made in {folder}: {', '.join(made)}" if made else f"every secret is in {folder}")
    print(f"Airflow's first login: admin, with the password in {folder}/airflow_admin_password")
    return 0


if __name__ == "__main__":
    sys.exit(main())
