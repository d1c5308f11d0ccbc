"""A folder of a dataset that nobody has described: its files, what their beginnings say, and where the images of annotations are."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NoReturn

from tasks.annotations.split_names import split_meaning
from tasks.running.errors import UserError

DESCRIBE = "describe the dataset by a YAML file: docs/sources.md"
_CHUNK = 1 << 24  # bytes that are looked at at once
_DEPTH = 4  # folders within one another
_SNIFFED_FILES = 20  # of one folder; where there are more, each is of one image, and a few tell
_FEW = 3
_LONGEST_MARK = 64
_TRIED_NAMES = 100
_MARKS = (
    *("images", "annotations", "categories", "image_id", "segments_info", "neg_category_ids", "keypoints", "shapes", "imagePath"),
    *("region_attributes", "shape_attributes", "objects", "size"),
)
_FILE_NAME = re.compile(rb'"(?:file_name|filename|imagePath|coco_url)"\s*:\s*("(?:[^"\\]|\\.)*")')


class FolderTree:
    """The files in a folder, some levels deep, and what the first bytes of its JSONs say."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, list[str]] = {}
        """Names of files, sorted, by the paths of their folders from the root, `.` being the root"""
        for path, folders, files in os.walk(root, onerror=_refuse):
            relative = PurePosixPath(os.path.relpath(path, root).replace(os.sep, "/"))
            folders[:] = sorted(name for name in folders if not name.startswith(".")) if len(relative.parts) < _DEPTH else []
            self.files[str(relative)] = sorted(name for name in files if not name.startswith("."))

    def path(self, *parts: str) -> Path:
        return self.root.joinpath(*parts)

    def named(self, *endings: str) -> Iterator[tuple[str, str]]:
        """Folder and name of each file with one of the endings; of many in one folder, the first ones."""
        for folder, files in self.files.items():
            own = [name for name in files if name.lower().endswith(endings)]
            yield from ((folder, name) for name in (own if len(own) <= _SNIFFED_FILES else own[:_FEW]))

    @cached_property
    def jsons(self) -> list[tuple[str, str, frozenset[str]]]:
        """Folder, name and the keys of interest of each JSON file."""
        return [(folder, name, _marks(self.path(folder, name))) for folder, name in self.named(".json")]

    def beginning(self, path: str, size: int = _CHUNK) -> bytes:
        """The first bytes of a file."""
        try:
            with self.path(path).open("rb") as stream:
                return stream.read(size)
        except OSError as error:
            _refuse(error)

    def image_names(self, path: str) -> Iterator[str]:
        """Names of images, or of what lies beside them, that a JSON's beginning has; of an address, the last two parts."""
        for match in _FILE_NAME.finditer(self.beginning(path)):
            try:
                name = json.loads(match[1])
            except ValueError:
                continue
            yield "/".join(name.split("/")[-2:]) if "://" in name else name.replace("\\", "/")

    def has(self, *folders: str) -> bool:
        return all(folder in self.files for folder in folders)

    def images_of(self, annotations: str, names: Iterable[str], without: str | None = None) -> str:
        """The folder that images' names start at: near the file of `annotations`, and of its split if several have such a file.

        UserError where the first of them are nowhere; `without` is a folder that is not it.
        """
        split, folder = split_of(annotations), str(PurePosixPath(annotations).parent)
        for name in itertools.islice(names, _TRIED_NAMES):
            places = [place for place in self.files if place != without and self.path(place, name).is_file()]
            if places:
                return min(places, key=lambda place: (split_of(place) not in (split, None), _steps(folder, place), place))
        raise UserError(f"{self.path(annotations)}: its images are not in {self.root}", f"bring them there, or {DESCRIBE}")


def split_of(path: str) -> str | None:
    """The split that the last part of a path names, if one does: `instances_train2017.json` and `valid/labels` do."""
    for part in reversed(PurePosixPath(path).parts):
        named = [meaning for word in re.findall("[a-z]+", part.lower()) if (meaning := split_meaning(word))]
        if named:
            return named[0]
    return None


def _steps(folder: str, place: str) -> int:
    """Folders to go up and down from one to the other."""
    return len(PurePosixPath(os.path.relpath(place, folder)).parts)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename} cannot be read: {error.strerror or error}", f"get the right to read it, or {DESCRIBE}") from error


def _marks(path: Path) -> frozenset[str]:
    """Which of the keys that tell formats apart a JSON file has, at any depth."""
    found: set[str] = set()
    rest = b""
    try:
        with path.open("rb") as stream:
            while piece := stream.read(_CHUNK):
                rest += piece
                found |= {mark for mark in _MARKS if mark not in found and f'"{mark}"'.encode() in rest}
                rest = rest[-_LONGEST_MARK:]
    except OSError as error:
        _refuse(error)
    return frozenset(found)
