"""The command line over the steps: `maskline STEP ...` or `python -m tasks STEP ...`.

Each command parses its options, imports its step only then, so that a command which needs no TensorFlow does not pay for it,
and writes the step's result to `--result FILE` for whoever called it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from tasks.errors import UserError
from tasks.workspace import StepResult, write_json

# Model Garden is written against Keras 2, which TensorFlow only hands out when told so before its import.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

app = typer.Typer(
    name="maskline",
    help="Retrain the TensorFlow Mask R-CNN zoo: materialize, convert, train, evaluate, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ResultOption = Annotated[
    Optional[Path], typer.Option("--result", help="Write the step's result (names, paths, small numbers) to this JSON file.")
]


def answer(result: StepResult, result_file: Path | None) -> None:
    """Prints one closing line and writes the result file where the caller asked for one."""
    print(f"{result.step}: {result.status}")
    for name, path in result.outputs.items():
        print(f"  {name}: {path}")
    if result_file is not None:
        write_json(result_file, result.to_json())


def main() -> None:
    """Runs the command line; an error that a person can mend ends with code 2, its message and its fix."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
