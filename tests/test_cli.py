"""The command line as a whole: what it imports, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from tasks.cli import app

# The command line runs in a process of its own, which then tells what it has imported.
PROBE = """
import sys
sys.argv = ["maskline", *sys.argv[1:]]
from tasks.cli import main
code = 0
try:
    main()
except SystemExit as end:
    code = end.code
loaded = [name for name in ("tensorflow", "tf_keras", "official", "mlflow", "matplotlib") if name in sys.modules]
print()
print(code, *loaded)
"""


def run(*arguments):
    """Exit code, heavy modules imported, standard output and error of `maskline *arguments`."""
    done = subprocess.run([sys.executable, "-c", PROBE, *map(str, arguments)], capture_output=True, text=True, check=True)
    code, *loaded = done.stdout.splitlines()[-1].split()
    return int(code), loaded, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["open-run", "--help"], ["compare", "--help"], ["doctor", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments):
    assert run(*arguments)[:2] == (0, [])


def test_every_step_is_a_command():
    told = run("--help")[2]
    for step in ("open-run", "compare", "doctor"):
        assert f"│ {step} " in told


def test_what_a_person_can_mend_ends_with_code_2_and_the_fix(tmp_path):
    code, loaded, _, errors = run("compare", tmp_path / "nowhere")
    assert code == 2
    assert "tensorflow" not in loaded
    assert errors.startswith(f"error: {tmp_path / 'nowhere'} is not a folder\n  fix: ")


@pytest.mark.parametrize("step", ["convert", "lint"])
def test_a_dataset_under_a_url_is_refused_with_the_way_to_bring_it_here(step):
    code, _, _, errors = run(step, "mask_rcnn_inception_v2_coco", "--dataset", "s3://bucket/records")
    assert code == 2
    assert errors.startswith(
        "error: s3://bucket/records is a URL, and this step reads datasets from folders\n  fix: copy it first, say by `aws s3 cp"
    )


def test_a_failing_doctor_ends_with_code_1_and_still_answers(tmp_path):
    answer = tmp_path / "answer.json"
    code = (
        "import sys; sys.argv = ['maskline', 'doctor', '--result', sys.argv[1]]\n"
        "from tasks import cli, doctor\n"
        "doctor.CHECKS = [lambda: doctor.Finding('disk', doctor.FAIL, 'full', 'free some')]\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code, answer], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "fix: free some" in done.stdout
    assert json.loads(answer.read_text())["summary"] == {"failed": ["disk"], "warned": []}


def test_no_number_of_any_command_may_be_nan_or_infinite():
    commands = typer.main.get_command(app).commands
    numbers = [(name, one) for name, command in commands.items() for one in command.params if one.metavar == "NUMBER"]
    assert len(numbers) > 10
    # A number that is read in another way would pass unseen.
    assert not [one for command in commands.values() for one in command.params if one.type.name == "float"]
    for name, one in numbers:
        for text in ("nan", "-inf", "1e999"):
            told = CliRunner().invoke(app, [name, f"{one.opts[0]}={text}"])
            assert told.exit_code == 2
            assert f"'{text}' is no finite number" in " ".join(told.output.replace("│", " ").split())
