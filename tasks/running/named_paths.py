"""Paths that a person names on the command line, looked at before a step begins."""

from __future__ import annotations

import os
from pathlib import Path

from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, located

_DESCRIPTIONS = {".yaml", ".yml"}


def dataset_folder(text: str) -> DatasetDir:
    """The dataset in a folder or under a URL; UserError for a file, which people name where its folder is meant, and for nothing."""
    path = located(text)
    dataset = DatasetDir(path)
    if not isinstance(path, Path) or path.is_dir():
        return dataset
    if path.is_file() and path.name == dataset.manifest.name:
        raise UserError(f"{text} is a file of a dataset", f"give the folder of the dataset: {path.parent}")
    if path.is_file() and path.suffix in _DESCRIPTIONS:
        raise UserError(
            f"{text} is a file, and this command reads a materialized dataset",
            f"give the folder of the dataset; `maskline materialize {text}` writes one and prints where",
        )
    what = "is a file" if path.exists() else "does not exist"
    raise UserError(f"{text} {what}", "give the folder of the dataset, as `maskline materialize` printed it")


def local_dataset(text: str) -> DatasetDir:
    """As `dataset_folder`, for the steps that read datasets from folders alone: UserError for a URL."""
    if "://" in text:
        copy = f"copy it first, say by `aws s3 cp --recursive {text}`" if text.startswith("s3://") else "copy it first"
        raise UserError(f"{text} is a URL, and this step reads datasets from folders", f"{copy} to a folder, and name that")
    return dataset_folder(text)


def new_folder(text: str) -> Path:
    """A folder to write to, which need not exist yet; UserError where it cannot be made, before there is any work to lose."""
    path = located(text)
    if isinstance(path, Path):
        _refuse_what_cannot_be_written(path, text)
        if path.exists() and not path.is_dir():
            raise UserError(f"{text} is a file, and a folder is needed", "name a new or empty folder")
    return path


def new_file(text: str) -> Path:
    """A local file to write, which need not exist yet; UserError as `new_folder`."""
    path = Path(text)
    _refuse_what_cannot_be_written(path, text)
    if path.is_dir():
        raise UserError(f"{text} is a folder, and a file is needed", "name a file")
    return path


def _refuse_what_cannot_be_written(path: Path, text: str) -> None:
    there = path.absolute()
    while not there.exists() and not there.is_symlink():
        there = there.parent
    if there != path.absolute() and not there.is_dir():
        raise UserError(f"{text} cannot be made: {there} is no folder", "name a path below a folder")
    if not os.access(there, os.W_OK):
        raise UserError(f"{text} cannot be written: no right to write to {there}", "get the right to write there, or name another path")
