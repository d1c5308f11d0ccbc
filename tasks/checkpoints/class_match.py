"""The classes of two models, found in each other's label maps by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tasks.running.errors import UserError


@dataclasses.dataclass(frozen=True)
class ClassMatch:
    """The model's classes that a checkpoint knows too: `pairs` of zero-based foreground classes (ours, theirs), and names."""

    pairs: tuple[tuple[int, int], ...]
    known: tuple[str, ...]
    new: tuple[str, ...]


def match_classes(ours: Mapping[int, str], theirs: Mapping[int, str]) -> ClassMatch:
    """The match of two label maps, each names by id from 1; UserError where no name is in both."""
    their_ids = {name: identity for identity, name in theirs.items()}
    known = {identity: name for identity, name in ours.items() if name in their_ids}
    if not known:
        raise UserError(
            f"the label maps have no name in common: {', '.join(ours.values())}; {', '.join(theirs.values())}",
            "spell a class alike in both, or restore the backbone alone: no label map of the checkpoint, or --checkpoint-type detection",
        )
    return ClassMatch(
        pairs=tuple((identity - 1, their_ids[name] - 1) for identity, name in known.items()),
        known=tuple(known.values()),
        new=tuple(name for identity, name in ours.items() if identity not in known),
    )


def check_match(classes: ClassMatch, our_classes: int, their_classes: int) -> None:
    """UserError where a label map has ids beyond the foreground classes of its model."""
    for index, (whose, count) in enumerate((("the model", our_classes), ("the checkpoint", their_classes))):
        highest = 1 + max(pair[index] for pair in classes.pairs)
        if highest > count:
            raise UserError(
                f"the label map of {whose} has id {highest}, but {whose} knows {count} classes",
                f"give the label map that belongs to {whose}",
            )
