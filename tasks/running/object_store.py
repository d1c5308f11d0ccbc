"""Files in an object store, by their names below one URL; what the clients of different stores tell in different words."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, cast

_WITH_BUCKETS = ("s3://", "s3a://", "gs://", "gcs://")


@dataclass(frozen=True)
class Stored:
    """A file as the store tells of it."""

    size: int
    """In bytes"""
    tag: str
    """Another one as soon as the content is another."""
    changed: float
    """Seconds since 1970"""


class ObjectStore:
    """What lies below a URL that fsspec knows. Errors are OSErrors, or those of the store's client."""

    def __init__(self, url: str) -> None:
        self._url = url

    def confirm(self) -> None:
        """FileNotFoundError where the store has buckets, and not this one: buckets are not made."""
        if self._url.startswith(_WITH_BUCKETS):
            bucket = self._root.strip("/").split("/")[0]
            if not self._client.exists(bucket):
                raise FileNotFoundError(f"there is no bucket {bucket}")

    def files(self, folder: str, *, nested: bool = True) -> dict[str, Stored]:
        """Those in a folder, with `nested` also in the folders in it; none where there is no such folder."""
        if nested:
            self._client.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                return {self._name(key): _stored(info) for key, info in self._client.find(self._key(folder), detail=True).items()}
            return {}
        return {self._name(one["name"]): _stored(one) for one in self._inside(folder) if one["type"] == "file"}

    def folders(self, folder: str) -> set[str]:
        """Names of the folders in a folder."""
        return {PurePosixPath(one["name"]).name for one in self._inside(folder) if one["type"] == "directory"}

    def stored(self, name: str) -> Stored | None:
        """What the store tells of a file, None where it is not there."""
        self._client.invalidate_cache()
        try:
            return _stored(self._client.info(self._key(name)))
        except FileNotFoundError:
            return None

    def get(self, name: str, path: Path) -> None:
        self._client.get_file(self._key(name), str(path))

    def put(self, path: Path, name: str) -> None:
        self._client.put_file(str(path), self._key(name))

    def read(self, name: str) -> bytes | None:
        """A small file's content, None where it is not there."""
        try:
            return cast(bytes, self._client.cat_file(self._key(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes, *, new: bool = False) -> bool:
        """Writes a small file; with `new`, answers False where it is there already."""
        try:
            self._client.pipe_file(self._key(name), content, **({"mode": "create"} if new else {}))
        except FileExistsError:
            return False
        except OSError as error:
            # Amazon's answer to a condition that does not hold.
            if new and "PreconditionFailed" in str(error):
                return False
            raise
        return True

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._client.rm_file(self._key(name))

    def age(self, name: str) -> float | None:
        """For how many seconds a file has not been written, by the clock of this machine; None where it is not there."""
        found = self.stored(name)
        return time.time() - found.changed if found else None

    def _inside(self, folder: str) -> list[Mapping[str, Any]]:
        self._client.invalidate_cache()
        try:
            return cast(list[Mapping[str, Any]], self._client.ls(self._key(folder), detail=True))
        except FileNotFoundError:
            return []

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _name(self, key: str) -> str:
        return PurePosixPath("/", key).relative_to(PurePosixPath("/", self._root)).as_posix()

    @property
    def _client(self) -> Any:
        return self._reached[0]

    @property
    def _root(self) -> str:
        return self._reached[1].rstrip("/")

    @cached_property
    def _reached(self) -> tuple[Any, str]:
        # Not at the top: its import takes as long as numpy's, and most workspaces are on a disk.
        import fsspec

        found: tuple[Any, str] = fsspec.url_to_fs(self._url)
        return found


def _stored(info: Mapping[str, Any]) -> Stored:
    tag = next((info[key] for key in ("ETag", "etag", "md5Hash", "checksum") if info.get(key)), "")
    moment: Any = next(info[key] for key in ("LastModified", "mtime", "updated", "created", "last_modified") if info.get(key))
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    changed = moment.timestamp() if isinstance(moment, datetime) else float(moment)
    return Stored(int(info["size"]), f"{tag or changed} {info['size']}", changed)
