"""Secrets of the deployment, so that no log has them and no pod is told them.

Airflow hides what it knows to be secret: a connection's password. Not what stands in an address (a webhook of Slack, a target of Apprise, a
tracking server's login), nor the variables of a worker that steps read. Both are told to it here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow.sdk import Connection
from airflow.sdk.log import mask_secret

_NAME = re.compile(r"SECRET|TOKEN|PASSW|PASSPHRASE|API_?KEY|_KEY", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)([^\s/?#'\"<>@]+)@")
_LEAST = 6
"""Of characters: what is shorter, such as `true` or a port, stands in many a text by chance."""


def is_secret(name: str, value: str = "") -> bool:
    """Whether a variable holds a secret: by its name, unless that is of a file with one, or in the login of an address."""
    return bool(_NAME.search(name) and not name.upper().endswith("_FILE")) or bool(_LOGIN.search(value))


def hide_environment() -> None:
    """From here on no log of this process has a secret that stands in its environment."""
    for name, value in os.environ.items():
        if is_secret(name):
            mask_secret(value)
        for login in _LOGIN.findall(value):
            for form in _forms(login.partition(":")[2] or login):
                mask_secret(form)


def hide_connection(connection: Connection) -> None:
    """From here on no log of this process has the password of a connection, nor what opens the addresses in it."""
    for secret in secrets_of(connection):
        mask_secret(secret)


def secrets_of(connection: Connection) -> set[str]:
    """The password, and all of each address but its kind and its host: a webhook's is in its path."""
    texts = [connection.password or "", *_texts(connection.extra_dejson)]
    found = {connection.password or ""}
    for text in texts:
        if "://" not in text:
            continue
        found.add(text)
        parts = urlsplit(text)
        # An Apprise address has a token where others have a host, and may have several.
        login = [parts.netloc.rpartition("@")[0], parts.username or "", parts.password or ""]
        places = [*login, parts.path, parts.query, *parts.path.split("/")]
        found |= {form for place in places for form in _forms(place)}
    return {secret for secret in found if len(secret) >= _LEAST}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield unquote(secret)
