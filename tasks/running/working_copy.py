"""The copy of a workspace under a URL, such as `s3://bucket/maskline`, that a step works on; what it changes is sent back.

An object store has no rename, no locks and no files that grow, and TensorFlow does not write to `s3://`. So what a step names of the
workspace is brought to this machine, the step works there as in any folder, and a thread sends what has changed, while the step runs and
at its end: whole files, those written first before the others, so that whatever a file refers to is in the store before it. Files that
grow come before them: a checkpoint in the store has the numbers of its steps there, too.

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
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TextIO
from urllib.parse import quote

from tasks.running.concealment import without_secrets
from tasks.running.errors import UserError
from tasks.running.object_store import ObjectStore, Stored

if TYPE_CHECKING:
    from tasks.running.store_lease import StoreLease

_TEXTS = re.compile(r"(.*\.(json|yaml|config|pbtxt|txt|md|html)|checkpoint)$")
_LONGEST_TEXT = 1 << 26
_GROWS = ".jsonl"
_WEIGHTS = re.compile(r"\.data-\d+-of-\d+$")
_SENT_THOUGH_HIDDEN = (".parts", ".evaluation_parts")
_SECONDS_BETWEEN_SENDINGS = 10.0
_SECONDS_TO_REACH_THE_STORE = 300.0
_SECONDS_BETWEEN_TRIES = 5.0

Stat = tuple[int, int]
"""Of a file here: its size in bytes, and when it was last written, nanoseconds since 1970"""


@dataclass(frozen=True)
class _Kept:
    """What was last known to be the same here and in the store."""

    tag: str
    """The store's"""
    stat: Stat


@dataclass(frozen=True)
class _Part:
    """Files of a folder: its own, with `nested` also those in the folders in it, and with `weights` those of checkpoints too."""

    folder: str
    nested: bool = True
    weights: bool = True

    def holds(self, name: str) -> bool:
        below = name.removeprefix(f"{self.folder}/")
        return below != name and (self.nested or "/" not in below) and _is_sent(name) and (self.weights or not _WEIGHTS.search(name))


class WorkingCopy:
    """The copy, in the folder `root`, of the workspace under `url`."""

    def __init__(self, url: str, root: Path) -> None:
        self.url, self.root = url.rstrip("/"), root
        self.store = ObjectStore(self.url)
        self.leases: list[StoreLease] = []
        self.abandoned = False
        """Whether another machine works where this one did: nothing more is sent"""
        self._opened: dict[str, _Part] = {}
        self._here: set[str] = set()
        self._locks: list[TextIO] = []
        self._sending = threading.Lock()
        self._ended = threading.Event()
        self._sender: threading.Thread | None = None

    def place(self, path: Path) -> str | None:
        """The name below the workspace of a path of the copy, with slashes; None for any other path."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else None

    def addressed(self, text: str) -> str:
        """A text with URLs in place of the copy's paths."""
        return text.replace(str(self.root), self.url)

    def localized(self, text: str) -> str:
        """A text with the copy's paths in place of URLs of the workspace."""
        return re.sub(rf"{re.escape(self.url)}(?![^/\s\"',)\]}}>])", lambda _: str(self.root), text)

    def paths_in(self, text: str) -> list[str]:
        """Names below the workspace of the copy's paths in a text; of a pattern, what stands before it."""
        return re.findall(rf"{re.escape(str(self.root))}/([^\s\"',*?\[\]]+)", text)

    @contextlib.contextmanager
    def with_addresses(self, path: Path) -> Iterator[Path]:
        """For the block, a file or folder of the same name and content, with URLs in place of the copy's paths; the path itself where
        nothing of it has any."""
        files = [file for file in (path.rglob("*") if path.is_dir() else (path,)) if file.is_file()]
        texts = [file for file in files if _holds_paths(file.name, file.stat().st_size)]
        if not any(str(self.root).encode() in file.read_bytes() for file in texts):
            yield path
            return
        with tempfile.TemporaryDirectory() as temporary:
            shared = Path(temporary, path.name)
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, shared)
            for file in texts:
                (shared / file.relative_to(path)).write_bytes(_in_text(file.read_bytes(), self.addressed))
            yield shared

    def open(self, place: str, *, with_weights: bool = True) -> None:
        """Brings what a step that names this place needs: its model, run or data set; from now on what changes there is sent.

        UserError where the store does not answer, or does not let us in.
        """
        folder, *above = _folders(PurePosixPath(place))
        if (before := self._opened.get(folder)) and before.nested:
            return
        with self._reaching():
            if not self._opened:
                self.store.confirm()
            for outer in above:
                self._bring(_Part(outer, nested=False, weights=with_weights))
            for inner in self._folders_in(folder) if _is_run(folder) else ():
                # Each by itself: others of this machine may have one of a run's models open.
                self._bring(_Part(f"{folder}/{inner}", weights=with_weights))
            self._bring(_Part(folder, nested=not _is_run(folder), weights=with_weights))
        self._opened = {**{outer: _Part(outer, nested=False) for outer in above}, **self._opened, folder: _Part(folder)}
        self._here |= self._found_in_all().keys()
        if self._sender is None:
            self._sender = threading.Thread(target=self._send_on, name="workspace", daemon=True)
            self._sender.start()
        if with_weights:
            self._open_what_it_is_made_of(folder)

    def outline(self) -> None:
        """Opens the whole workspace for a look at what there is: texts as they are, of other files only names, sizes and times."""
        with self._reaching():
            self.store.confirm()
            for top in self._folders_in(""):
                part = self._opened[top] = _Part(top)
                files = self._stored(part)
                texts = {name for name, one in files.items() if _holds_paths(name, one.size) or name.endswith(".jsonl")}
                self._get({name: one for name, one in files.items() if name in texts})
                for name, one in files.items():
                    if name not in texts:
                        self._settle(name, one, _hollow_file)
        self._here = set(self._found_in_all())
        for folder, _, _ in os.walk(self.root, topdown=False):
            # A store has no folders that could be young.
            moments = [path.lstat().st_mtime for path in Path(folder).iterdir()]
            os.utime(folder, (max(moments, default=0.0),) * 2)

    def refresh(self, place: str) -> None:
        """Brings what others have changed in a folder that is open; what this process has written there and not sent yet stays."""
        with self._sending, self._reaching():
            self._make_same(_Part(place), is_ours=True)
        self._here = set(self._found_in_all())

    def send(self) -> None:
        """Gives the store what has changed in the places that are open. OSError, or the store's own, where it does not take it."""
        with self._sending:
            for lease in self.leases:
                lease.confirm()
            if self.abandoned:
                return
            files = self._found_in_all()
            kept = self._index.of(files)
            new = [name for name, stat in files.items() if name not in kept or kept[name].stat != stat]
            for name in sorted(new, key=lambda name: (not name.endswith(_GROWS), files[name][1])):
                self._put(name, files[name])
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
                    print(f"WARNING: {without_secrets(told)}; trying again", file=sys.stderr, flush=True)
                waited = True
                time.sleep(_SECONDS_BETWEEN_TRIES)
        for lock in self._locks:
            lock.close()
        self._opened, self._locks = {}, []

    def _open_what_it_is_made_of(self, folder: str) -> None:
        """Opens the records, and the model that training starts from, of the models in a folder, which no argument names."""
        for experiment in (self.root / folder).rglob("experiment.yaml"):
            for found in self.paths_in(experiment.read_text()):
                self.open(found)

    def _send_on(self) -> None:
        failed = False
        while not self._ended.wait(_SECONDS_BETWEEN_SENDINGS):
            try:
                self.send()
            except Exception as error:  # each store's client has errors of its own
                if not failed:
                    told = without_secrets(f"WARNING: {self.url} does not answer: {error}; what is written meanwhile waits")
                    print(told, file=sys.stderr, flush=True)
                failed = True
            else:
                failed = False

    def _bring(self, part: _Part) -> None:
        """Makes a part what it is in the store; where another step of this machine has it open, adds only what that one did not need."""
        lock = self.root / ".locks" / quote(part.folder if part.nested else f"{part.folder}/", safe="")
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("a")
        self._locks.append(stream)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(stream, fcntl.LOCK_SH)
            kept = self._index.below(part)
            self._get({name: one for name, one in self._stored(part).items() if name not in kept and not (self.root / name).exists()})
        else:
            self._make_same(part)
            fcntl.flock(stream, fcntl.LOCK_SH)

    def _make_same(self, part: _Part, *, is_ours: bool = False) -> None:
        stored, here, kept = self._stored(part), self._found(part), self._index.below(part)
        # Weights that no step of this machine needed yet are no other machine's work.
        known = {name: one.tag for name, one in stored.items() if name in kept or not _WEIGHTS.search(name)}
        if known == {name: one.tag for name, one in kept.items()}:
            self._get({name: one for name, one in stored.items() if name not in here})
            return
        for name in kept.keys() - stored.keys():
            self._index.forget(name)
        unsent = {name for name, stat in here.items() if name not in kept or kept[name].stat != stat}
        if is_ours:
            # Of a file that others have changed too, theirs counts.
            tags = {name: one.tag for name, one in stored.items()}
            ours = {name for name in unsent if tags.get(name) == (kept[name].tag if name in kept else None)}
            unsent -= ours
            here = {name: stat for name, stat in here.items() if name not in ours}
            stored = {name: one for name, one in stored.items() if name not in ours}
        if unsent:
            left_out = f"left out: {len(unsent)} files that this one never sent"
            print(f"{self.url}/{part.folder}: another machine has worked there since; {left_out}", flush=True)
        for name in here.keys() - stored.keys():
            (self.root / name).unlink()
        same = {name for name, one in kept.items() if name in stored and stored[name].tag == one.tag and here.get(name) == one.stat}
        self._get({name: one for name, one in stored.items() if name not in same})

    def _get(self, files: Mapping[str, Stored]) -> None:
        size = sum(one.size for one in files.values())
        if size > _LONGEST_TEXT:
            print(f"bringing {len(files)} files ({size / 1e9:.1f} GB) from {self.url}", flush=True)
        for name, stored in sorted(files.items(), key=lambda item: item[1].changed):
            self._settle(name, stored, self._fetch)

    def _settle(self, name: str, stored: Stored, make: Callable[[str, Stored, Path], None]) -> None:
        """Lets a file appear here, whole and with the store's time, as `make` writes it."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            make(name, stored, temporary)
            os.utime(temporary, (stored.changed, stored.changed))
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._index.keep(name, _Kept(stored.tag, _stat(path)))

    def _fetch(self, name: str, stored: Stored, path: Path) -> None:
        self.store.get(name, path)
        if _holds_paths(name, stored.size):
            path.write_bytes(_in_text(path.read_bytes(), self.localized))

    def _put(self, name: str, stat: Stat) -> None:
        path = self.root / name
        try:
            if _holds_paths(name, stat[0]):
                self.store.write(name, _in_text(path.read_bytes(), self.addressed))
            else:
                self.store.put(path, name)
        except FileNotFoundError:
            if path.exists():
                raise
            return
        if stored := self.store.stored(name):
            self._index.keep(name, _Kept(stored.tag, stat))

    def _remove(self, name: str) -> None:
        """Removes a file from the store, unless another machine has written it anew."""
        kept, stored = self._index.tag(name), self.store.stored(name)
        if stored and stored.tag == kept:
            self.store.remove(name)
        self._index.forget(name)

    def _stored(self, part: _Part) -> dict[str, Stored]:
        return {name: one for name, one in self.store.files(part.folder, nested=part.nested).items() if part.holds(name)}

    def _folders_in(self, folder: str) -> list[str]:
        """Names of the folders in a folder, in the store or here."""
        here = self.root / folder
        found = self.store.folders(folder) | ({path.name for path in here.iterdir() if path.is_dir()} if here.is_dir() else set())
        return sorted(filter(_is_sent, found))

    def _found(self, part: _Part) -> dict[str, Stat]:
        """The files of a part that are here."""
        found = {}
        for parent, folders, files in os.walk(self.root / part.folder):
            folders[:] = [name for name in folders if part.nested and _is_sent(name)]
            for path in (Path(parent, name) for name in files):
                name = path.relative_to(self.root).as_posix()
                if part.holds(name) and not path.is_symlink():
                    with contextlib.suppress(FileNotFoundError):
                        found[name] = _stat(path)
        return found

    def _found_in_all(self) -> dict[str, Stat]:
        return {name: stat for part in list(self._opened.values()) for name, stat in self._found(part).items()}

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except (ImportError, ValueError) as error:
            fix = "install maskline's extra for it, maskline[s3] or maskline[gs], or correct MASKLINE_WORKSPACE"
            raise UserError(f"{self.url}: {error}", fix) from error
        except Exception as error:  # each store's client has errors of its own
            fix = "correct MASKLINE_WORKSPACE, and the credentials in the environment"
            raise UserError(f"{self.url} cannot be reached: {error}", fix) from error

    @cached_property
    def _index(self) -> _Index:
        self.root.mkdir(parents=True, exist_ok=True)
        return _Index(self.root / ".copies.db")


class _Index:
    """What is known of the files that were the same here and in the store; shared by all steps of the machine."""

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file, timeout=60, check_same_thread=False, isolation_level=None)
        self._database.execute("CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, tag TEXT, size INTEGER, changed_ns INTEGER)")

    def below(self, part: _Part) -> dict[str, _Kept]:
        return {name: kept for name, kept in self._all() if part.holds(name)}

    def of(self, names: Collection[str]) -> dict[str, _Kept]:
        return {name: kept for name, kept in self._all() if name in names}

    def tag(self, name: str) -> str | None:
        row = self._database.execute("SELECT tag FROM files WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def keep(self, name: str, kept: _Kept) -> None:
        self._database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (name, kept.tag, *kept.stat))

    def forget(self, name: str) -> None:
        self._database.execute("DELETE FROM files WHERE name = ?", (name,))

    def _all(self) -> Iterator[tuple[str, _Kept]]:
        for name, tag, size, changed_ns in self._database.execute("SELECT * FROM files").fetchall():
            yield name, _Kept(tag, (size, changed_ns))


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


def _is_sent(name: str) -> bool:
    """Whether a file is no lock, and none that a step has not finished."""
    parts = name.split("/")
    # TensorFlow writes the parts of a checkpoint into `ckpt-N_temp`.
    return not any((part.startswith(".") and part not in _SENT_THOUGH_HIDDEN) or part.endswith("_temp") for part in parts)


def _holds_paths(name: str, size: int) -> bool:
    return not name.startswith("datasets/") and size <= _LONGEST_TEXT and _TEXTS.match(PurePosixPath(name).name) is not None


def _hollow_file(_: str, stored: Stored, path: Path) -> None:
    """Writes a file of the right size that takes no room."""
    path.touch()
    os.truncate(path, stored.size)


def _stat(path: Path) -> Stat:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _in_text(content: bytes, change: Callable[[str], str]) -> bytes:
    """The content with its text changed; as it is where it is no text."""
    try:
        return change(content.decode()).encode()
    except UnicodeDecodeError:
        return content
