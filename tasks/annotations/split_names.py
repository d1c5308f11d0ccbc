"""What splits are called: three names that the steps know, and others' words for them."""

from __future__ import annotations

import re
from collections.abc import Iterable

TRAIN, VAL, TEST = "train", "val", "test"
_WORDS = {
    TRAIN: ("train", "training", "trn"),
    VAL: ("val", "valid", "validation", "validate", "eval", "evaluation", "dev", "development", "minival"),
    TEST: ("test", "testing", "tst", "testdev", "holdout", "heldout"),
}
_MEANINGS = {word: name for name, words in _WORDS.items() for word in words}
_DECORATION = re.compile(r"[-_ ]?(set|split)?[-_ ]?\d*$")


def split_meaning(word: str) -> str | None:
    """`train`, `val` or `test` for a split's name such as `Validation`, `dev` or `train2017`; None where it says none of them."""
    plain = _DECORATION.sub("", word.strip().casefold())
    return _MEANINGS.get(re.sub(r"[-_ ]", "", plain))


def split_meanings(words: Iterable[str]) -> dict[str, str]:
    """The meaning of each; ValueError, saying what is wrong, for a word without one, and for two of one meaning."""
    found: dict[str, str] = {}
    for word in words:
        meaning = split_meaning(word)
        if meaning is None:
            raise ValueError(f"a split is called {word!r}, which no step reads")
        if meaning in found.values():
            other = next(one for one, name in found.items() if name == meaning)
            raise ValueError(f"the splits {other!r} and {word!r} mean both `{meaning}`")
        found[word] = meaning
    return found
