"""The results of a split's files of records, each written by itself, and joined to the files that an evaluation leaves.

An evaluation of the whole is always the join of its parts, so it is the same whoever has written them, and a killed one goes on where it
was. A part counts as written when its matches are, which come last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tasks.coco.matches import WITH_MASKS, WITHOUT_MASKS, Matches, NotMatchesError, joined, no_matches, read_matches, write_matches
from tasks.evaluation.image_results import ImageResult, Settings
from tasks.running.workspace import written_whole

_MOST_DIGITS = 20  # of an image id, 64 bits


@dataclass(frozen=True)
class FirstImage:
    """One of a split's first images, with its objects and detections in COCO's formats."""

    image: Mapping[str, Any]
    objects: Sequence[Mapping[str, Any]]
    masks: Sequence[Mapping[str, Any]]
    boxes: Sequence[Mapping[str, Any]]


class Parts:
    """The parts in a folder; `files` are the split's files of records, in order."""

    def __init__(self, folder: Path, files: Sequence[str], settings: Settings) -> None:
        self.folder, self.files, self.settings = folder, files, settings

    def missing(self) -> list[int]:
        """The numbers of those that are not written yet."""
        return [number for number in range(len(self.files)) if not self._is_whole(number)]

    def write(self, number: int, results: Iterable[ImageResult]) -> int:
        """Writes the part of a file of records, from results in any order; how many images it has."""
        self.folder.mkdir(parents=True, exist_ok=True)
        matches: list[Matches] = []
        with written_whole(self._lines(number)) as stream:
            for result in _in_order(results):
                matches.append(result.matches)
                stream.write(result.line().encode() + b"\n")
        write_matches(self._matches(number), self._joined(matches, range(len(matches)), {}))
        return len(matches)

    def join(self, folder: Path, about: Mapping[str, Any], first: int) -> tuple[Matches, list[FirstImage]]:
        """Writes COCO's files into `folder`; the matches of all images come back, and the first images.

        The files are `groundtruth.json` and `detections.json`, of masks where there are masks, and then beside it `detections_boxes.json`.
        An image's id is `free_image_id` of its record's source id.
        """
        with_masks = self.settings.with_masks
        ids: dict[int, None] = {}
        images: list[dict[str, Any]] = []
        shown: list[FirstImage] = []
        count = 0
        names = {"boxes": "detections_boxes.json", "masks": "detections.json"} if with_masks else {"boxes": "detections.json"}
        with ExitStack() as stack:
            truth = stack.enter_context(written_whole(folder / "groundtruth.json"))
            truth.write(b'{"annotations": ')
            annotations = _JsonList(truth)
            lists = {kind: _JsonList(stack.enter_context(written_whole(folder / name))) for kind, name in names.items()}
            for line in self._all_lines():
                one = json.loads(line)
                number = free_image_id(one["source_id"], ids)
                ids[number] = None
                images.append({"id": number, **{name: one[name] for name in ("file_name", "height", "width")}})
                objects = [f'{{"id":{count + place},"image_id":{number},{text[1:]}' for place, text in enumerate(one["objects"], start=1)]
                count += len(objects)
                annotations.extend(objects)
                found = {kind: [f'{{"image_id":{number},{text[1:]}' for text in one[kind]] for kind in ("masks", "boxes")}
                for kind, written in lists.items():
                    written.extend(found[kind])
                if len(shown) < first:
                    shown.append(FirstImage(images[-1], *(list(map(json.loads, texts)) for texts in (objects, *found.values()))))
            for written in (annotations, *lists.values()):
                written.end()
            categories = [{"id": number, "name": name} for number, name in self.settings.categories]
            truth.write(f', "images": {json.dumps(images)}, "categories": {json.dumps(categories)}}}\n'.encode())
        matches = [read_matches(self._matches(number)) for number in range(len(self.files))]
        return self._joined(matches, list(ids), about), shown

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _joined(self, matches: list[Matches], ids: Sequence[int], about: Mapping[str, Any]) -> Matches:
        nothing = no_matches(self.settings.categories, WITH_MASKS if self.settings.with_masks else WITHOUT_MASKS)
        return joined(matches or [nothing], ids, about)

    def _is_whole(self, number: int) -> bool:
        try:
            read_matches(self._matches(number))
        except NotMatchesError:
            return False
        return True

    def _all_lines(self) -> Iterator[bytes]:
        for number in range(len(self.files)):
            with self._lines(number).open("rb") as stream:
                yield from stream

    def _lines(self, number: int) -> Path:
        return self.folder / f"{number:05d}.jsonl"

    def _matches(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npz"


class _JsonList:
    """A list in a JSON file, which is written element by element, as texts."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._separator = stream, "[\n"

    def extend(self, texts: Sequence[str]) -> None:
        if texts:
            self._stream.write((self._separator + ",\n".join(texts)).encode())
            self._separator = ",\n"

    def end(self) -> None:
        self._stream.write(b"[]" if self._separator.startswith("[") else b"\n]")


def _in_order(results: Iterable[ImageResult]) -> Iterator[ImageResult]:
    """Results by their index, from 0 on, each as soon as those before it are there."""
    early: dict[int, ImageResult] = {}
    due = 0
    for result in results:
        early[result.index] = result
        while due in early:
            yield early.pop(due)
            due += 1


def free_image_id(source_id: str, taken: Mapping[int, None]) -> int:
    """A record's source id where that is a whole number of up to 64 bits that is not taken; else the next free number."""
    number = int(source_id) if source_id.isdecimal() and len(source_id) <= _MOST_DIGITS else len(taken) + 1
    while number in taken:
        number += 1
    return number
