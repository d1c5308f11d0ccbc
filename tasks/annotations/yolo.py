"""YOLO's segmentation labels as Ultralytics, Roboflow and Label Studio write them: a text file for each image, a line for each object.

A line is the class's number and the outline's x, y, x, y, ... as shares of the image's width and height. The file of an image is found as
Ultralytics finds it: the last folder `images` of its path becomes `labels`, and its suffix `.txt`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from tasks.annotations.folder import files_at_any_depth, listed_lines, names, portable
from tasks.annotations.source import ListedImage, Listing, SourceObject
from tasks.annotations.split_names import split_meaning
from tasks.records.checks import BadImageError, Check, DataError
from tasks.running.errors import UserError
from tasks.running.pointer_file import pointer_in
from tasks.running.workspace import decoded, read_bytes

_IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")
_BOX_NUMBERS = 4
_FEWEST_OUTLINE_NUMBERS = 6
_ROUNDING = 0.01  # of the image's side; outlines of objects at the border end as far outside in real exports


@dataclass(frozen=True)
class YoloSource:
    """Either `data` with `split`: a `data.yaml` and which of its lists; or `images`, a folder, with `classes` or `categories`.

    `classes` is a text file with a name a line, `categories` are the names themselves; `labels` is the folder of the label files where
    they are not where Ultralytics would look for them. An image without a label file shows no object.
    """

    data: Path | None = None
    split: str | None = None
    images: Path | None = None
    labels: Path | None = None
    classes: Path | None = None
    categories: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        given = {key for key in ("data", "split", "images", "labels", "classes", "categories") if getattr(self, key) is not None}
        if given != {"data", "split"} and given - {"labels"} not in ({"images", "classes"}, {"images", "categories"}):
            raise UserError(
                f"yolo: {' and '.join(sorted(given)) or 'nothing'} is given",
                "give `data` (a data.yaml) with `split`, or `images` with `classes` (a file of names) or `categories` (the names)",
            )

    def list(self) -> Listing:
        if self.data is None or self.split is None:
            assert self.images is not None
            categories = self.categories if self.classes is None else listed_lines(self.classes, "classes")
            return Listing(dict(enumerate(categories or ())), self._images([self.images], self.images))
        description = _Description.read(self.data)
        images = self._images(description.places(self.split), description.root)
        return Listing(dict(enumerate(description.names)), images, notes=description.notes)

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        for path in image.files:
            for index, line in enumerate(_text(path).splitlines(), start=1):
                if line.strip():
                    yield _object(f"{path}: line {index}", line.split(), size)

    def _images(self, places: Sequence[Path], root: Path) -> Iterator[ListedImage]:
        """The images of folders and lists; a label file of a folder that has no image is listed as the image that it should have."""
        for place in places:
            listed = list(self._of_list(place, root) if place.suffix == ".txt" else self._of_folder(place, root))
            if listed and not any(image.files for image in listed):
                raise DataError(
                    Check.SOURCE_MISSING,
                    f"{place}: none of its {len(listed)} images has a label file, such as {self._label_of(listed[0].path)}",
                    "bring the label files there, or give `images` and `labels`",
                )
            yield from listed

    def _label_of(self, image: Path) -> Path:
        return _beside(image) if self.labels is None else self.labels / f"{image.stem}.txt"

    def _of_folder(self, folder: Path, root: Path) -> Iterator[ListedImage]:
        labels = self.labels or _beside(folder / "_").parent
        images = _by_stem(folder, files_at_any_depth(folder, "data" if self.data else "images"), _IMAGE_SUFFIXES)
        files = files_at_any_depth(labels, "labels") if self.labels or labels.is_dir() else []
        found = _by_stem(labels, [file for file in files if file != "classes.txt"], (".txt",))
        for stem in sorted({*images, *found}):
            file = folder / images.get(stem, f"{stem}.jpg")
            yield _listed(file, root, labels / found[stem] if stem in found else None)

    def _of_list(self, path: Path, root: Path) -> Iterator[ListedImage]:
        """The images that a text file names, a path a line, from the file's folder on."""
        known: dict[Path, frozenset[str]] = {}
        for line in listed_lines(path, "data"):
            name, findings = portable(line, path.parent)
            file = path.parent / name
            file = Path(os.path.normpath(file)) if isinstance(file, Path) else file
            label = _beside(file)
            if label.parent not in known:
                known[label.parent] = frozenset(names(label.parent)) if label.parent.is_dir() else frozenset()
            yield _listed(file, root, label if label.name in known[label.parent] else None, findings)


def labelled_splits(data: Path) -> tuple[Sequence[str], Sequence[str]]:
    """Of train, val and test, those that a `data.yaml` lists images with labels of, and those that it lists besides.

    A split of the same images as an earlier one is among the latter. None at all where it is another YAML.
    """
    try:
        description = _Description.read(data)
    except DataError:
        return (), ()
    listed = [split for split in ("train", "val", "test") if description.key_of(split)]
    labelled: dict[str, Sequence[Path]] = {}
    for split in listed:
        places = description.places(split)
        try:
            if places not in labelled.values() and any(image.files for image in YoloSource(data, split).list().images):
                labelled[split] = places
        except DataError:  # what is missing or without labels is none to choose
            continue
    return tuple(labelled), [split for split in listed if split not in labelled] if labelled else ()


@dataclass(frozen=True)
class _Description:
    """A `data.yaml`: `root` is what its paths start at, `lists` what it says of each split."""

    path: Path
    root: Path
    names: tuple[str, ...]
    lists: Mapping[str, Sequence[str]]
    notes: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> _Description:
        """DataError, naming the key, where it cannot be used."""
        try:
            content = yaml.safe_load(_text(path))
        except BadImageError as error:
            raise DataError(
                Check.SOURCE_MISSING, error.message, f"correct `data` in the dataset's YAML, or the file: {error.fix}"
            ) from error
        except yaml.YAMLError as error:
            raise _malformed(path, f"not YAML: {error}", "name a data.yaml as Ultralytics describes it") from error
        if not isinstance(content, dict):
            raise _malformed(path, "no mapping of keys to values", "name a data.yaml as Ultralytics describes it")
        if "kpt_shape" in content:
            raise _malformed(path, "its labels are of poses (`kpt_shape`)", "name a data.yaml of segmentation labels")
        lists = {}
        for key, value in content.items():
            entries = value if isinstance(value, list) else [value]
            if key in ("path", "names", "download") or not entries or not all(isinstance(one, str) and one for one in entries):
                continue
            lists[str(key)] = [one.replace("\\", "/") for one in entries]
        root, notes = _root(path, content.get("path"))
        return cls(path, root, _names(path, content), lists, notes)

    def key_of(self, split: str) -> str | None:
        """The file's own word for a split, None where it does not list it."""
        if split in self.lists:
            return split
        return next((key for key in self.lists if split_meaning(key) == split_meaning(split) is not None), None)

    def places(self, split: str) -> Sequence[Path]:
        """Folders and text files of a split, in their order."""
        key = self.key_of(split)
        if key is None:
            raise _malformed(self.path, f"it lists no {split}", f"add `{split}`, or give as `split` what it has")
        return [self._place(text) for text in self.lists[key]]

    def _place(self, text: str) -> Path:
        """Where an entry leads; Roboflow writes `../train/images` for what lies beside the file, and Ultralytics knows that."""
        place = self.root / text
        if not place.exists() and text.startswith("../"):
            return self.root / text.removeprefix("../")
        return Path(os.path.normpath(place)) if isinstance(place, Path) else place


def _root(data: Path, path: object) -> tuple[Path, tuple[str, ...]]:
    """What the paths of a `data.yaml` start at, its `path`, or its own folder where that leads to none here; and what to say of that."""
    if not isinstance(path, str) or not path:
        return data.parent, ()
    named = data.parent / path.replace("\\", "/")
    if named.is_dir():
        return (Path(os.path.normpath(named)) if isinstance(named, Path) else named), ()
    return data.parent, (f"{data}: there is no folder {path}, its `path`; its own folder stands in",)


def _names(path: Path, content: Mapping[Any, Any]) -> tuple[str, ...]:
    names, count = content.get("names"), content.get("nc")
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[index] for index in range(len(names))]
    if names is None and isinstance(count, int) and count > 0:
        names = [f"class_{index}" for index in range(count)]  # as Ultralytics calls them
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int | float) for name in names):
        raise _malformed(path, f"names is {names!r}", "name the classes in a list, or by their numbers 0, 1, 2, ...")
    if count is not None and count != len(names):
        raise _malformed(path, f"nc is {count!r}, and there are {len(names)} names", "correct one of the two")
    return tuple(str(name) for name in names)


def _by_stem(folder: Path, files: Sequence[str], suffixes: Sequence[str]) -> dict[str, str]:
    """Those with one of the suffixes, by their paths without it; DataError where two would share a label file."""
    found: dict[str, str] = {}
    for file in files:
        path = PurePosixPath(file)
        if path.suffix.lower() not in suffixes:
            continue
        other = found.setdefault(str(path.with_suffix("")), file)
        if other != file:
            raise DataError(
                Check.DUPLICATE_ID, f"{folder}: {other} and {file} differ in their suffix only, and share a label file", "rename one"
            )
    return found


def _beside(image: Path) -> Path:
    """The label file of an image: below `labels` instead of the last `images`, else in the same folder."""
    parts = image.parent.parts
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        above = image.parents[len(parts) - last - 1].parent
        return above.joinpath("labels", *parts[last + 1 :], f"{image.stem}.txt")
    return image.with_name(f"{image.stem}.txt")


def _listed(file: Path, root: Path, label: Path | None, findings: tuple[Check, ...] = ()) -> ListedImage:
    name = os.path.relpath(str(file), str(root)).replace(os.sep, "/")
    return ListedImage(str(PurePosixPath(name).with_suffix("")), name, file, None, None, () if label is None else (label,), findings)


def _text(path: Path) -> str:
    """BadImageError where it cannot be opened or is no text."""
    try:
        content = read_bytes(path)
        text = decoded(content)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise BadImageError(
            Check.ANNOTATION_MALFORMED, f"{path}: the file cannot be read: {reason or error}", "export it again, or remove the image"
        ) from error
    if pointer := pointer_in(content):
        raise BadImageError(Check.ANNOTATION_MALFORMED, f"{path}: {pointer.problem}", pointer.fix)
    return text


def _object(where: str, words: Sequence[str], size: tuple[int, int]) -> SourceObject:
    """The object of a line; BadImageError where it is neither an outline nor a box."""
    try:
        category, *shares = map(float, words)
    except ValueError:
        raise _bad(where, f"it has a word that is no number: {' '.join(words)!r}") from None
    if not category.is_integer():  # nor infinite, nor no number
        raise _bad(where, f"its class is {words[0]}")
    if len(shares) != _BOX_NUMBERS and (len(shares) < _FEWEST_OUTLINE_NUMBERS or len(shares) % 2):
        raise _bad(where, f"its class is followed by {len(shares)} numbers: a box has 4, an outline 6, 8, 10, ...")
    if not all(-_ROUNDING <= share <= 1 + _ROUNDING for share in shares):
        raise _bad(where, "its coordinates are no shares of the image's size: they are to be between 0 and 1")
    height, width = size
    if len(shares) == _BOX_NUMBERS:
        x, y, across, down = shares
        box = ((y - down / 2) * height, (x - across / 2) * width, (y + down / 2) * height, (x + across / 2) * width)
        return SourceObject(where, int(category), None, box)
    return SourceObject(where, int(category), [[share * (height if index % 2 else width) for index, share in enumerate(shares)]])


def _bad(where: str, what: str) -> BadImageError:
    return BadImageError(Check.ANNOTATION_MALFORMED, f"{where}: {what}", "correct the line, or remove the image")


def _malformed(path: Path, what: str, fix: str) -> DataError:
    return DataError(Check.SOURCE_MALFORMED, f"{path}: {what}", fix)
