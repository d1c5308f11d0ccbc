"""A checkpoint wherever a user has it: under its prefix, in a folder, in a tarball as it was downloaded, or where we trained it.

What the original's exporter wrote, a frozen graph or a SavedModel, stands for a checkpoint where there is none.

Needs no TensorFlow, so that a step which only names the checkpoint is quick.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from tasks.checkpoints.own_checkpoint import checkpoint_to_start_from
from tasks.running.errors import UserError
from tasks.running.pointer_file import pointer_at
from tasks.running.scratch import without_pattern

# Of the zoo's and slim's tarballs the largest unpacks to under 2 GiB.
UNPACKED_LIMIT_BYTES = 8 * 2**30

TARBALLS = (".tar.gz", ".tgz", ".tar")
# An index and data files (V2), called model.ckpt or, by TensorFlow 2, ckpt-25; or one file of the bare name (V1, as slim's ImageNet
# checkpoints are).
_FILE = re.compile(r"(?P<prefix>.+\.ckpt(-\d+)?|ckpt-\d+)(?P<part>\.index|\.data-\d{5}-of-\d{5})?")
# Where the original's exporters of TensorFlow 2 put it beside the model.
_EXPORTED = "checkpoint"
FROZEN_GRAPH, SAVED_MODEL = "frozen_inference_graph.pb", "saved_model.pb"
_GRAPH = ".pb"
# Both a folder beside the graph, and the prefix in it.
_SAVED_VARIABLES = "variables"
_VARIABLES = re.compile(rf"{_SAVED_VARIABLES}\.(index|data-\d{{5}}-of-\d{{5}})")
_LATEST = re.compile(r'^model_checkpoint_path: "(?:.*/)?([^/]+)"$', re.MULTILINE)


def find_checkpoint(path: Path, config: str) -> Path:
    """The absolute path of the checkpoint for the zoo config of that name: `path`, or what a folder of several has for it.

    A folder may be that of a checkpoint, or of a model that was exported, with one in its `checkpoint/` or without. A graph is a file
    `.pb`, which of a SavedModel stands for the variables beside it too. In a folder of several it is the folder or tarball called as the
    config, with or without a date, like the zoo's `<config>_2018_01_28.tar.gz`, or the model of that name in a pipeline run's. Of a model
    that was trained here it is the prefix of its best checkpoint, where it has measured any, else of its last. Neither tarballs nor graphs
    are opened here.
    UserError where there is no checkpoint, or no single one.
    """
    path = path.absolute()
    if _is_tarball(path) or _is_graph(path):
        _confirm_fetched(path)
        return path
    if not path.is_dir():
        return Path(_checked_prefix(path))
    if (trained_here := checkpoint_to_start_from(path)) is not None:
        return trained_here
    for folder in (path, path / _EXPORTED):
        if folder.is_dir() and prefixes(folder):
            _only_prefix(folder, str(folder))
            return folder
    if (graph := _exported_graph(path)) is not None:
        _confirm_fetched(graph)
        return graph
    own = re.compile(rf"({re.escape(config)}(?:_\d{{4}}_\d\d_\d\d)?)(?:{'|'.join(map(re.escape, TARBALLS))})?")
    found: dict[str, Path] = {}
    # A folder comes before the tarball that it was unpacked from.
    for entry in sorted(path.iterdir()):
        if match := own.fullmatch(entry.name):
            found.setdefault(match[1], entry)
    if not found:
        raise UserError(
            f"{path} holds no checkpoint for {config}",
            f"put one there: files such as model.ckpt.index, a {FROZEN_GRAPH} or SavedModel, or a folder or {TARBALLS[0]} called "
            f"{config}, with or without a date",
        )
    if len(found) > 1:
        raise UserError(f"{path} holds {len(found)} checkpoints for {config}: {', '.join(found)}", "name one of them")
    (only,) = found.values()
    return find_checkpoint(only, config)


def is_checkpoint(path: Path) -> bool:
    """Whether a path looks like a checkpoint that `find_checkpoint` finds, by its name and what lies there."""
    if path.is_dir():
        return bool(prefixes(path)) or (path / FROZEN_GRAPH).is_file()
    if path.is_file():
        return _is_tarball(path) or _is_graph(path) or path.name in prefixes(path.parent)
    return path.with_name(f"{path.name}.index").is_file()


@contextmanager
def checkpoint_prefix(path: Path) -> Iterator[str]:
    """Yields the prefix that TensorFlow's readers take, or the path of a graph; of a SavedModel with variables, their prefix.

    `path` is such a prefix or path, a folder with one checkpoint or an exported model, or a tarball of one. What a tarball holds lies in a
    temporary folder until the block ends. UserError where there is no checkpoint, or no single one, and for a tarball that is damaged,
    leads outside of its folder, holds links, or unpacks to more than `UNPACKED_LIMIT_BYTES`.
    """
    if _is_tarball(path):
        _confirm_fetched(path)
        with tempfile.TemporaryDirectory(prefix="maskline-checkpoint-") as folder:
            _unpack(path, Path(folder))
            yield _prefix_in(Path(folder), str(path))
    else:
        prefix = Path(_prefix_in(path, str(path)) if path.is_dir() else _graph_prefix(path) if _is_graph(path) else _checked_prefix(path))
        with without_pattern(prefix.parent) as plain:
            yield str(plain / prefix.name)


def is_graph(prefix: str) -> bool:
    """Whether what `checkpoint_prefix` yields is the path of a graph."""
    return prefix.endswith(_GRAPH)


def is_saved_model(prefix: str) -> bool:
    """Whether it is the prefix of a SavedModel's variables."""
    return Path(prefix).name == _SAVED_VARIABLES


def checkpoint_digest(path: Path) -> str | None:
    """SHA-256 of what tells a checkpoint from others: its index, which holds a checksum of every tensor, or the one file that it is, a
    tarball or graph; None where nothing is there. UserError for a folder without a single one."""
    prefix = Path(_prefix_in(path, str(path)) if path.is_dir() else _graph_prefix(path) if _is_graph(path) else path)
    index = prefix.with_name(f"{prefix.name}.index")
    file = index if index.is_file() else prefix
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_graph(path: Path) -> bool:
    return path.is_file() and is_graph(path.name)


def _exported_graph(folder: Path) -> Path | None:
    """The graph of a model that was exported to a folder, or of the SavedModel that the folder is; None where there is none."""
    places = (folder / FROZEN_GRAPH, folder / SAVED_MODEL, folder / "saved_model" / SAVED_MODEL)
    return next((place for place in places if place.is_file()), None)


def _graph_prefix(graph: Path) -> str:
    """A graph's path, or the prefix of the variables beside a SavedModel's."""
    variables = graph.parent / _SAVED_VARIABLES / _SAVED_VARIABLES
    if graph.name == SAVED_MODEL and variables.with_name(f"{_SAVED_VARIABLES}.index").is_file():
        for file in variables.parent.iterdir():
            _confirm_fetched(file)
        return str(variables)
    _confirm_fetched(graph)
    return str(graph)


def _prefix_in(folder: Path, where: str) -> str:
    """The one checkpoint in a folder, or what was exported there."""
    if not prefixes(folder) and (graph := _exported_graph(folder)) is not None:
        return _graph_prefix(graph)
    return _only_prefix(folder, where)


def _is_tarball(path: Path) -> bool:
    return path.is_file() and path.name.endswith(TARBALLS)


def _checked_prefix(path: Path) -> str:
    match = _FILE.fullmatch(path.name)
    if path.with_name(path.name + ".index").is_file() or (path.is_file() and match and not match["part"]):
        return _fetched(path)
    if path.is_file() and match:
        raise UserError(f"checkpoint {path} is one file of several", f"name them by their common prefix, {path.with_name(match['prefix'])}")
    raise UserError(
        f"checkpoint {path} does not exist",
        f"give a prefix (with {path.name}.index beside it), a folder that holds one checkpoint, a {TARBALLS[0]} of one, or a graph "
        f"({_GRAPH})",
    )


def prefixes(folder: Path) -> list[str]:
    """The names of the checkpoints that lie in a folder itself."""
    matches = filter(None, (_FILE.fullmatch(entry.name) for entry in folder.iterdir() if entry.is_file()))
    return sorted({match["prefix"] for match in matches if match["part"] in (".index", None)})


def _only_prefix(folder: Path, where: str) -> str:
    """The one checkpoint in a folder; of several, the one that TensorFlow's `checkpoint` file calls the latest."""
    there = prefixes(folder)
    if not there:
        raise UserError(
            f"{where} holds no TensorFlow checkpoint", f"one has a file such as model.ckpt.index; {FROZEN_GRAPH} and SavedModels do, too"
        )
    if len(there) == 1:
        return _fetched(folder / there[0])
    latest = latest_prefix(folder)
    if latest is None:
        raise UserError(f"{where} holds {len(there)} checkpoints: {', '.join(there)}", "name one of them by its prefix")
    return _fetched(folder / latest)


def latest_prefix(folder: Path) -> str | None:
    """The name of the checkpoint that TensorFlow's file `checkpoint` in a folder calls the latest; None where it is not there."""
    state = folder / "checkpoint"
    # The file may have been written elsewhere: only the last part of the path counts.
    latest = _LATEST.search(state.read_text(errors="replace")) if state.is_file() else None
    return latest[1] if latest and latest[1] in prefixes(folder) else None


def _fetched(prefix: Path) -> str:
    """The prefix as a text; UserError where one of its files is a pointer to a large file."""
    for path in prefix.parent.iterdir():
        match = _FILE.fullmatch(path.name)
        if path == prefix or (match and match["prefix"] == prefix.name):
            _confirm_fetched(path)
    return str(prefix)


def _confirm_fetched(path: Path) -> None:
    if pointer := pointer_at(path):
        raise UserError(f"{path}: {pointer.problem}", pointer.fix)


def _unpack(tarball: Path, folder: Path) -> None:
    """Copies the files of a checkpoint and of an exported model, and nothing else, to `folder`; their folders inside are dropped.

    A graph is passed by where a checkpoint came before it: the zoo's tarballs hold all weights three times.
    """
    try:
        with tarfile.open(tarball) as archive:
            unpacked = 0
            for member in archive:
                # Skipping a member unpacks it all the same, so that everything counts.
                unpacked += max(member.size, tarfile.BLOCKSIZE)
                _check_member(tarball, member, unpacked)
                place = _unpacked_place(folder, PurePosixPath(member.name).name)
                content = archive.extractfile(member) if place else None
                if place is None or content is None:
                    continue
                if place.exists():
                    raise UserError(f"{tarball} holds {place.name} twice", "unpack it, and name what is meant: a checkpoint by its prefix")
                place.parent.mkdir(exist_ok=True)
                with content, place.open("wb") as stream:
                    shutil.copyfileobj(content, stream)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{tarball} cannot be unpacked: {error}", "download it again; the file may be cut short") from error


def _unpacked_place(folder: Path, name: str) -> Path | None:
    """Where a tarball's file goes; None for one that is not wanted."""
    if _FILE.fullmatch(name):
        return folder / name
    if prefixes(folder):
        return None
    if _VARIABLES.fullmatch(name):
        return folder / _SAVED_VARIABLES / name
    return folder / name if name in (FROZEN_GRAPH, SAVED_MODEL) else None


def _check_member(tarball: Path, member: tarfile.TarInfo, unpacked: int) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        problem = f"leads outside: {member.name}"
    elif not (member.isfile() or member.isdir()):
        problem = f"holds a link or a device: {member.name}"
    elif unpacked > UNPACKED_LIMIT_BYTES:
        problem = f"unpacks to more than {UNPACKED_LIMIT_BYTES} bytes"
    else:
        return
    raise UserError(f"{tarball} {problem}", "no checkpoint is packed like that; use a tarball from a source that you trust")
