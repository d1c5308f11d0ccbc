"""What no source of ours may do with somebody else's file, beyond what ruff's rules see (pyproject.toml)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
FORBIDDEN = {
    # Pickles inside other files
    "read_pickle": "a pickle",
    "load_weights": "an HDF5 file by Keras",
    "model_from_json": "code in a Keras file",
    "model_from_config": "code in a Keras file",
    "import_meta_graph": "a graph where weights are wanted",
    # Archives as they stand
    "extractall": "an archive unpacked wherever it says",
    "unpack_archive": "an archive unpacked wherever it says",
}
RUN_MODELS = {
    "tasks/serving/predictor.py": "predict and evaluate --predictor",
    "tasks/serving/registration.py": "what it has exported itself",
    "tasks/promotion/champion.py": "what it has registered itself",
    "tasks/serving/mlflow_detector.py": "the model that MLflow serves",
    "benchmarks/serving.py": "what it has exported itself",
}
"""Where a SavedModel is run: docs/security.md says that it is a program."""


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call by the name of what is called, with what it is a member of."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def faults(source: str) -> list[str]:
    found = []
    for name, call in calls(source):
        last = name.rpartition(".")[2]
        if last in FORBIDDEN:
            found.append(f"{name}: {FORBIDDEN[last]}")
        if last == "load_model" and "keras" in name:
            found.append(f"{name}: code in a Keras file")
        if last == "extract":
            found.append(f"{name}: a member of an archive written wherever it says")
        arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if arguments.get("allow_pickle", "False") != "False":
            found.append(f"{name}: pickles in arrays")
        if arguments.get("safe_mode", "True") != "True":
            found.append(f"{name}: code in a Keras file")
    return found


def sources() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "tasks", "dags", "docker", "benchmarks", ".ci"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    return [REPOSITORY / name for name in listing.splitlines() if name.endswith(".py")]


def test_no_source_executes_a_users_file() -> None:
    found = {str(path.relative_to(REPOSITORY)): told for path in sources() if (told := faults(path.read_text()))}
    assert found == {}
    assert len(sources()) > 100


def test_a_model_is_run_only_where_it_is_told() -> None:
    running = {
        str(path.relative_to(REPOSITORY))
        for path in sources()
        if any(name.endswith("saved_model.load") for name, _ in calls(path.read_text()))
    }
    assert running == set(RUN_MODELS)


def test_the_rules_see_what_they_are_made_for(tmp_path: Path) -> None:
    for line in (
        "np.load(file, allow_pickle=True)",
        "tf_keras.models.load_model(file)",
        "keras.saving.load_model(file, safe_mode=False)",
        "archive.extractall(folder)",
        "archive.extract(member)",
        "shutil.unpack_archive(file)",
        "pd.read_pickle(file)",
    ):
        assert faults(line), line
    assert faults("np.load(file, allow_pickle=False)") == faults("archive.extractfile(member)") == []
    # Ruff's part, by the rules of this repository.
    bad = "import pickle, tarfile, yaml\npickle.load(f)\nyaml.load(f)\neval(t)\nexec(t)\ntarfile.open(f).extractall(d)\n"
    told = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", REPOSITORY / "pyproject.toml", "--output-format", "concise", "-"],
        input=bad,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    for rule in ("S301", "S506", "S307", "S102", "S202"):
        assert rule in told, told
