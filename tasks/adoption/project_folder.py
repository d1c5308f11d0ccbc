"""The files of a project that the original's steps read and wrote, wherever they lie below a folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tasks.checkpoints.files import FROZEN_GRAPH, SAVED_MODEL, TARBALLS, latest_prefix, prefixes
from tasks.records.label_map import LabelMap, read_label_map
from tasks.records.tfrecord import HEADER_BYTES, content_length
from tasks.running.errors import UserError
from tasks.running.pointer_file import pointer_at

MOST_FILES = 2_000_000
_LARGEST_LABEL_MAP = 2**20

_RECORDS = re.compile(r".+\.(tf)?records?([-_.]\d+-(of-)?\d+)?", re.IGNORECASE)
_EVENTS = "tfevents"
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff")
_PRETRAINED = re.compile(r"pre-?trained.*|.*_\d{4}_\d\d_\d\d|.*_(tpu|gpu)-\d+", re.IGNORECASE)
_NUMBER = re.compile(r".*-(\d+)")


@dataclass(frozen=True)
class Weights:
    """A checkpoint, or a model that was exported: what `find_checkpoint` takes, and the folder that belongs to it."""

    path: Path
    home: Path
    is_training: bool
    """Whether a training wrote it, which may go on"""
    others: tuple[str, ...] = ()
    """Earlier checkpoints of the same training, and other forms of the same export, by name"""

    @property
    def number(self) -> int | None:
        """The number at the end of a checkpoint's name: TF1's step, TensorFlow 2's count of checkpoints."""
        match = _NUMBER.fullmatch(self.path.name)
        return int(match[1]) if match else None


@dataclass
class ProjectFolder:
    """Paths by what they are, each list in the order of the paths."""

    root: Path
    configs: list[Path] = field(default_factory=list)
    label_maps: dict[Path, LabelMap] = field(default_factory=dict)
    records: list[Path] = field(default_factory=list)
    weights: list[Weights] = field(default_factory=list)
    tarballs: list[Path] = field(default_factory=list)
    images: Counter[Path] = field(default_factory=Counter)
    """By folder, how many there are"""
    links: list[Path] = field(default_factory=list)
    """To folders, which are not followed"""
    unreadable: list[Path] = field(default_factory=list)
    not_fetched: list[Path] = field(default_factory=list)
    """Pointers that stand for large files"""

    def relative(self, path: Path) -> str:
        """The path as a person knows it, who knows the folder."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def is_pretrained(self, path: Path) -> bool:
        """Whether a file lies where courses and the zoo's tarballs put the models that a project starts from."""
        return any(_PRETRAINED.fullmatch(part) for part in path.relative_to(self.root).parts[:-1])


def look_through(root: Path) -> ProjectFolder:
    """What lies below a folder. UserError where there is no such folder, or far too much in it for a project.

    Not looked into: hidden folders, environments of Python, and the original's own sources, whose samples are no project's.
    """
    if not root.is_dir():
        raise UserError(f"{root} is {'no folder' if root.exists() else 'not there'}", "give the folder of the project")
    found, count = ProjectFolder(root), 0
    for path, folders, files in os.walk(root, onerror=lambda error: found.unreadable.append(Path(error.filename))):
        folder = Path(path)
        folders[:] = sorted(name for name in folders if _is_looked_into(folder / name, found))
        count += len(files)
        if count > MOST_FILES:
            raise UserError(f"{root} holds more than {MOST_FILES} files", "give the folder of the project alone, not one around it")
        _sort_in(folder, sorted(files), found)
    _merge_exports(found)
    return found


def _is_looked_into(folder: Path, found: ProjectFolder) -> bool:
    if folder.is_symlink():
        found.links.append(folder)
        return False
    sources = folder.name == "object_detection" and (folder / "protos").is_dir()
    return not (folder.name.startswith((".", "__")) or folder.name == "site-packages" or sources or (folder / "pyvenv.cfg").is_file())


def _sort_in(folder: Path, names: list[str], found: ProjectFolder) -> None:
    for name in names:
        path, lower = folder / name, name.lower()
        if lower.endswith(_IMAGES):
            found.images[folder] += 1
        elif lower.endswith(".config"):
            found.configs.append(path)
        elif lower.endswith(TARBALLS):
            found.tarballs.append(path)
        elif _RECORDS.fullmatch(name) and _EVENTS not in name:
            (found.not_fetched if pointer_at(path) else found.records if _is_records(path) else []).append(path)
        elif lower.endswith((".pbtxt", ".txt")) and (labels := _label_map(path)) is not None:
            found.label_maps[path] = labels
    if there := prefixes(folder):
        latest = latest_prefix(folder) or max(there, key=_number)
        others = tuple(name for name in there if name != latest)
        # A training numbers its checkpoints; an exporter writes one without a number, or number 0.
        is_training = FROZEN_GRAPH not in names and _number(latest) > 0
        home = folder.parent if folder.name == "checkpoint" else folder
        found.weights.append(Weights(folder / latest, home, is_training, others))
    for name in (FROZEN_GRAPH, SAVED_MODEL):
        if name in names:
            home = folder.parent if folder.name == "saved_model" else folder
            found.weights.append(Weights(folder / name, home, is_training=False))


def _merge_exports(found: ProjectFolder) -> None:
    """Leaves of the forms of one export the first of: checkpoint, frozen graph, SavedModel."""
    exports: dict[Path, list[Weights]] = {}
    for one in found.weights:
        if not one.is_training:
            exports.setdefault(one.home, []).append(one)
    ranks = {FROZEN_GRAPH: 1, SAVED_MODEL: 2}
    merged = []
    for home, forms in exports.items():
        first, *rest = sorted(forms, key=lambda one: ranks.get(one.path.name, 0))
        merged.append(Weights(first.path, home, is_training=False, others=tuple(one.path.name for one in rest)))
    found.weights = sorted([*(one for one in found.weights if one.is_training), *merged], key=lambda one: one.path)


def _number(prefix: str) -> int:
    match = _NUMBER.fullmatch(prefix)
    return int(match[1]) if match else -1


def _is_records(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return content_length(stream.read(HEADER_BYTES)) is not None
    except OSError:
        return False


def _label_map(path: Path) -> LabelMap | None:
    """The label map in a text file; None where it is another text."""
    try:
        if path.stat().st_size > _LARGEST_LABEL_MAP or b"item" not in path.read_bytes():
            return None
        return read_label_map(path)
    except (OSError, UserError):
        return None
