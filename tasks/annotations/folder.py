"""What lies in a folder, local or remote, in one order on every machine."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from tasks.records.checks import Check, DataError
from tasks.running.pointer_file import pointer_in
from tasks.running.workspace import decoded


def names(folder: Path) -> tuple[str, ...]:
    """The names of a folder's entries, hidden ones left out, sorted. OSError where there is no such folder."""
    return tuple(sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".")))


def required_names(folder: Path, key: str) -> tuple[str, ...]:
    """The names in a folder that the YAML's `key` leads to; DataError where there is none."""
    try:
        return names(folder)
    except OSError as error:
        raise DataError(
            Check.SOURCE_MISSING,
            f"{folder}: the folder cannot be listed: {error.strerror or 'there is none'}",
            f"correct `{key}` in the dataset's YAML",
        ) from error


def files_at_any_depth(folder: Path, key: str) -> list[str]:
    """The files' paths relative to the folder, in order; DataError where there is no such folder."""
    return list(_files(folder, required_names(folder, key)))


def files_by_stem(folder: Path, key: str, ending: str = "") -> dict[str, str]:
    """The files at any depth whose stems have this ending: paths relative to the folder, under themselves less ending and suffix.

    DataError where there is no such folder, or two files would go by one stem.
    """
    found: dict[str, str] = {}
    for file in files_at_any_depth(folder, key):
        path = PurePosixPath(file)
        if not path.stem.endswith(ending):
            continue
        other = found.setdefault(str(path.with_name(path.stem.removesuffix(ending) or path.name)), file)
        if other != file:
            raise DataError(
                Check.DUPLICATE_ID, f"{folder}: {other} and {file} differ in their suffix only", f"leave one of them in `{key}`"
            )
    return found


def listed_words(path: Path, key: str) -> list[list[str]]:
    """The words of each line of a file, as `listed_lines`."""
    return [line.split() for line in listed_lines(path, key)]


def listed_lines(path: Path, key: str) -> list[str]:
    """The lines of a text file that the YAML's `key` leads to, stripped, but for empty ones and those that start with `#`.

    DataError where it cannot be read.
    """
    try:
        content = path.read_bytes()
        text = decoded(content)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            Check.SOURCE_MISSING, f"{path}: the list cannot be read: {error}", f"correct `{key}` in the dataset's YAML"
        ) from error
    if pointer := pointer_in(content):
        raise DataError(Check.SOURCE_MALFORMED, f"{path}: {pointer.problem}", pointer.fix)
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def confirm_paired(images: Collection[str], masks: Collection[str], where: str, fix: str, has_endings: bool = False) -> None:
    """DataError where none of several belong together: `images` and `masks` are the stems by which they are paired.

    Where the stems of most differ in an ending, and there are keys for that (`has_endings`), these are told.
    """
    if not images or not masks or set(images) & set(masks):
        return
    image = min(images)
    mask = max(sorted(masks), key=lambda stem: (len(_common_start(image, stem)), -len(stem)))
    start = len(_common_start(image, mask).rstrip("_-. "))
    ends = {"image_ending": image[start:], "mask_ending": mask[start:]}
    own = {stem.removesuffix(ends["image_ending"]) for stem in images if stem.endswith(ends["image_ending"])}
    others = {stem.removesuffix(ends["mask_ending"]) for stem in masks if stem.endswith(ends["mask_ending"])}
    explained = has_endings and start > 0 and 2 * len(own & others) > len(images)
    if not explained and min(len(images), len(masks)) == 1:
        return  # A single one may lack its partner, and is missed by name.
    raise DataError(
        Check.SOURCE_MALFORMED,
        f"{where}: no mask has an image's name: the images are called as {image!r}, the masks as {min(masks)!r}",
        f"give {', '.join(f'`{key}: {end}`' for key, end in ends.items() if end)}" if explained else fix,
    )


def _common_start(one: str, other: str) -> str:
    return "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def portable(text: str, folder: Path) -> tuple[str, tuple[Check, ...]]:
    """A path inside `folder` as annotations have it, with `/` where Windows' tools wrote `\\`, and what was mended in it.

    Where a file has just that name, `\\` is a letter of it.
    """
    if "\\" not in text or (isinstance(folder, Path) and (folder / text).exists()):
        return text, ()
    return text.replace("\\", "/"), (Check.PATH_SEPARATORS,)


def _files(folder: Path, entries: tuple[str, ...], above: str = "") -> Iterator[str]:
    for name in entries:
        # To ask whether an entry is a folder takes a request each on remote stores; what has a suffix is taken for a file.
        if not PurePosixPath(name).suffix and (folder / name).is_dir():
            yield from _files(folder / name, names(folder / name), f"{above}{name}/")
        else:
            yield above + name
