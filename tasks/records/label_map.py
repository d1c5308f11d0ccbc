"""Label maps: the names of label-map ids, in the Object Detection API's text files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format

from tasks.records.annotated_image import Category
from tasks.records.checks import Check, DataError
from tasks.records.label_map_pb2 import StringIntLabelMap, StringIntLabelMapItem
from tasks.running.pointer_file import pointer_in
from tasks.running.workspace import decoded

_BACKGROUND = "background"
_QUOTED_ID = re.compile(r"""((?:^|[\s{,;])id\s*:\s*)(["'])\s*(\d+)\s*\2""")


@dataclass(frozen=True)
class LabelMap:
    """Categories by ascending id, 1 or more; gaps are allowed."""

    categories: tuple[Category, ...]
    display_names: Mapping[int, str] = field(default_factory=dict)
    """By id, where the file gives one beside the name"""
    repeated_names: Mapping[int, str] = field(default_factory=dict)
    """By id, the name in the file where several items have it; the category's own is then made up, and no other's"""

    @property
    def num_classes(self) -> int:
        """The highest id: a model's number of foreground classes, gaps included, as the original counts them."""
        return max(category.id for category in self.categories)

    @property
    def names(self) -> dict[int, str]:
        return {category.id: category.name for category in self.categories}

    @property
    def ids(self) -> dict[str, int]:
        """By every text that means one category alone: its name, else its display name."""
        times = Counter(self.display_names.values())
        displayed = {text: number for number, text in self.display_names.items() if times[text] == 1}
        names = {category.name: category.id for category in self.categories}
        return {**{text: number for text, number in displayed.items() if text not in self.repeated_names.values()}, **names}


def label_map(categories: Iterable[Category], where: str) -> LabelMap:
    """The label map of categories in any order; `where` names their source in errors.

    DataError where there are none, an id is below 1 or taken twice, or a name is empty or taken twice.
    """
    ordered = tuple(sorted(categories))
    if not ordered:
        raise _malformed(f"{where}: there are no categories", "name at least one")
    for category in ordered:
        if category.id < 1:
            raise _malformed(f"{where}: category {category.name!r} has id {category.id}", "number categories from 1; 0 is the background")
        if not category.name:
            raise _malformed(f"{where}: category {category.id} has no name", "name it")
    for what, values in (("id", [c.id for c in ordered]), ("name", [c.name for c in ordered])):
        value, times = Counter[object](values).most_common(1)[0]
        if times > 1:
            raise DataError(
                Check.DUPLICATE_ID, f"{where}: {times} categories have the {what} {value!r}", f"give each category a {what} of its own"
            )
    return LabelMap(ordered)


def parse_label_map(text: str, where: str) -> LabelMap:
    """The label map of a StringIntLabelMap in text format; a `background` with id 0 is left out, fields we do not use are passed over.

    An item is known by its `name`, or else by its `display_name`. Items of one name, as the `NA` of ids that are not in use, are told
    apart by their ids. `where` names the text in errors.
    """
    try:
        message = _message(text, where)
    except text_format.ParseError as error:
        raise _malformed(f"{where}:{error}", 'write items as `item { id: 1 name: "cat" }`') from error
    names: list[tuple[int, str]] = []
    displayed = {}
    for index, item in enumerate(message.item):
        name = item.name or item.display_name
        if not item.HasField("id"):
            raise _malformed(f"{where}: item {index} ({name!r}) has no id", "number categories from 1")
        if item.id == 0 and name == _BACKGROUND:
            continue
        names.append((item.id, name))
        if item.display_name not in ("", name):
            displayed[item.id] = item.display_name
    times = Counter(name for _, name in names)
    repeated = {number: name for number, name in names if name and times[name] > 1}
    own = label_map([Category(number, f"{name} ({number})" if number in repeated else name) for number, name in names], where)
    return LabelMap(own.categories, displayed, repeated)


def _message(text: str, where: str) -> StringIntLabelMap:
    try:
        return text_format.Parse(text, StringIntLabelMap(), allow_unknown_field=True)
    except text_format.ParseError:
        unquoted, ids = _QUOTED_ID.subn(r"\1\3", text)
        if not ids:
            raise
        message = text_format.Parse(unquoted, StringIntLabelMap(), allow_unknown_field=True)
        print(f"{where}: {ids} ids are written as text; they are read as the numbers", flush=True)
        return message


def read_label_map(path: Path) -> LabelMap:
    """The label map in a file; DataError where it is missing or not one."""
    try:
        content = path.read_bytes()
        text = decoded(content)
    except OSError as error:
        raise DataError(
            Check.SOURCE_MISSING, f"{path}: the label map cannot be opened: {error.strerror or error}", "correct the path"
        ) from error
    except UnicodeDecodeError as error:
        raise _malformed(f"{path}: the label map is not text: {error}", "write it as UTF-8 text") from error
    if pointer := pointer_in(content):
        raise _malformed(f"{path}: {pointer.problem}", pointer.fix)
    return parse_label_map(text, str(path))


def print_label_map(labels: LabelMap) -> str:
    """The label map in text format, one item a category, as `parse_label_map` and the original read it."""
    items = [
        StringIntLabelMapItem(id=c.id, name=labels.repeated_names.get(c.id, c.name), display_name=labels.display_names.get(c.id))
        for c in labels.categories
    ]
    message = StringIntLabelMap(item=items)
    return text_format.MessageToString(message, as_utf8=True)


def _malformed(message: str, fix: str) -> DataError:
    return DataError(Check.SOURCE_MALFORMED, message, fix)
