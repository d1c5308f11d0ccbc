"""The copy of a workspace under a URL, such as `s3://bucket/maskline`, that a step works on; what it changes is sent back.

An object store has no rename, no locks and no files that grow, and TensorFlow does not write to `s3://`. So what a step names of the
workspace is brought to this machine, the step works there as in any folder, and a thread sends what has changed, while the step runs and
at its end: whole files, those written first before the others, so that whatever a file refers to is in the store before it.

The store is what counts. A folder in which another machine has worked since is made the same as the store's; what this machine had not
sent of it is gone. Where nobody has, this machine goes on with what it had, sent or not. Steps of one machine share the copy: the first
to name a folder brings it, the others join.

Files of the workspace that hold paths hold them as URLs in the store, and as paths of the copy here, so that each machine may keep its
copies where it likes. Files of lines (`.jsonl`), in which others count bytes, are the same in both.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TextIO, cast
from urllib.parse import quote

from tasks.running.errors import UserError

if TYPE_CHECKING:
    from tasks.running.store_lease import StoreLease

_TEXTS = re.compile(r"(.*\.(json|yaml|config|pbtxt|txt|md|html)|checkpoint)$")
_LONGEST_TEXT = 1 << 26
_WEIGHTS = re.compile(r"\.data-\d+-of-\d+$")
_SENT_THOUGH_HIDDEN = (".parts", ".evaluation_parts")
_SECONDS_BETWEEN_SENDINGS = 10.0
_SECONDS_TO_REACH_THE_STORE = 300.0
_SECONDS_BETWEEN_TRIES = 5.0


@dataclass(frozen=True)
class Stored:
    """A file as the store tells of it."""

    size: int
    tag: str
    """Another one as soon as the content is another."""
    changed: float
    """Seconds since 1970"""


@dataclass(frozen=True)
class _Kept:
    """What was last known to be the same here and in the store: the store's tag, and size and time of the file here."""

    tag: str
    size: int
    changed_ns: int


class WorkingCopy:
    """The copy, in the folder `root`, of the workspace under `url`."""

    def __init__(self, url: str, root: Path) -> None:
        self.url, self.root = url.rstrip("/"), root
        self._opened: dict[str, bool] = {}
        self._here: set[str] = set()
        self._locks: list[TextIO] = []
        self._sending = threading.Lock()
        self._ended = threading.Event()
        self._sender: threading.Thread | None = None
        self.leases: list[StoreLease] = []
        self.abandoned = False

    def place(self, path: Path) -> str | None:
        """The name below the workspace of a path of the copy, with slashes; None for any other path."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else None

    def addressed(self, text: str) -> str:
        """A text with URLs in place of the copy's paths."""
        return text.replace(str(self.root), self.url)

    def localized(self, text: str) -> str:
        """A text with the copy's paths in place of URLs of the workspace."""
        return re.sub(rf"{re.escape(self.url)}(?![^/\s\"',)\]}}>])", lambda _: str(self.root), text)

    @contextlib.contextmanager
    def with_addresses(self, path: Path) -> Iterator[Path]:
        """For the block, a file or folder of the same name and content, with URLs in place of the copy's paths; the path itself where
        nothing of it has any."""
        files = [file for file in (path.rglob("*") if path.is_dir() else (path,)) if file.is_file()]
        texts = [file for file in files if self._holds_paths(file.name, file.stat().st_size)]
        if not any(str(self.root).encode() in file.read_bytes() for file in texts):
            yield path
            return
        with tempfile.TemporaryDirectory() as temporary:
            shared = Path(temporary, path.name)
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, shared)
            for file in texts:
                there = shared / file.relative_to(path) if path.is_dir() else shared
                there.write_bytes(_in_text(file.read_bytes(), self.addressed))
            yield shared

    def open(self, place: str, *, with_weights: bool = True) -> None:
        """Brings what a step that names this place needs: its model, run or data set; from now on what changes there is sent.

        UserError where the store does not answer, or does not let us in.
        """
        folder, *above = _folders(PurePosixPath(place))
        if self._opened.get(folder):
            return
        with self._reaching():
            for outer in above:
                self._bring(outer, nested=False, with_weights=with_weights)
            if _is_run(folder):
                for inner in self._inside(folder):
                    self._bring(f"{folder}/{inner}", nested=True, with_weights=with_weights)
                self._bring(folder, nested=False, with_weights=with_weights)
            else:
                self._bring(folder, nested=True, with_weights=with_weights)
        self._opened = {**dict.fromkeys(above, False), **self._opened, folder: True}
        self._here |= set(self._changed_or_not())
        if self._sender is None:
            self._sender = threading.Thread(target=self._send_on, name="workspace", daemon=True)
            self._sender.start()

    def outline(self) -> None:
        """Opens the whole workspace for a look at what there is: texts as they are, of other files only names, sizes and times."""
        with self._reaching():
            for top in self._inside(""):
                for name, stored in self._listed(top, nested=True, with_weights=True).items():
                    if self._holds_paths(name, stored.size) or name.endswith(".jsonl"):
                        self._get({name: stored})
                        continue
                    path = self.root / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                    os.truncate(path, stored.size)
                    os.utime(path, (stored.changed, stored.changed))
                    self._index.keep(name, _Kept(stored.tag, stored.size, path.stat().st_mtime_ns))
                self._opened[top] = True
        self._here = set(self._changed_or_not())
        for folder, _, _ in os.walk(self.root, topdown=False):
            # A store has no folders that could be young.
            moments = [path.lstat().st_mtime for path in Path(folder).iterdir()]
            os.utime(folder, (max(moments, default=0.0),) * 2)

    def refresh(self, place: str) -> None:
        """Makes a folder that is open what it is in the store by now."""
        with self._reaching():
            self._make_same(place, nested=True, with_weights=True)
        self._here = set(self._changed_or_not())

    def send(self) -> None:
        """Gives the store what has changed in the places that are open. OSError, or the store's own, where it does not take it."""
        with self._sending:
            for lease in self.leases:
                lease.confirm()
            if self.abandoned:
                return
            files = self._changed_or_not()
            kept = self._index.all(files)
            new = [
                name
                for name, (size, changed) in files.items()
                if (one := kept.get(name)) is None or (one.size, one.changed_ns) != (size, changed)
            ]
            for name in sorted(new, key=lambda name: files[name][1]):
                with contextlib.suppress(FileNotFoundError):  # gone since
                    self._put(name, *files[name])
            for name in sorted(self._here - files.keys()):
                self._remove(name)
            self._here = set(files)

    def give_back(self, lease: StoreLease) -> None:
        """Ends a lease of this process."""
        with self._sending:
            self.leases.remove(lease)
            with contextlib.suppress(Exception):  # it ends by itself
                lease.give_back()

    def close(self) -> None:
        """Sends the last of it, waiting for a store that does not answer. ConnectionError where some of it could not be sent."""
        self._ended.set()
        deadline, waited = time.monotonic() + _SECONDS_TO_REACH_THE_STORE, False
        while self._opened:
            try:
                self.send()
                break
            except Exception as error:  # each store's client has errors of its own
                told = f"{self.url} does not take what the step has written: {error}"
                if time.monotonic() > deadline:
                    raise ConnectionError(
                        f"{told}\n  fix: see that it answers and may be written, then run the step again on this machine, which has it all"
                    ) from error
                if not waited:
                    print(f"WARNING: {told}; trying again", file=sys.stderr, flush=True)
                waited = True
                time.sleep(_SECONDS_BETWEEN_TRIES)
        for lock in self._locks:
            lock.close()
        self._opened, self._locks = {}, []

    def read(self, name: str) -> bytes | None:
        """A small file of the store itself, None where it is not there."""
        try:
            return cast(bytes, self._store.cat_file(self._key(name)))
        except FileNotFoundError:
            return None

    def age(self, name: str) -> float | None:
        """For how many seconds a file of the store has not been written, by the clock of this machine; None where it is not there."""
        self._store.invalidate_cache()
        try:
            return time.time() - _changed(self._store.info(self._key(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes, *, new: bool = False) -> bool:
        """Writes a small file of the store itself; with `new`, answers False where it is there already."""
        try:
            self._store.pipe_file(self._key(name), content, **({"mode": "create"} if new else {}))
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
            self._store.rm_file(self._key(name))

    def _send_on(self) -> None:
        failed = False
        while not self._ended.wait(_SECONDS_BETWEEN_SENDINGS):
            try:
                self.send()
            except Exception as error:  # each store's client has errors of its own
                if not failed:
                    print(f"WARNING: {self.url} does not answer: {error}; what is written meanwhile waits", file=sys.stderr, flush=True)
                failed = True
            else:
                failed = False

    def _bring(self, folder: str, *, nested: bool, with_weights: bool) -> None:
        """Makes a folder what it is in the store, unless another step of this machine has it open."""
        lock = self.root / ".locks" / quote(f"{folder}{'' if nested else '/'}", safe="")
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("a")
        self._locks.append(stream)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(stream, fcntl.LOCK_SH)
            self._get_missing(folder, nested=nested, with_weights=with_weights)
            return
        self._make_same(folder, nested=nested, with_weights=with_weights)
        fcntl.flock(stream, fcntl.LOCK_SH)

    def _make_same(self, folder: str, *, nested: bool, with_weights: bool) -> None:
        stored = self._listed(folder, nested=nested, with_weights=with_weights)
        here = {name: stat for name, stat in self._found(folder, nested=nested).items() if with_weights or not _WEIGHTS.search(name)}
        kept = {name: one for name, one in self._index.below(folder, nested=nested).items() if with_weights or not _WEIGHTS.search(name)}
        if {name: one.tag for name, one in stored.items()} == {name: one.tag for name, one in kept.items()}:
            # Nobody else has worked there.
            self._get({name: one for name, one in stored.items() if name not in here})
            return
        unsent = [name for name, stat in here.items() if (one := kept.get(name)) is None or (one.size, one.changed_ns) != stat]
        if unsent:
            print(
                f"{self.url}/{folder}: another machine has worked there since; left out: {len(unsent)} files that this one never sent",
                flush=True,
            )
        for name in here.keys() - stored.keys():
            (self.root / name).unlink()
        for name in kept.keys() - stored.keys():
            self._index.forget(name)
        same = {
            name
            for name, one in kept.items()
            if name in stored and stored[name].tag == one.tag and here.get(name) == (one.size, one.changed_ns)
        }
        self._get({name: one for name, one in stored.items() if name not in same})

    def _get_missing(self, folder: str, *, nested: bool, with_weights: bool) -> None:
        """Brings what the step that has the folder open did not need."""
        kept = self._index.below(folder, nested=nested)
        stored = self._listed(folder, nested=nested, with_weights=with_weights)
        self._get({name: one for name, one in stored.items() if name not in kept and not (self.root / name).exists()})

    def _get(self, files: Mapping[str, Stored]) -> None:
        size = sum(one.size for one in files.values())
        if size > _LONGEST_TEXT:
            print(f"bringing {len(files)} files ({size / 1e9:.1f} GB) from {self.url}", flush=True)
        for name, stored in sorted(files.items(), key=lambda item: item[1].changed):
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            try:
                self._store.get_file(self._key(name), str(temporary))
                if self._holds_paths(name, stored.size):
                    content = temporary.read_bytes()
                    temporary.write_bytes(_in_text(content, self.localized))
                os.utime(temporary, (stored.changed, stored.changed))
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            stat = path.stat()
            self._index.keep(name, _Kept(stored.tag, stat.st_size, stat.st_mtime_ns))

    def _put(self, name: str, size: int, changed_ns: int) -> None:
        path = self.root / name
        if self._holds_paths(name, size):
            self._store.pipe_file(self._key(name), _in_text(path.read_bytes(), self.addressed))
        else:
            self._store.put_file(str(path), self._key(name))
        self._store.invalidate_cache(self._store._parent(self._key(name)))
        self._index.keep(name, _Kept(_tag(self._store.info(self._key(name))), size, changed_ns))

    def _remove(self, name: str) -> None:
        """Removes a file from the store, unless another machine has written it anew."""
        kept = self._index.all((name,)).get(name)
        with contextlib.suppress(FileNotFoundError):
            self._store.invalidate_cache()
            if kept and _tag(self._store.info(self._key(name))) == kept.tag:
                self._store.rm_file(self._key(name))
        self._index.forget(name)

    def _holds_paths(self, name: str, size: int) -> bool:
        return not name.startswith("datasets/") and size <= _LONGEST_TEXT and _TEXTS.match(PurePosixPath(name).name) is not None

    def _listed(self, folder: str, *, nested: bool, with_weights: bool) -> dict[str, Stored]:
        """The store's files of a folder, by their names below the workspace."""
        self._store.invalidate_cache()
        try:
            if nested:
                found = self._store.find(self._key(folder), detail=True).items()
            else:
                found = ((one["name"], one) for one in self._store.ls(self._key(folder), detail=True) if one["type"] == "file")
            files = {self._name(key): info for key, info in found}
        except FileNotFoundError:
            return {}
        return {
            name: Stored(int(info["size"]), _tag(info), _changed(info))
            for name, info in files.items()
            if _is_sent(PurePosixPath(name)) and (with_weights or not _WEIGHTS.search(name))
        }

    def _inside(self, folder: str) -> list[str]:
        """Names of the folders in a folder, in the store or here."""
        self._store.invalidate_cache()
        try:
            stored = {
                PurePosixPath(one["name"]).name for one in self._store.ls(self._key(folder), detail=True) if one["type"] == "directory"
            }
        except FileNotFoundError:
            stored = set()
        here = self.root / folder
        found = stored | ({path.name for path in here.iterdir() if path.is_dir()} if here.is_dir() else set())
        return sorted(name for name in found if _is_sent(PurePosixPath(name)))

    def _found(self, folder: str, *, nested: bool) -> dict[str, tuple[int, int]]:
        """Size and time of the files that are here, by their names below the workspace."""
        found = {}
        for parent, folders, files in os.walk(self.root / folder):
            folders[:] = [name for name in folders if nested and _is_sent(PurePosixPath(name))]
            for file in files:
                path = Path(parent, file)
                if _is_sent(PurePosixPath(file)) and not path.is_symlink():
                    with contextlib.suppress(FileNotFoundError):
                        stat = path.stat()
                        found[path.relative_to(self.root).as_posix()] = (stat.st_size, stat.st_mtime_ns)
        return found

    def _changed_or_not(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for folder, nested in list(self._opened.items()):
            found |= self._found(folder, nested=nested)
        return found

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}".rstrip("/")

    def _name(self, key: str) -> str:
        return PurePosixPath(f"/{key.lstrip('/')}").relative_to(f"/{self._prefix.lstrip('/')}").as_posix()

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # each store's client has errors of its own
            raise UserError(
                f"{self.url} cannot be reached: {error}", "correct MASKLINE_WORKSPACE, and the credentials in the environment"
            ) from error

    @cached_property
    def _index(self) -> _Index:
        self.root.mkdir(parents=True, exist_ok=True)
        return _Index(self.root / ".copies.db")

    @property
    def _store(self) -> Any:
        return self._reached[0]

    @property
    def _prefix(self) -> str:
        return self._reached[1].rstrip("/")

    @cached_property
    def _reached(self) -> tuple[Any, str]:
        # Not at the top: its import takes as long as numpy's, and most workspaces are on a disk.
        import fsspec

        found: tuple[Any, str] = fsspec.url_to_fs(self.url)
        return found


class _Index:
    """What is known of the files that were the same here and in the store; shared by all steps of the machine."""

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file, timeout=60, check_same_thread=False, isolation_level=None)
        self._database.execute("CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, tag TEXT, size INTEGER, changed_ns INTEGER)")

    def below(self, folder: str, *, nested: bool) -> dict[str, _Kept]:
        rows = self._database.execute("SELECT * FROM files WHERE name >= ? AND name < ?", (f"{folder}/", f"{folder}0")).fetchall()
        return {name: _Kept(*rest) for name, *rest in rows if nested or "/" not in name.removeprefix(f"{folder}/")}

    def all(self, names: Collection[str]) -> dict[str, _Kept]:
        rows = self._database.execute("SELECT * FROM files").fetchall()
        return {name: _Kept(*rest) for name, *rest in rows if name in names}

    def keep(self, name: str, kept: _Kept) -> None:
        self._database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (name, kept.tag, kept.size, kept.changed_ns))

    def forget(self, name: str) -> None:
        self._database.execute("DELETE FROM files WHERE name = ?", (name,))


def _folders(place: PurePosixPath) -> list[str]:
    """The folder that is opened whole for a place, and then the one of which its own files are needed beside it."""
    top, *rest = place.parts
    if top == "runs" and len(rest) > 1:
        return [f"runs/{rest[0]}/{rest[1]}", f"runs/{rest[0]}"]
    if top == "steps":
        return [place.parent.as_posix() if place.suffix else place.as_posix()]
    return [f"{top}/{rest[0]}"] if rest and top in ("runs", "datasets", "promotions") else [top]


def _is_run(folder: str) -> bool:
    return folder.startswith("runs/") and folder.count("/") == 1


def _is_sent(name: PurePosixPath) -> bool:
    """Whether a file is no lock, and none that a step has not finished."""
    return not any(part.startswith(".") and part not in _SENT_THOUGH_HIDDEN for part in name.parts)


def _tag(info: Mapping[str, Any]) -> str:
    known = next((info[key] for key in ("ETag", "etag", "md5Hash", "checksum") if info.get(key)), "")
    return f"{known} {info['size']}" if known else f"{_changed(info)} {info['size']}"


def _changed(info: Mapping[str, Any]) -> float:
    """When a file of a store was written, seconds since 1970; stores tell a moment, a text or a number."""
    moment: Any = next(info[key] for key in ("LastModified", "mtime", "updated", "created", "last_modified") if info.get(key))
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment.timestamp() if isinstance(moment, datetime) else float(moment)


def _in_text(content: bytes, change: Any) -> bytes:
    """The content with its text changed; as it is where it is no text."""
    try:
        return cast(str, change(content.decode())).encode()
    except UnicodeDecodeError:
        return content
