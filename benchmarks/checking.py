"""What `maskline check` and `maskline inspect` cost beside the `maskline materialize` that wrote their records, in one run.

    python -m benchmarks.checking [--repeats 3] [--coco FOLDER]

All three run as commands, in turn, on one generated image of 6656 x 4706 with 256 objects, and on the splits of a COCO folder where one
is given. Prints a Markdown table of medians. Usual runtime on two cores: half a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measured import Cost, cost_of
from benchmarks.photographs import write_large_photograph

LARGE, OBJECTS = (4706, 6656), 256


def descriptions(folder: Path, coco: Path | None) -> dict[str, Path]:
    """The YAML files of the data sets, by what they are."""
    large = write_large_photograph(folder / "large", *LARGE, OBJECTS)
    sources = {
        f"one image of {LARGE[1]} x {LARGE[0]}, {OBJECTS} objects": {"train": {"images": str(large.parent), "annotations": str(large)}}
    }
    if coco is not None:
        found = {path.stem.removeprefix("instances_"): path for path in sorted((coco / "annotations").glob("instances_*.json"))}
        sources[coco.name] = {split: {"images": str(coco / split), "annotations": str(path)} for split, path in found.items()}
    files = {}
    for number, (name, splits) in enumerate(sources.items()):
        files[name] = folder / f"{number}.yaml"
        files[name].write_text(json.dumps({"name": f"benchmark-{number}", "splits": splits}))
    return files


def compare(description: Path, output: Path, repeats: int) -> dict[str, Cost]:
    """The median cost of each step."""
    program = [sys.executable, "-m", "tasks"]
    commands = {
        "materialize": [*program, "materialize", str(description), f"--output={output}"],
        "check": [*program, "check", str(output)],
        "inspect": [*program, "inspect", str(output)],
    }
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for repeat in range(repeats + 1):  # the first leaves the bytecode that the others find
        shutil.rmtree(output, ignore_errors=True)
        for name, command in commands.items():
            cost = cost_of(command)
            if repeat:
                costs[name].append(cost)
    return {name: _median(measured) for name, measured in costs.items()}


def rows(name: str, costs: dict[str, Cost]) -> Iterator[str]:
    for step, cost in costs.items():
        ratio = cost.cpu / costs["materialize"].cpu
        yield f"| {name if step == 'materialize' else ''} | {step} | {cost.cpu:.2f} | {ratio:.1f} | {cost.wall:.2f} | {cost.peak:.0f} |"


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in ("cpu", "wall", "peak")))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare check and inspect with materialize.")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, of which medians are told")
    parser.add_argument("--coco", type=Path, metavar="FOLDER", help="a COCO folder, beside the generated image")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print("| data | step | CPU s | of materialize's | wall s | peak MB |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="maskline-") as scratch:
        for name, description in descriptions(Path(scratch), arguments.coco and arguments.coco.absolute()).items():
            for row in rows(name, compare(description, Path(scratch) / "records", arguments.repeats)):
                print(row, flush=True)


if __name__ == "__main__":
    main()
