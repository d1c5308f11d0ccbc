"""What the zoo's trainings reach on an accelerator: one table in ten minutes, and the rest of it at the next call.

    python -m benchmarks.gpu [CONFIG ...] [--seconds 570] [--precisions ...] [--xla both|off|on] [--batches 1 2 largest]

For each config at 800 x 1333: float32, TF32 and bfloat16, without XLA and with it, one image a step, two, and the most that fit. Each cell
is a process of its own, which takes steps as `train` does, on records of generated photographs with 7 objects each; a crash or a full
memory costs that cell. Each result is written as soon as it is measured, and the same command goes on with what is left. The share of the
peak is that of the operations that `maskline plan` counts, with as many positive proposals as may be sampled, over what the device's maker
promises. Prints Markdown. On one GPU of a machine; without one only `--cpu` runs it, to try it out.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.gpu_cell import Settings
from benchmarks.gpu_schedule import (
    COUNT,
    DONE,
    OUT_OF_MEMORY,
    PARITY,
    STEP,
    Cell,
    Plan,
    Processes,
    Result,
    Results,
    add_result,
    read_results,
    this_python,
    to_do,
)
from tasks.pipeline_config.zoo import zoo_configs
from tasks.planning.devices import GIGA, Device, found_gpus, this_cpu
from tasks.running.workspace import workspace_root

PRECISIONS = ("mixed_bfloat16", "tf32", "float32")
LARGEST = "largest"
XLA = {"both": (False, True), "off": (False,), "on": (True,)}
NOT_YET = "-"


def table(plan: Plan, results: Mapping[Cell, Result], peaks: Mapping[str, float]) -> str:
    """All cells in Markdown, a row for each config, precision and compilation; `peaks` are operations a second by precision."""
    batches = [*map(str, plan.batches), *(["the largest"] if plan.largest else [])]
    places = " / ".join(batches)
    head = f"| config | precision | XLA | batches | images/s at {places} | of the peak | GB | input wait | first step, s |"
    lines = [head, "|---" * 9 + "|"]
    lines += [
        _row(plan, results, Cell(STEP, config, precision, xla), peaks[precision])
        for config in plan.configs
        for precision in plan.precisions
        for xla in plan.xla
    ]
    if plan.parity:
        lines += ["", *_parity(plan, results)]
    troubles = [f"- {cell}: {result.status}, {result.why}" for cell, result in results.items() if result.status != DONE]
    return "\n".join([*lines, *(["", "What could not be measured:", "", *troubles] if troubles else [])])


def _row(plan: Plan, results: Mapping[Cell, Result], of: Cell, peak: float) -> str:
    found = {cell.images: result for cell, result in results.items() if dataclasses.replace(cell, images=0) == of}
    fitting = [images for images, result in found.items() if result.status == DONE]
    images: list[int | None] = list(plan.batches)
    if plan.largest:
        # Where two do not fit, one is the most.
        settled = max(fitting, default=0) > 2 or any(result.status == OUT_OF_MEMORY for result in found.values())
        images.append(max(fitting) if settled and fitting else None)
    count = results.get(Cell(COUNT, of.config))

    def told(each: Callable[[int, Mapping[str, float]], str]) -> str:
        return " / ".join(_told(found.get(number) if number else None, number or 0, each) for number in images)

    def share(number: int, values: Mapping[str, float]) -> str:
        if count is None or count.status != DONE:
            return NOT_YET
        return f"{2 * count.values['multiply_adds'] * number / values['seconds_per_step'] / peak:.0%}"

    cells = (
        of.config,
        of.precision,
        "yes" if of.xla else "no",
        " / ".join(str(number or NOT_YET) for number in images),
        told(lambda number, values: f"{number / values['seconds_per_step']:.3g}"),
        told(share),
        told(lambda _, values: f"{values['peak_bytes'] / GIGA:.3g}"),
        told(lambda _, values: f"{values['input_wait']:.0%}"),
        told(lambda _, values: f"{values['first_step_seconds']:.0f}"),
    )
    return f"| {' | '.join(cells)} |"


def _told(result: Result | None, images: int, each: Callable[[int, Mapping[str, float]], str]) -> str:
    if result is None:
        return NOT_YET
    return each(images, result.values) if result.status == DONE else result.status


def _parity(plan: Plan, results: Mapping[Cell, Result]) -> list[str]:
    """Whether the device computes what the original did, in float32; see docs/parity.md for what the columns are."""
    found = {config: results[Cell(PARITY, config)] for config in plan.configs if Cell(PARITY, config) in results}
    kinds = next((list(result.values["worst"]) for result in found.values() if result.status == DONE), [])
    lines = [f"| parity on the device | {' | '.join(kinds)} | hold |", "|---" * (len(kinds) + 2) + "|"] if kinds else []
    for config, result in found.items():
        if result.status == DONE:
            values = result.values
            worst = " | ".join(f"{values['worst'][kind]:.1e}" for kind in kinds)
            lines.append(f"| {config} | {worst} | {values['hold']} of {values['rows']} |")
    beyond = [f"- {config}: {row}" for config, result in found.items() for row in result.values.get("beyond", ())]
    return [*lines, *(["", "Beyond their tolerance:", "", *beyond] if beyond else [])]


def seen(cell: Cell, result: Result) -> str:
    """A line for who waits."""
    if result.status != DONE:
        return f"{cell}: {result.status}, {result.why}"
    if cell.kind == STEP:
        values = result.values
        unsound = "" if values["finite"] == values["steps"] else f", and {values['steps'] - values['finite']:.0f} of them were no numbers"
        return f"{cell}: {cell.images / values['seconds_per_step']:.3g} images/s, {values['steps']} steps{unsound} ({result.seconds:.0f} s)"
    return f"{cell}: {result.seconds:.0f} s"


def measure(plan: Plan, results: Results, file: Path, processes: Processes, end: float, waiting: int = 0) -> None:
    """Measures what is left of a plan until the clock says `end`; `results` and `file` get each result as it comes."""

    def following() -> list[Cell]:
        return to_do(plan, results, waiting)

    for cell, result in processes.results(following, end):
        results[cell] = result
        add_result(file, cell, result)
        print(seen(cell, result), file=sys.stderr, flush=True)


def _device(on_cpu: bool) -> Device | None:
    if on_cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        return this_cpu("float32")
    gpus = found_gpus()
    return gpus[0] if gpus else None


def _batches(names: Sequence[str]) -> tuple[tuple[int, ...], bool]:
    numbers = sorted({int(name) for name in names if name != LARGEST})
    # What they take tells which will be the largest to fit; and 2 first, which tells most.
    largest = LARGEST in names
    return tuple(sorted({*numbers, *((1, 2) if largest else ())}, key=lambda number: (number != 2, number))), largest


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where the table is whole, else 1."""
    parser = argparse.ArgumentParser(prog="make bench-gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    zoo = list(zoo_configs())
    parser.add_argument("configs", nargs="*", default=zoo, metavar="CONFIG", help=f"of {', '.join(zoo)}; all by default")
    parser.add_argument("--seconds", type=float, default=570.0, help="after which the table is printed as it is then; 570")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--xla", choices=list(XLA), default="both")
    parser.add_argument("--batches", nargs="+", default=["1", "2", LARGEST], help=f"images a step, or {LARGEST}; 1 2 {LARGEST}")
    parser.add_argument("--no-parity", action="store_true", help="leave out the comparison with the original's tensors")
    parser.add_argument(
        "--jobs", type=int, default=max(1, min(4, (os.cpu_count() or 1) // 4)), help="processes that get ready side by side"
    )
    parser.add_argument("--cell-seconds", type=float, default=300.0, help="after which a process is ended that is at work; 300")
    parser.add_argument("--image-size", type=int, help="the short side instead of the config's")
    parser.add_argument("--proposals", type=int, help="instead of the config's")
    parser.add_argument("--folder", type=Path, default=workspace_root() / "bench-gpu", help="of results, records and logs")
    parser.add_argument("--anew", action="store_true", help="forget what was measured on this device before")
    parser.add_argument("--cpu", action="store_true", help="run on the processors, to try it out; give a small --image-size")
    options = parser.parse_args(arguments)
    for config in options.configs:
        if config not in zoo:
            parser.error(f"{config} is none of {', '.join(zoo)}")
    if any(name != LARGEST and not (name.isdigit() and int(name)) for name in options.batches):
        parser.error(f"--batches takes numbers above zero and {LARGEST!r}")
    for name in ("seconds", "jobs", "cell_seconds"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name):g}; give a number above zero")
    end = time.monotonic() + options.seconds
    device = _device(options.cpu)
    if device is None:
        parser.error("nvidia-smi shows no GPU that may be used here; --cpu tries this program out without one")
    peaks = {precision: (this_cpu(precision) if device.is_cpu else device).peak(precision) for precision in options.precisions}
    batches, largest = _batches(options.batches)
    precisions = tuple(precision for precision in PRECISIONS if precision in options.precisions)
    plan = Plan(tuple(options.configs), precisions, XLA[options.xla], batches, largest, not options.no_parity, device.memory_bytes)
    size = f"{options.image_size or 'own'}-{options.proposals or 'own'}"
    file = options.folder / f"{re.sub(r'[^a-z0-9]+', '-', device.name.lower())}-{size}.jsonl"
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.anew:
        file.unlink(missing_ok=True)
    results = read_results(file)
    settings = dataclasses.asdict(Settings(str(options.folder.absolute()), image_size=options.image_size, proposals=options.proposals))
    processes = Processes(this_python("benchmarks.gpu_cell"), settings, options.folder / "logs", options.jobs, options.cell_seconds)
    try:
        measure(plan, results, file, processes, end, waiting=options.jobs - 1)
    except KeyboardInterrupt:
        print("interrupted: what was measured is kept", file=sys.stderr)
    print(heading(device, plan, results), end="\n\n")
    print(table(plan, results, peaks))
    # What is still unknown of the largest batches counts once the smaller ones are there.
    left = len(to_do(plan, results, options.jobs - 1))
    if left:
        print(f"\n{left} cells or more are left: the same command goes on with them; results and logs: {options.folder}", file=sys.stderr)
    return int(left > 0)


def heading(device: Device, plan: Plan, results: Mapping[Cell, Result]) -> str:
    """On what, at which size and against which peaks."""
    from importlib.metadata import version

    counts = {config: results[Cell(COUNT, config)].values for config in plan.configs if _is_done(results, Cell(COUNT, config))}
    sizes = sorted({f"{count['height']} x {count['width']}" for count in counts.values()})
    counted = "; ".join(f"{config} {2 * count['multiply_adds'] / 1e12:.3g}" for config, count in counts.items())
    peaks = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in device.peaks.items())
    tensorflow = next((version(name) for name in ("tensorflow", "tensorflow-cpu") if _is_installed(name)), "")
    return (
        f"{device.name} of {device.memory_bytes / GIGA:.0f} GB, TensorFlow {tensorflow}, {' and '.join(sizes) or 'sizes not counted yet'}; "
        f"peaks in TFLOP/s: {peaks} ({device.source}); TFLOP counted of a step on one image: {counted or 'not yet'}"
    )


def _is_done(results: Mapping[Cell, Result], cell: Cell) -> bool:
    return cell in results and results[cell].status == DONE


def _is_installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
