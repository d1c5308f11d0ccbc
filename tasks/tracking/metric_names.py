"""The original's metric names as MLflow takes them, and back.

MLflow takes letters, digits, `_`, `-`, `.`, `/`, `:` and blanks, and only clean paths. Every other character becomes
its name between colons:

    DetectionMasks_Recall/AR@100 (small)  <->  DetectionMasks_Recall/AR:at:100 :open:small:close:

The colon itself becomes `:colon:`, so no two names meet and every name comes back.
"""

from __future__ import annotations

import re

_WORDS = {"@": "at", "(": "open", ")": "close", ":": "colon"}
_CHARACTERS = {word: character for character, word in _WORDS.items()}
_REFUSED = re.compile(r"[^/\w.\- ]")
# A slash that is first, last or doubled, and a dot that is a whole segment, would make the name an unclean path.
_UNCLEAN = re.compile(r"^/|/$|/(?=/)|(?:(?<=/)|^)\.{1,2}(?=/|$)")
_TOKEN = re.compile(r":(\w+):")


def mlflow_name(original: str) -> str:
    """The metric's name in MLflow; names that MLflow takes as they are stay as they are."""
    escaped = _REFUSED.sub(lambda match: _token(match[0]), original)
    return _UNCLEAN.sub(lambda match: "".join(f":x{ord(c):x}:" for c in match[0]), escaped)


def original_name(name: str) -> str:
    """The inverse of `mlflow_name`."""
    return _TOKEN.sub(lambda match: _CHARACTERS.get(match[1]) or chr(int(match[1][1:], 16)), name)


def _token(character: str) -> str:
    return f":{_WORDS.get(character) or f'x{ord(character):x}'}:"
