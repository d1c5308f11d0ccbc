"""Where runs and data sets are kept: a folder, or an object store, of which each machine has a copy of what its steps work on.

    MASKLINE_WORKSPACE        the folder, or a URL such as `s3://bucket/maskline`; default `<repository>/workspace`
    MASKLINE_WORKING_COPIES   of a URL, the folder of this machine's copies; default `~/.cache/maskline`

The steps bring and send what they work on (`tasks/running/working_copy.py`); here are only the names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Not from `form`, which imports Airflow: that reads its settings at once, and the local stack has yet to make them.
REPOSITORY = Path(__file__).resolve().parents[2]


def workspace() -> str:
    """As the steps are told it: an absolute path, or a URL."""
    named = (os.environ.get("MASKLINE_WORKSPACE") or str(REPOSITORY / "workspace")).rstrip("/")
    return named if "://" in named else str(Path(named).absolute())


def is_remote() -> bool:
    return "://" in workspace()


def shared_folder() -> Path:
    """What a step in a container needs of its machine: the workspace, or the folder of the copies."""
    if not is_remote():
        return Path(workspace())
    return Path(os.environ.get("MASKLINE_WORKING_COPIES") or Path.home() / ".cache" / "maskline").absolute()


def local_folder() -> Path:
    """The workspace, or of a URL the copy of this machine, as the steps name it too."""
    return shared_folder() / workspace().replace("://", "/") if is_remote() else Path(workspace())


def environment() -> dict[str, str]:
    """What a step is told of it."""
    return {"MASKLINE_WORKSPACE": workspace()} | ({"MASKLINE_WORKING_COPIES": str(shared_folder())} if is_remote() else {})


def address(text: str) -> str:
    """A path of the copy as every machine knows it."""
    return text.replace(str(local_folder()), workspace())


def stored(path: Path) -> Any:
    """The file in the store that a path of the copy stands for; the file itself where the workspace is a folder."""
    if not is_remote():
        return path
    from upath import UPath

    return UPath(address(str(path)))
