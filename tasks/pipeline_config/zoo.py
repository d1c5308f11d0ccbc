"""The four zoo configs by name."""

from __future__ import annotations

from pathlib import Path

from tasks.errors import UserError
from tasks.pipeline_config.fields import nearest

_HERE = Path(__file__).resolve()
_FOLDERS = (_HERE.parents[2] / "configs" / "zoo", _HERE.parent / "zoo")
"""In a checkout; in an installed package."""


def zoo_configs() -> dict[str, Path]:
    """The zoo's config files by name, in the order of their names."""
    for folder in _FOLDERS:
        files = sorted(folder.glob("*.config"))
        if files:
            return {file.stem: file for file in files}
    raise UserError("the zoo configs are missing from this installation", "install maskline again")


def find_config(name_or_path: str) -> Path:
    """The file of a zoo config's name, or of a path; raises UserError with the nearest name where there is neither."""
    zoo = zoo_configs()
    if name_or_path in zoo:
        return zoo[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    looks_like_path = path.suffix == ".config" or len(path.parts) > 1
    hint = "correct the path, or give a zoo config's name: " + ", ".join(zoo)
    raise UserError(f"there is no config {name_or_path}", hint if looks_like_path else nearest(name_or_path, zoo))
