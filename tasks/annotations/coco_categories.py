"""The categories of a COCO JSON: which of them are classes, and which are only the roots of others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.annotations.source import CategoryKey, ListedImage, Listing
from tasks.records.checks import Check, DataError


class CocoCategories:
    """The categories of a file, and in `used` the ids that its objects have."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[CategoryKey, str] = {}
        self._supercategories: dict[CategoryKey, object] = {}
        self._ids_as_text = 0
        self.used: set[object] = set()

    def add(self, category_id: int, name: str, supercategory: object, was_text: bool) -> None:
        if category_id in self._names:
            raise DataError(
                Check.DUPLICATE_ID,
                f"{self._path}: category id {category_id} is taken twice, by {self._names[category_id]!r} and {name!r}",
                "give each category an id of its own",
            )
        self._names[category_id] = name
        self._supercategories[category_id] = supercategory
        self._ids_as_text += was_text

    def listing(self, images: Iterator[ListedImage]) -> Listing:
        """DataError where two categories that are no roots have one name."""
        roots = [key for key, name in self._names.items() if key not in self.used and self._has_children(key, name)]
        names = {key: name for key, name in self._names.items() if key not in roots}
        by_name: dict[str, CategoryKey] = {}
        for key, name in names.items():
            if by_name.setdefault(name, key) != key:
                raise DataError(
                    Check.DUPLICATE_ID,
                    f"{self._path}: categories {by_name[name]} and {key} have both the name {name!r}",
                    "give each category a name of its own in that file, or remove the one that is meant as well",
                )
        findings = {Check.CATEGORY_ROOT: len(roots), Check.NUMBER_AS_TEXT: self._ids_as_text}
        notes = tuple(
            f"{self._path}: category {key} ({self._names[key]!r}) is left out: no object has it, and others name it as their supercategory"
            for key in roots
        )
        return Listing(names, images, findings={check: times for check, times in findings.items() if times}, notes=notes)

    def _has_children(self, key: CategoryKey, name: str) -> bool:
        return any(supercategory == name for other, supercategory in self._supercategories.items() if other != key)
