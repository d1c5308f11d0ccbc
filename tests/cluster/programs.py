"""The servers that the system's packages bring."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

from tests.cluster.service import ClusterError

DEBIAN_PACKAGES = {"initdb": "postgresql", "postgres": "postgresql", "psql": "postgresql", "redis-server": "redis-server"}
_POSTGRESQL = Path("/usr/lib/postgresql")


def programs(postgresql: Path = _POSTGRESQL) -> dict[str, str]:
    """The path of each; of PostgreSQL, whose server Debian keeps off the PATH, the newest. ClusterError that names what to install."""
    newest = sorted(postgresql.glob("*/bin"), key=lambda folder: int(folder.parent.name) if folder.parent.name.isdecimal() else 0)
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *(str(folder) for folder in reversed(newest))])
    found = {name: shutil.which(name, path=path) for name in DEBIAN_PACKAGES}
    if missing := [name for name, where in found.items() if where is None]:
        packages = " ".join(dict.fromkeys(DEBIAN_PACKAGES[name] for name in missing))
        raise ClusterError(
            f"{', '.join(missing)}: neither on the PATH nor in {postgresql}/*/bin\n  fix: apt install {packages} (Debian's names); the "
            "cluster starts servers of its own, and none of the system's has to run"
        )
    return {name: where for name, where in found.items() if where is not None}


def postgres_user() -> str | None:
    """Whom PostgreSQL's server runs as, since it refuses root; None where we are not root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise ClusterError("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody\n  fix: run as another user")
