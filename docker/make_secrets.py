"""The secrets of `compose.yaml`, as files: `python make_secrets.py FOLDER`.

What is there stays, so that running it again changes no password. The folder opens for its owner alone; the files in it have to be readable
by the users of the containers, which see each its own.
"""

from __future__ import annotations

import base64
import json
import os
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


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: make_secrets.py FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    made = make_secrets(folder)
    print(f"made in {folder}: {', '.join(made)}" if made else f"every secret is in {folder}")
    print(f"Airflow's first login: admin, with the password in {folder}/airflow_admin_password")
    return 0


if __name__ == "__main__":
    sys.exit(main())
