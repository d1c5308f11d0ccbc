"""What is shipped under a name: the four zoo configs, and label maps of the data that their checkpoints were trained on."""

from __future__ import annotations

from pathlib import Path

from tasks.pipeline_config.fields import nearest
from tasks.running.errors import UserError

_HERE = Path(__file__).resolve()
_ROOTS = (_HERE.parents[2] / "configs", _HERE.parent)
"""In a checkout; in an installed package."""


def zoo_configs() -> dict[str, Path]:
    """The zoo's config files by name, in the order of their names."""
    return _shipped("zoo", ".config")


def find_config(name_or_path: str) -> Path:
    """The file of a zoo config's name, or of a path; raises UserError with the nearest name where there is neither."""
    return _find(name_or_path, zoo_configs(), "config", "a zoo config's name")


def find_label_map(name_or_path: str) -> Path:
    """The absolute path of a shipped label map (`coco`), or of a file; raises UserError where there is neither."""
    return _find(name_or_path, _shipped("label_maps", ".pbtxt"), "label map", "a name").absolute()


def _shipped(folder: str, suffix: str) -> dict[str, Path]:
    for root in _ROOTS:
        files = sorted((root / folder).glob(f"*{suffix}"))
        if files:
            return {file.stem: file for file in files}
    raise UserError(f"the {folder} are missing from this installation", "install maskline again")


def _find(name_or_path: str, shipped: dict[str, Path], what: str, name: str) -> Path:
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    suffix = next(iter(shipped.values())).suffix
    looks_like_path = path.suffix == suffix or len(path.parts) > 1
    hint = f"correct the path, or give {name}: {', '.join(shipped)}"
    raise UserError(f"there is no {what} {name_or_path}", hint if looks_like_path else nearest(name_or_path, shipped))
