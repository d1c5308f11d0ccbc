"""`python -m tests.pipeline_config.samples FOLDER...`: what becomes of each config in the folders, a Markdown page on standard output.

Each is converted on a small generated dataset. docs/samples.md is that page for the original's samples, which are not part of the project.
Usual runtime: seconds.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tasks.convert import convert
from tasks.materialize import materialize
from tasks.pipeline_config.difference import Difference, differences
from tasks.pipeline_config.parser import read_pipeline_config
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.pipeline_config.zoo_difference import from_zoo
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, ModelDir, read_json

HEAD = """# The original's sample configs

Written by `.venv/bin/python -m tests.pipeline_config.samples samples/configs configs/tf2 > docs/samples.md`. The folders are those of
`research/object_detection` in the original's repository, here as of January 2023; any other folders of configs will do.

Each file is given to `maskline convert` with a generated dataset of four classes and no other option. *Converted* lists the edits that
changed something, the numbers being those of the guide's six edits. *Refused* gives the lines and the messages; nothing is written then.

"""
TWINS = """
## Beside the zoo

What tells a converted file from the zoo's config of the same backbone, converted likewise; files for COCO only, the others differ in their
schedule too. The height, width and layers of the mask branch are options of `convert`; the sizes of images, the weight of the mask loss and
the strides are what the guide leaves open (`--set` changes them).
"""


@dataclass(frozen=True)
class Outcome:
    """One file: converted by `edits`, which tell it from the zoo's `twin` by `differences`, or else refused with `refusal`."""

    name: str
    edits: tuple[str, ...] = ()
    twin: str | None = None
    differences: tuple[Difference, ...] = ()
    refusal: str | None = None


def outcome(file: Path, dataset: DatasetDir, folder: Path) -> Outcome:
    """What `convert` makes of a file; writes into a folder of its own below `folder`."""
    try:
        report, converted = _converted(str(file), dataset, ModelDir(folder / file.stem))
    except UserError as error:
        # Of several refusals each has a line of its own, and its way out the next.
        told = [line.strip() for line in error.message.splitlines() if line.strip().startswith(f"{file}:")] or [error.message]
        return Outcome(file.stem, refusal="; ".join(one.replace(f"{file}:", "line ") for one in told))
    twin = from_zoo(converted).name
    if twin is None:
        return Outcome(file.stem, report)
    _, beside = _converted(twin, dataset, ModelDir(folder / "zoo" / twin))
    return Outcome(file.stem, report, twin, tuple(differences(beside, converted)))


def _converted(config: str, dataset: DatasetDir, model: ModelDir) -> tuple[tuple[str, ...], TrainEvalPipelineConfig]:
    """The titles of the edits that changed something, and the config that came out."""
    with contextlib.redirect_stdout(io.StringIO()):
        convert(config, dataset, model)
    edits = read_json(model.conversion_report)["edits"]
    return tuple(edit["edit"] for edit in edits if edit["changes"]), read_pipeline_config(model.pipeline_config)


def page(outcomes: list[Outcome]) -> str:
    """The table of all files, and the differences from the zoo."""
    refused = sum(one.refusal is not None for one in outcomes)
    lines = [f"{len(outcomes)} files: {len(outcomes) - refused} converted, {refused} refused.", "", "| file | outcome |", "|---|---|"]
    lines += [f"| `{one.name}` | {_told(one)} |" for one in outcomes]
    lines.append(TWINS)
    for one in outcomes:
        if one.twin is not None and one.name.endswith("_coco"):
            lines += [f"`{one.name}`, beside `{one.twin}`:", ""]
            lines += [f"- `{each.path}`: {_value(each.after)}, in the zoo {_value(each.before)}" for each in one.differences] or [
                "- nothing"
            ]
            lines.append("")
    return HEAD + "\n".join(lines).rstrip() + "\n"


def _told(one: Outcome) -> str:
    if one.refusal is not None:
        return f"refused: {one.refusal}"
    return f"converted: {', '.join(title.split('.')[0] for title in one.edits)}"


def _value(value: str | None) -> str:
    return "absent" if value is None else f"`{value}`"


def main(folders: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (work / "shapes.yaml").write_text("name: shapes\nshapes: {train: 1, val: 1, height: 48, width: 64}\n")
        with contextlib.redirect_stdout(io.StringIO()):
            materialize(work / "shapes.yaml", work / "dataset")
        files = [file for folder in folders for file in sorted(folder.glob("*.config"))]
        outcomes = [outcome(file, DatasetDir(work / "dataset"), work / "models") for file in files]
    print(page(outcomes), end="")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
