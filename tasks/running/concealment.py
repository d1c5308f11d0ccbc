"""Text that may be shown and kept: without the secrets that this process was given.

Passwords reach a step by its environment, as variables that are named so (`AWS_SECRET_ACCESS_KEY`, `MLFLOW_TRACKING_TOKEN`) or in an
address (`https://user:password@host`); libraries quote both in their errors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

HIDDEN = "***"

_NAMED_SECRET = re.compile(r"SECRET|TOKEN|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|_KEY$", re.IGNORECASE)
_PLACE = re.compile(r"(_FILE|_PATH|_DIR|_CREDENTIALS|_URI|_URL)$", re.IGNORECASE)
"""Names of variables that say where a secret is; what an address holds of one is told by the address."""
_LEAST = 6
"""Of characters: what is shorter, such as `true`, stands in many a text by chance."""
_LOGIN = re.compile(r"(?<=://)([^\s/?#'\"<>@]+)@")


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with `***` for the values of the environment's secrets, and for what stands before the host of an address."""
    for secret in sorted(set(_secrets(os.environ if environment is None else environment)), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _LOGIN.sub(f"{HIDDEN}@", text)


def _secrets(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        if _NAMED_SECRET.search(name) and not _PLACE.search(name):
            yield from _forms(value)
        for login in _LOGIN.findall(value):
            yield from _forms(login.partition(":")[2] or login)


def _forms(secret: str) -> Iterator[str]:
    for form in (secret, unquote(secret)):
        if len(form) >= _LEAST:
            yield form
