"""One label map for all sources of a data set, and each source's categories in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tasks.annotations.source import CategoryKey
from tasks.records.annotated_image import Category
from tasks.records.checks import Check, DataError
from tasks.records.label_map import LabelMap, label_map
from tasks.running.errors import UserError

LabelIds = Mapping[CategoryKey, int | None]
"""A source's category keys in the label map; None for a category that is not wanted."""


@dataclass(frozen=True)
class CategoryChoice:
    """Which categories the records hold: renamed first, by name; a new name of None leaves a category out; then `only` are kept."""

    renamed: Mapping[str, str | None] = field(default_factory=dict)
    only: tuple[str, ...] = ()

    def name(self, name: str) -> str | None:
        """What becomes of a category's name."""
        new = self.renamed.get(name, name)
        return new if not self.only or new in self.only else None


def share_categories(sources: Mapping[str, Mapping[CategoryKey, str]], choice: CategoryChoice) -> tuple[LabelMap, dict[str, LabelIds]]:
    """The label map that `sources`, by their names, share, and for each source its ids.

    Ids that are the sources' own, all above 0 and contradicting nowhere, stay as they are. Otherwise, and where categories are chosen
    or renamed, they are numbered 1, 2, 3, ... in the order of the sources' ids, or of names where those have none. UserError where two
    sources give one id two names, a source gives one name twice, or a chosen name is not there.
    """
    union: dict[CategoryKey, str] = {}
    for source, categories in sources.items():
        for key, name in categories.items():
            if union.setdefault(key, name) != name:
                raise DataError(
                    Check.CATEGORY_CONFLICT,
                    f"{source}: category {key} is {name!r}, in another split it is {union[key]!r}",
                    "give the splits the same categories",
                )
        for name, times in Counter(categories.values()).items():
            if times > 1:
                raise DataError(
                    Check.DUPLICATE_ID,
                    f"{source}: {times} categories have the name {name!r}: {', '.join(_keys_of(name, categories))}",
                    "give each category a name of its own",
                )
    if not union:
        raise DataError(
            Check.SOURCE_MALFORMED,
            f"{', '.join(sources)}: there are no categories, since no object says one",
            "look whether the annotations that the dataset's YAML names hold any object",
        )
    known = set(union.values())
    _confirm_known("remap_categories", choice.renamed, known)
    _confirm_known("only_categories", choice.only, {choice.renamed.get(name) or name for name in known})
    names = {key: choice.name(union[key]) for key in sorted(union, key=lambda key: (isinstance(key, str), key))}
    wanted = [name for name in dict.fromkeys(names.values()) if name is not None]
    if choice == CategoryChoice() and all(isinstance(key, int) and key > 0 for key in union):
        ids = {name: int(key) for key, name in union.items()}
    else:
        ids = {name: index for index, name in enumerate(wanted, start=1)}
    labels = label_map([Category(ids[name], name) for name in wanted], ", ".join(sources))
    return labels, {source: {key: ids.get(names[key] or "") for key in categories} for source, categories in sources.items()}


def _keys_of(name: str, categories: Mapping[CategoryKey, str]) -> list[str]:
    return [str(key) for key, one in categories.items() if one == name]


def _confirm_known(option: str, names: Iterable[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{option} names {name!r}, and there is no such category", f"the categories are {', '.join(sorted(known))}")
