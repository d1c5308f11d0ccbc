"""Every command with every kind of wrong path: code 2, a message that names the thing, and the way out."""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml

from tasks import cli
from tasks.running.failure import as_user_error, keep_traceback
from tasks.running.workspace import ModelDir, write_json
from tests.checkpoints.tf1_checkpoint import write_checkpoint
from tests.small_dataset import write_source

FILES = ("empty file", "binary file", "text file", "JSON file", "manifest", "dataset.yaml", "below a file")
FOLDERS = ("empty folder", "dataset", "model", "run")
"""Things that a person may name by mistake."""

# By command the words of a good call: text as it is, (parameter, thing) with the path of a thing.
CALLS: dict[str, list[str | tuple[str, str]]] = {
    "convert": [
        ("config", "config"),
        ("--dataset", "dataset"),
        ("--output", "new"),
        ("--checkpoint", "checkpoint"),
        ("--checkpoint-label-map", "label map"),
    ],
    "lint": [("config", "config"), ("--dataset", "dataset")],
    "shapes": [("folder", "new"), "--train", "1", "--val", "1", "--height", "32", "--width", "32"],
    "materialize": [("dataset", "dataset.yaml"), ("--output", "new"), ("--remap-categories", "remap"), ("--corrections", "corrections")],
    "preflight": [
        ("dataset", "dataset.yaml"),
        *("--config", "mask_rcnn_inception_v2_coco"),
        ("--checkpoint", "checkpoint"),
        ("--checkpoint-label-map", "label map"),
        ("--evaluate-into", "new"),
        ("--predictor", "trained"),
        ("--results", "detections"),
        ("--slices", "attributes"),
    ],
    "inspect": [("dataset", "dataset"), ("--against", "dataset"), ("--output", "new")],
    "check": [("dataset", "dataset"), ("--label-map", "label map")],
    "transcode": [("dataset", "dataset"), "--mask-type", "numerical", ("--output", "new"), ("--label-map", "label map")],
    "plan": [
        ("model", "config"),
        "--count-only",
        ("--output", "new"),
        ("--dataset", "dataset"),
        ("--checkpoint", "checkpoint"),
        ("--checkpoint-label-map", "label map"),
    ],
    "profile-input": [("target", "dataset"), ("--label-map", "label map"), "--images", "1", "--seconds", "0.01"],
    "train": [("model", "model")],
    "replay": [("model", "model"), "1"],
    "reproduce": [("run", "reproducible"), ("--output", "new"), "--dry-run"],
    "evaluate": [
        ("model", "model"),
        ("--slices", "attributes"),
        ("--results", "detections"),
        ("--predictor", "trained"),
        ("--config", "config"),
        ("--label-map", "label map"),
        ("--dataset", "dataset"),
    ],
    "export": [("model", "trained"), ("--checkpoint", "own checkpoint")],
    "predict": [
        ("model", "trained"),
        "nowhere.jpg",
        ("--output", "new"),
        ("--label-map", "label map"),
        ("--checkpoint", "own checkpoint"),
        ("--config", "config"),
    ],
    "adopt": [("folder", "model"), ("--output", "new")],
    "nominate": [("target", "trained"), ("--policy", "policy")],
    "promote": [("target", "trained"), "--reason", "it was tried", ("--policy", "policy")],
    "reassess": [("dataset", "dataset")],
    "rollback": ["nobody's", "--reason", "it was tried"],
    "recall": ["weekly", ("run", "new"), ("--dataset", "dataset"), "--config", "mask_rcnn_inception_v2_coco"],
    "remember": ["weekly", ("run", "run")],
    "open-run": [("run", "new"), ("--dataset", "dataset")],
    "compare": [("run", "run"), ("--output", "new"), ("--before", "run")],
    "review": [("run", "run"), ("--output", "new")],
    "regrade": [("before", "evaluated"), ("after", "evaluated"), ("--output", "new")],
    "sync": [("folder", "run")],
    "doctor": [],
    "gc": [],
}
GO_TOGETHER = (
    {("config", "--output"), ("--dataset", "--output"), ("--checkpoint", "--output")}
    | {("--checkpoint-label-map", other) for other in ("--checkpoint", "--output")}
    | {("--results", "--dataset"), ("--predictor", "--dataset"), ("--dataset", "--results")}
    | {
        (of_asked, "--evaluate-into")
        for of_asked in ("--results", "--predictor", "--slices", "--predictor-config", "--predictor-label-map")
    }
    | {("--predictor-config", "--predictor"), ("--predictor-label-map", "--predictor")}
    | {(of_model, other) for of_model in ("--config", "--label-map") for other in ("--predictor", "--dataset")}
)
"""Options that are given besides the wrong one, though a call does without: (wrong, option)."""
RIGHT = {
    ("lint", "config", "empty file"),
    ("inspect", "--against", "manifest"),
    ("profile-input", "target", "model"),
    ("plan", "model", "model"),
    ("adopt", "folder", "dataset"),
    ("materialize", "dataset", "dataset"),
    ("preflight", "dataset", "dataset"),
    ("adopt", "folder", "run"),
}
"""What is not wrong, or told in a report of findings: (command, parameter, thing)."""


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each kind, by name."""
    from tasks.convert import convert
    from tasks.materialize import materialize
    from tasks.running.workspace import DatasetDir

    root = tmp_path_factory.mktemp("things")
    source = root / "source"
    source.mkdir()
    write_source(source, 6)
    dataset = root / "dataset"
    materialize(source / "dataset.yaml", dataset)
    model = root / "run" / "mask_rcnn_inception_v2_coco"
    convert("mask_rcnn_inception_v2_coco", DatasetDir(dataset), ModelDir(model))
    (root / "empty").touch()
    (root / "binary").write_bytes(bytes(range(256)) * 8)
    (root / "text").write_text("The quick brown fox: [\n")
    (root / "some.json").write_text('{"a": [1]}')
    (root / "empty_folder").mkdir()
    return {
        "missing": root / "nowhere",
        "empty file": root / "empty",
        "binary file": root / "binary",
        "text file": root / "text",
        "JSON file": root / "some.json",
        "empty folder": root / "empty_folder",
        "manifest": dataset / "manifest.json",
        "dataset": dataset,
        "model": model,
        "run": root / "run",
        "dataset.yaml": source / "dataset.yaml",
        "below a file": root / "text" / "below",
        "config": model / "pipeline.config",
        "label map": dataset / "label_map.pbtxt",
        "checkpoint": write_checkpoint(root / "zoo" / "model.ckpt", {"Conv/weights": np.zeros((1, 1, 3, 2), np.float32)}),
        "trained": _trained(model, root / "trained" / model.name),
        "reproducible": _reproducible(model, root / "reproducible" / model.name),
        "evaluated": _evaluated(model, root / "evaluated" / model.name),
        "own checkpoint": root / "trained" / model.name / "train" / "ckpt-1",
        "policy": Path(__file__).parents[1] / "configs" / "promotion.yaml",
        "remap": _written(root / "remap.yaml", "cat: dog\n"),
        "attributes": _written(root / "attributes.csv", "image,camera\n1.png,left\n"),
        "corrections": _written(root / "corrections.json", '{"images": [], "annotations": [], "categories": []}'),
        "detections": _written(root / "detections.json", '[{"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [2, 2, 10, 10]}]'),
        "new": root / "new",
    }


def _trained(model: Path, folder: Path) -> Path:
    """As training leaves a model, with a checkpoint that holds nothing."""
    shutil.copytree(model, folder)
    write_json(folder / "train" / "result.json", {})
    (folder / "train" / "experiment.yaml").write_bytes((model / "experiment.yaml").read_bytes())
    (folder / "train" / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\n')
    (folder / "train" / "ckpt-1.index").touch()
    return folder


def _evaluated(model: Path, folder: Path) -> Path:
    """A model with the figures of an evaluation, and nothing else of it."""
    shutil.copytree(model, folder)
    write_json(folder / "evaluation" / "metrics.json", {})
    return folder


def _reproducible(model: Path, folder: Path) -> Path:
    """The same, with the conditions of its training."""
    from tasks.training.experiment import load_experiment
    from tasks.training.provenance import conditions, keep_conditions
    from tasks.training.records import records_read

    trained = _trained(model, folder)
    experiment = load_experiment(model / "experiment.yaml")
    keep_conditions(trained / "train", conditions(experiment, records_read(experiment.task)), 0)
    return trained


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture(autouse=True)
def _own_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


def words(command: str, wrong: str, named: Path, things: dict[str, Path]) -> list[str]:
    """The command line with `named` for the parameter `wrong`; other options that name a path are left out where they may be."""
    line = [command]
    for word in CALLS[command]:
        if isinstance(word, str):
            line.append(word)
            continue
        parameter, thing = word
        value = named if parameter == wrong else things[thing]
        if not parameter.startswith("--"):
            line.append(str(value))
        elif parameter == wrong or _required(command, parameter) or (wrong, parameter) in GO_TOGETHER:
            line += [parameter, str(value)]
    return line


def _parameters(command: str) -> list[Any]:
    return list(typer.main.get_command(cli.app).commands[command].params)  # type: ignore[attr-defined]


def _required(command: str, parameter: str) -> bool:
    return any(parameter in known.opts and known.required for known in _parameters(command))


def test_every_command_is_here_with_every_path_that_it_takes() -> None:
    assert set(CALLS) == set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    for command, call in CALLS.items():
        tried = {word[0] for word in call if not isinstance(word, str)}
        for known in _parameters(command):
            name = known.opts[0]
            is_path = type(known.type).__name__ in ("TyperPath", "FuncParamType") and getattr(known.type, "func", None) is not cli.finite
            assert not is_path or name in tried or name == "--result", (command, name)


def wrong_paths() -> Iterator[Any]:
    for command, call in CALLS.items():
        for parameter, right in (word for word in call if not isinstance(word, str)):
            for kind in FILES if right == "new" else (*FILES, *FOLDERS, "missing"):
                if kind != right and (command, parameter, kind) not in RIGHT:
                    yield pytest.param(command, parameter, kind, id=f"{command} {parameter} {kind}")


@pytest.mark.parametrize(("command", "parameter", "kind"), wrong_paths())
def test_wrong_path_is_named_with_the_way_out(
    command: str,
    parameter: str,
    kind: str,
    things: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = _content(things["dataset"].parent)
    monkeypatch.setattr(sys, "argv", ["maskline", *words(command, parameter, things[kind], things)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capfd.readouterr().err
    assert ended.value.code == 2, told
    assert "Traceback" not in told
    assert "traceback:" not in told
    # Click's own refusals stand in a box, with the way out in `--help`.
    assert "fix: " in told or "--help" in told
    assert str(things[kind]).replace(" ", "") in flat(told) or things[kind].name in told, told
    assert _content(things["dataset"].parent) == before


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "tensorflow.log"}


class _Marks:
    """Whoever unpickles it, touches a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@dataclass(frozen=True)
class Planted:
    """Files that execute code when they are loaded carelessly, which touches `mark`, and how careless that is, by the file."""

    mark: Path
    careless: dict[Path, Callable[[Path], object]]


@pytest.fixture(scope="module")
def planted(things: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Planted:
    import tf_keras

    folder = tmp_path_factory.mktemp("planted")
    mark = folder.parent / "mark"
    (folder / "model.pkl").write_bytes(pickle.dumps(_Marks(mark)))
    np.save(folder / "array.npy", np.array([_Marks(mark)], object), allow_pickle=True)
    with zipfile.ZipFile(folder / "weights.pt", "w") as archive:
        archive.writestr("weights/data.pkl", pickle.dumps(_Marks(mark)))
    (folder / "code.yaml").write_text(f"!!python/object/apply:os.system ['touch {mark}']\n")
    # Made a part of the function, as Keras keeps it.
    layer = tf_keras.layers.Lambda(eval(f"lambda x: (__import__('os').system('touch {mark}'), x)[1]"))
    network = tf_keras.Sequential([tf_keras.Input((2,)), layer])
    for name in ("model.h5", "model.keras"):
        network.save(folder / name)
    mark.unlink()

    def keras(file: Path) -> object:
        return tf_keras.models.load_model(file, safe_mode=False)

    return Planted(
        mark,
        {
            folder / "model.pkl": lambda file: pickle.loads(file.read_bytes()),
            folder / "array.npy": lambda file: np.load(file, allow_pickle=True),
            folder / "weights.pt": lambda file: pickle.loads(zipfile.ZipFile(file).read("weights/data.pkl")),
            folder / "code.yaml": lambda file: yaml.unsafe_load(file.read_text()),
            folder / "model.h5": keras,
            folder / "model.keras": keras,
        },
    )


def test_each_planted_file_would_execute_its_code(planted: Planted) -> None:
    for file, load in planted.careless.items():
        load(file)
        assert planted.mark.exists(), file
        planted.mark.unlink()


def with_paths() -> list[Any]:
    """Every command that takes a path, with two kinds of planted files in turn for each, and by `make test-slow` with all."""
    commands = [command for command, call in CALLS.items() if any(not isinstance(word, str) for word in call)]
    return [pytest.param(command, 2) for command in commands] + [pytest.param(command, 6, marks=pytest.mark.slow) for command in commands]


@pytest.mark.parametrize(("command", "kinds"), with_paths())
def test_no_users_file_is_executed(
    command: str,
    kinds: int,
    things: dict[str, Path],
    planted: Planted,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    files = [*planted.careless]
    for number, (parameter, right) in enumerate(word for word in CALLS[command] if not isinstance(word, str)):
        chosen = [files[(number + step * len(files) // kinds) % len(files)] for step in range(kinds)]
        # A folder of them all may be taken for data without any; a new folder's content may be anything.
        for named in (*chosen, *([files[0].parent] if right != "new" else [])):
            monkeypatch.setattr(sys, "argv", ["maskline", *words(command, parameter, named, things)])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            told = capfd.readouterr()
            assert not planted.mark.exists(), (parameter, named)
            if named.is_file():
                assert ended.value.code == 2, (parameter, named, told)
                assert "fix: " in told.err or "--help" in told.err, (parameter, named, told)


def flat(told: str) -> str:
    """Without blanks, line breaks and the box that Click draws, which may cut a path in two."""
    return told.replace("\n", "").replace("│", "").replace(" ", "")


def without_rights() -> None:
    """Takes from the process that follows what lets root read and write everything."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.parametrize(
    ("line", "mode"),
    [
        (["compare", "FOLDER"], 0o000),
        (["inspect", "FOLDER"], 0o000),
        (["materialize", "FOLDER/dataset.yaml"], 0o000),
        (["materialize", "FILE"], 0o000),
        (["lint", "FILE"], 0o000),
        (["convert", "FILE", "--dry-run"], 0o000),
        (["shapes", "FOLDER/new"], 0o500),
        (["transcode", "DATASET", "--mask-type", "png", "--output", "FOLDER/new"], 0o500),
        (["compare", "RUN", "--result", "FOLDER/result.json"], 0o500),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_path_without_rights_is_named_with_the_way_out(tmp_path: Path, things: dict[str, Path], line: list[str], mode: int) -> None:
    folder, file = tmp_path / "closed", tmp_path / "closed.yaml"
    folder.mkdir(mode=mode)
    file.touch(mode=mode)
    named = {"FOLDER": folder, "FILE": file, "DATASET": things["dataset"], "RUN": things["run"]}
    command = [line[0], *(_put_in(word, named) for word in line[1:])]
    done = subprocess.run(
        [sys.executable, "-m", "tasks", *command],
        capture_output=True,
        text=True,
        preexec_fn=without_rights,
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "MASKLINE_WORKSPACE": str(tmp_path / "workspace")},
    )
    assert done.returncode == 2, done.stderr
    assert "fix: " in done.stderr or "--help" in done.stderr
    assert "closed" in flat(done.stderr)
    assert "raceback" not in done.stderr


def _put_in(word: str, named: dict[str, Path]) -> str:
    for name, path in named.items():
        word = word.replace(name, str(path))
    return word


def test_error_that_nobody_foresaw_is_one_line_and_its_traceback_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("line one\nline two " + "x" * 2000)

    monkeypatch.setattr("tasks.compare.compare", broken)
    monkeypatch.setattr(sys, "argv", ["maskline", "compare", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told, named = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1
    assert told.startswith("error: ValueError: line one line two x")
    assert len(told) < 600
    file = Path(named.removeprefix("  traceback: "))
    assert file.parent == tmp_path / "workspace" / "tracebacks"
    assert "in broken" in file.read_text()


def test_traceback_finds_a_place_where_the_workspace_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kept = keep_traceback(ValueError("x"), tmp_path / "file")
    assert kept is not None
    try:
        assert kept.read_text() == "ValueError: x\n"
    finally:
        kept.unlink()


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT, errno.ESTALE])
def test_error_of_the_system_that_may_pass_is_no_users_error(number: int) -> None:
    assert as_user_error(OSError(number, "passing", "/some/file")) is None
    assert as_user_error(OSError(errno.ENOENT, "no file that was named")) is None


def test_a_full_disk_is_told_though_it_names_no_file() -> None:
    told = as_user_error(OSError(errno.ENOSPC, "No space left on device"))
    assert told is not None
    assert (told.message, told.fix[:21]) == ("a file that was written to: No space left on device", "make room on the disk")


class ResourceExhaustedError(Exception):
    """Called as TensorFlow's is."""


@pytest.mark.parametrize("kind", [MemoryError, type("Wrapped", (ResourceExhaustedError,), {})])
def test_what_ran_out_of_memory_is_told_how_to_ask_for_less(kind: type[Exception]) -> None:
    told = as_user_error(kind(f"\nOOM when allocating tensor with shape[64,800,800]\n{'a long hint ' * 50}"))
    assert told is not None
    assert told.message == "out of memory: OOM when allocating tensor with shape[64,800,800]"
    assert told.fix.startswith("ask for less at a time: fewer images per step (--batch-size)")
