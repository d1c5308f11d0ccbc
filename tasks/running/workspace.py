"""Every path that a run writes, and the two ways of writing one: a file or a folder, whole or not at all.

<workspace>/
  mlflow.db, mlartifacts/                 tracking store and its artifacts
  datasets/<name>/                        materialize: DatasetDir
  schedules/<name>.json                   remember: the last good run of a schedule
  promotions/<registered model>/          promote, rollback: the ledger
  record_indexes/                         where records begin in files that have no index beside them
  runs/<run>/                             one pipeline run: RunDir
    ingredients.json                      recall, in runs of a schedule
    run.json                              open-run
    <config>/                             one zoo config: ModelDir
    compare/                              compare
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import yaml

from tasks.running.errors import UserError
from tasks.running.working_copy import WorkingCopy

WORKSPACE_VARIABLE = "MASKLINE_WORKSPACE"
COPIES_VARIABLE = "MASKLINE_WORKING_COPIES"
CHECKPOINT_IMPORT = "checkpoint_import.json"
_EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs"}


def workspace_root() -> Path:
    """The folder that holds everything: `$MASKLINE_WORKSPACE`, by default `workspace` in the current directory; of a URL, the copy here."""
    copy = working_copy()
    return copy.root if copy else Path(os.environ.get(WORKSPACE_VARIABLE) or "workspace").absolute()


def working_copy() -> WorkingCopy | None:
    """Where the workspace is a URL, the copy of it on this machine, the same for the whole process; None where it is a folder."""
    url = os.environ.get(WORKSPACE_VARIABLE, "").rstrip("/")
    if "://" not in url:
        return None
    copies = Path(os.environ.get(COPIES_VARIABLE) or Path.home() / ".cache" / "maskline").absolute()
    return _copy_of(url, copies / url.replace("://", "/"))


@functools.cache
def _copy_of(url: str, root: Path) -> WorkingCopy:
    return WorkingCopy(url, root)


def opened(path: Path) -> Path:
    """The path, and what lies there brought where the workspace is a URL; from now on what changes there is sent."""
    copy = working_copy()
    if copy and (place := copy.place(path)):
        copy.open(place)
    return path


def address(path: Path) -> str:
    """The path as other machines know it: a URL where the workspace is one."""
    return addressed(str(path))


def addressed(text: str) -> str:
    """A text of paths as other machines know them, as `address`."""
    copy = working_copy()
    return copy.addressed(text) if copy else text


def at(address: str) -> Path:
    """The path that an address means here, brought where the workspace is a URL."""
    copy = working_copy()
    return opened(Path(copy.localized(address))) if copy else Path(address)


@dataclass(frozen=True)
class DatasetDir:
    """A materialized dataset; complete when its manifest exists, which is written last."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def label_map(self) -> Path:
        return self.root / "label_map.pbtxt"

    @property
    def quarantine(self) -> Path:
        """The images that could not become records, a JSON object a line: split, source, id, code, message and fix."""
        return self.root / "quarantine.jsonl"

    @property
    def findings(self) -> Path:
        """Every fault that was found on the way to the records, a JSON object a line: image, object, code and what was done."""
        return self.root / "findings.jsonl"

    @property
    def source(self) -> Path:
        """Where a generated dataset's own images and COCO JSON lie."""
        return self.root / "source"

    def shard(self, split: str, index: int, count: int) -> Path:
        return self.root / f"{split}.record-{index:05d}-of-{count:05d}"

    def shard_pattern(self, split: str, count: int) -> str:
        return str(self.root / f"{split}.record-?????-of-{count:05d}")


@dataclass(frozen=True)
class ModelDir:
    """All that one zoo config leaves in one pipeline run."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def pipeline_config(self) -> Path:
        return self.root / "pipeline.config"

    @property
    def experiment(self) -> Path:
        """The experiment as converted; overrides on the command line of `train` do not touch it."""
        return self.root / "experiment.yaml"

    @property
    def conversion_report(self) -> Path:
        return self.root / "conversion.json"

    @property
    def zoo_difference(self) -> Path:
        """What tells the converted config from the zoo's of the same backbone, for people."""
        return self.root / "zoo_difference.txt"

    @property
    def plan(self) -> Path:
        """What the training was expected to need."""
        return self.root / "plan.json"

    @property
    def train(self) -> Path:
        """Checkpoints, `experiment.yaml` as it was trained, `metrics.jsonl`, and `result.json`, which is written last."""
        return self.root / "train"

    @property
    def training_lock(self) -> Path:
        """Locked by the process that trains here, whose name it holds."""
        return self.root / ".training.lock"

    @property
    def trained_label_map(self) -> Path:
        """The classes that were trained, for a later training that starts here: the dataset's own file may have others by then."""
        return self.train / "label_map.pbtxt"

    @property
    def checkpoint_import(self) -> Path:
        """What became of every variable of the checkpoint that training started from; absent where it started from scratch."""
        return self.train / CHECKPOINT_IMPORT

    @property
    def evaluation(self) -> Path:
        """Of the validation records, by which models are compared and chosen."""
        return self.root / "evaluation"

    @property
    def test_evaluation(self) -> Path:
        """Of the records that are kept for the end; nothing is chosen by it."""
        return self.root / "evaluation_test"

    @property
    def evaluation_parts(self) -> Path:
        """Evaluations under way: a folder for each, with a part for each file of records that is done."""
        return self.root / ".evaluation_parts"

    @property
    def export(self) -> Path:
        """A folder for each input kind: `saved_model/`, what the original puts beside it, and `export.json`, which is written last."""
        return self.root / "export"

    @property
    def registered(self) -> Path:
        """What went, or is to go, into MLflow's registry: `model/`, `registration.json`, and `version.json` once it is there."""
        return self.root / "registered"

    @property
    def tensorflow_log(self) -> Path:
        """What TensorFlow itself had to say, in the order of the steps that ran."""
        return self.root / "tensorflow.log"

    def tensorflow_log_of(self, worker: int) -> Path:
        """The same of one of the workers that train together, of which 0 is the chief."""
        return self.root / f"tensorflow-worker-{worker}.log" if worker else self.tensorflow_log

    @property
    def untrained_journal(self) -> Path:
        """Of a model that was not trained here: what MLflow is to hold of it, which else lies in `train`."""
        return self.root / "tracking"

    @property
    def tracking(self) -> Path:
        """Identity of this model's tracking run, so that evaluate adds to the run that train opened."""
        return self.root / "tracking.json"


@dataclass(frozen=True)
class RunDir:
    """One pipeline run: a folder per zoo config, their comparison, and the identity of the parent tracking run."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def identity(self) -> Path:
        return self.root / "run.json"

    @property
    def ingredients(self) -> Path:
        """What a schedule's run is made of: data, configs, settings and code."""
        return self.root / "ingredients.json"

    @property
    def dataset_page(self) -> Path:
        """What the models' dataset holds, for people."""
        return self.root / "dataset.html"

    @property
    def comparison(self) -> Path:
        return self.root / "compare"

    def model(self, config_name: str) -> ModelDir:
        return ModelDir(self.root / config_name)


def located(text: str) -> Path:
    """A local path, or under an fsspec URL such as `s3://bucket/data` one that reads and writes the same way.

    UserError where there is no package for such URLs, or the store does not let us in; whether anything is there is not asked.
    """
    protocol, separator, _ = text.partition("://")
    if not separator:
        return Path(text)
    try:
        path = named(text)
        path.exists()
    except (ImportError, ValueError) as error:
        extra = f"maskline[{_EXTRAS[protocol]}]" if protocol in _EXTRAS else "fsspec's package for such URLs, or correct the URL"
        raise UserError(f"{text}: {error}", f"install {extra}") from error
    except Exception as error:  # each store's client has errors of its own
        raise UserError(f"{text} cannot be reached: {error}", "correct the address, and the credentials in the environment") from error
    return path


def named(text: str) -> Path:
    """As `located`, without a look at the store."""
    protocol, separator, _ = text.partition("://")
    if not separator:
        return Path(text)
    # Not at the top: its import takes as long as numpy's, and most paths are on a disk.
    from upath import UPath

    path = UPath(text)
    return Path(path.path) if protocol == "file" else cast(Path, path)


@contextmanager
def shareable(path: Path) -> Iterator[Path]:
    """For the block, a file or folder with the same content, in whose texts paths are as other machines know them."""
    copy = working_copy()
    if copy is None:
        yield path
        return
    with copy.with_addresses(path) as shared:
        yield shared


def dataset_dir(name: str) -> DatasetDir:
    """Under a URL, that of the store itself: data sets are written there, in parts on many machines."""
    copy = working_copy()
    return DatasetDir(named(f"{copy.url}/datasets/{name}") if copy else workspace_root() / "datasets" / name)


def record_index_file(file: str) -> Path:
    """Where it is kept how the records lie in a file, a path or a URL, beside which nothing may be written."""
    return workspace_root() / "record_indexes" / f"{hashlib.sha256(file.encode()).hexdigest()[:32]}.idx"


def schedule_file(name: str) -> Path:
    return opened(workspace_root() / "schedules") / f"{name}.json"


def promotion_dir(name: str) -> Path:
    """The ledger of a registered model, and what its champions were measured at on other data."""
    return opened(workspace_root() / "promotions" / name)


def run_dir(name: str) -> RunDir:
    return RunDir(opened(workspace_root() / "runs" / name))


def read_bytes(path: Path) -> bytes:
    """A file's content; under a URL by one request, where a stream takes two."""
    if isinstance(path, Path):
        return path.read_bytes()
    remote = cast(Any, path)
    content: bytes = remote.fs.cat_file(remote.path)
    return content


def decoded(content: bytes) -> str:
    """The text in a file's bytes: UTF-8, or what its byte order mark says, which some editors write. UnicodeDecodeError."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole: to a temporary name beside it, then renamed over it; under a URL, in one request."""
    if not isinstance(path, Path):
        try:
            path.write_bytes(content)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error}", "correct the URL, or get the right to write there") from error
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        # A full disk is told by a stream, which has no name.
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A stream for what is too large to hold: the file appears when the block ends without an error; under a URL, when it is closed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}") if isinstance(path, Path) else path
    try:
        with temporary.open("wb") as stream:
            yield stream
        if temporary is not path:
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, _json_text(value))


def _json_text(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", "run the step that writes it first, or correct the path") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}", "name another file, or run the step that writes this one again") from error


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file that a step has written, such as `experiment.yaml`; UserError where it is none."""
    try:
        values = yaml.safe_load(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", "run the step that writes it first, or correct the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        values = " ".join(str(error).split())
    if not isinstance(values, dict):
        told = f": {values}" if isinstance(values, str) else ""
        raise UserError(f"{path} is not what a step of maskline writes{told}", "bring the file back, or run the step that writes it again")
    return values


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files in a folder, wherever it lies."""
    found = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        found.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return found.hexdigest()


@contextmanager
def staged_directory(final: Path) -> Iterator[Path]:
    """Yields an empty folder beside `final` that takes its place, replacing it, when the block ends without an error."""
    final.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}."))
    staging.chmod(0o755)
    try:
        yield staging
        if final.exists():
            shutil.rmtree(final)
        staging.rename(final)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


@dataclass(frozen=True)
class StepResult:
    """What a step answers with: small, JSON, names and paths only; arrays and tables stay in the files it names."""

    step: str
    status: str
    """`done`, or `skipped` where the outputs of the same inputs were already there."""
    outputs: Mapping[str, str]
    summary: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "status": self.status, "outputs": dict(self.outputs), "summary": dict(self.summary)}

    def to_json_text(self) -> str:
        return _json_text(self.to_json())
