"""A TF1 checkpoint wherever a user has it: under its prefix, in a folder, or in a tarball as it was downloaded."""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import tensorflow as tf

from tasks.errors import UserError

# Of the zoo's and slim's tarballs the largest unpacks to under 2 GiB.
UNPACKED_LIMIT_BYTES = 8 * 2**30

_TARBALLS = (".tar.gz", ".tgz", ".tar")
# An index and data files (V2), or one file of the bare name (V1, as slim's ImageNet checkpoints are).
_FILE = re.compile(r"(?P<prefix>.+\.ckpt(-\d+)?)(?P<part>\.index|\.data-\d{5}-of-\d{5})?")


@contextmanager
def checkpoint_prefix(path: Path) -> Iterator[str]:
    """Yields the prefix that TensorFlow's readers take. `path` is such a prefix, a folder with one checkpoint, or a tarball of one.

    What a tarball holds lies in a temporary folder until the block ends. UserError where there is no checkpoint, or no single one,
    and for a tarball that is damaged, leads outside of its folder, holds links, or unpacks to more than `UNPACKED_LIMIT_BYTES`.
    """
    if path.is_dir():
        yield _only_prefix(path, str(path))
    elif path.is_file() and path.name.endswith(_TARBALLS):
        with tempfile.TemporaryDirectory(prefix="maskline-checkpoint-") as folder:
            _unpack(path, Path(folder))
            yield _only_prefix(Path(folder), str(path))
    else:
        yield _checked_prefix(path)


def _checked_prefix(path: Path) -> str:
    if path.with_name(path.name + ".index").is_file():
        return str(path)
    match = _FILE.fullmatch(path.name)
    if path.is_file() and match and not match["part"]:
        return str(path)
    if path.is_file() and match:
        raise UserError(f"checkpoint {path} is one file of several", f"name them by their common prefix, {path.with_name(match['prefix'])}")
    raise UserError(
        f"checkpoint {path} does not exist",
        f"give a prefix (with {path.name}.index beside it), a folder that holds one checkpoint, or a {_TARBALLS[0]} of one",
    )


def _only_prefix(folder: Path, where: str) -> str:
    """The one checkpoint in a folder; of several, the one that TensorFlow's `checkpoint` file calls the latest."""
    matches = filter(None, (_FILE.fullmatch(entry.name) for entry in folder.iterdir() if entry.is_file()))
    prefixes = sorted({match["prefix"] for match in matches if match["part"] in (".index", None)})
    if not prefixes:
        raise UserError(f"{where} holds no TensorFlow checkpoint", "one has a file such as model.ckpt.index")
    if len(prefixes) == 1:
        return str(folder / prefixes[0])
    latest = tf.train.latest_checkpoint(str(folder))
    if latest is None:
        raise UserError(f"{where} holds {len(prefixes)} checkpoints: {', '.join(prefixes)}", "name one of them by its prefix")
    return str(latest)


def _unpack(tarball: Path, folder: Path) -> None:
    """Copies the checkpoint's files, and nothing else, to `folder`; their folders inside the tarball are dropped."""
    try:
        with tarfile.open(tarball) as archive:
            unpacked = 0
            for member in archive:
                # Skipping a member unpacks it all the same, so that everything counts.
                unpacked += max(member.size, tarfile.BLOCKSIZE)
                _check_member(tarball, member, unpacked)
                name = PurePosixPath(member.name).name
                content = archive.extractfile(member) if _FILE.fullmatch(name) else None
                if content is None:
                    continue
                if (folder / name).exists():
                    raise UserError(f"{tarball} holds {name} twice", "unpack it, and name the checkpoint by its prefix")
                with content, (folder / name).open("wb") as stream:
                    shutil.copyfileobj(content, stream)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{tarball} cannot be unpacked: {error}", "download it again; the file may be cut short") from error


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


def open_checkpoint(prefix: str) -> tf.train.CheckpointReader:
    """The reader of a checkpoint of named variables; UserError where it is damaged or holds TF2 objects."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(f"checkpoint {prefix} cannot be read: {error}", "copy or download it again") from error
    if "_CHECKPOINTABLE_OBJECT_GRAPH" in shapes:
        raise UserError(
            f"checkpoint {prefix} is one of TensorFlow 2, which knows objects and not variable names",
            "use the model's TF1 checkpoint, such as the zoo's of 2018",
        )
    return reader
