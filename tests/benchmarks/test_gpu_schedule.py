"""The table of a GPU in pieces: by processes that pretend to measure, which crash, hang and run out of memory; and once by real ones."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu_schedule import (
    COUNT,
    DONE,
    FAILED,
    OUT_OF_MEMORY,
    PARITY,
    STEP,
    Cell,
    Plan,
    Processes,
    Result,
    add_result,
    largest_to_try,
    read_results,
    this_python,
    to_do,
)

PLAN = Plan(("a", "b"), ("tf32",), (False,), (2, 1), largest=False, parity=True, memory_bytes=60 * 10**9)


def step(images: int, config: str = "a") -> Cell:
    return Cell(STEP, config, "tf32", False, images)


def measured(folder: Path, plan: Plan, seconds: float = 300.0, cell_seconds: float = 100.0, **behaviours: str) -> dict[Cell, Result]:
    file = folder / "results.jsonl"
    results = read_results(file)
    settings = {"device": str(folder / "device"), **{name.removeprefix("batch_"): value for name, value in behaviours.items()}}
    processes = Processes(this_python("tests.benchmarks.pretended_cells"), settings, folder / "logs", 3, cell_seconds)
    gpu.measure(plan, results, file, processes, time.monotonic() + seconds)
    return results


def test_all_cells_are_measured_and_one_at_a_time_on_the_device(tmp_path: Path) -> None:
    results = measured(tmp_path, PLAN)
    assert {cell: result.status for cell, result in results.items()} == dict.fromkeys(to_do(PLAN, {}), DONE)
    assert len(results) == 2 + 4 + 2
    assert read_results(tmp_path / "results.jsonl") == results


def test_a_call_that_is_interrupted_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = Result(DONE, {"multiply_adds": 1})
    add_result(tmp_path / "results.jsonl", Cell(COUNT, "a"), known)
    first = measured(tmp_path, PLAN, seconds=2.0, batch_1="hangs")
    left = to_do(PLAN, first)
    assert {step(1, "a"), step(1, "b")} <= set(left)
    # A kill has cut a line off.
    with (tmp_path / "results.jsonl").open("a") as stream:
        stream.write('{"cell": {"kind": "st')
    capsys.readouterr()
    second = measured(tmp_path, PLAN)
    assert to_do(PLAN, second) == []
    told = capsys.readouterr().err.splitlines()
    assert sorted(line.partition(": ")[0] for line in told) == sorted(str(cell).partition(": ")[0] for cell in left)
    assert second[Cell(COUNT, "a")] == known
    assert read_results(tmp_path / "results.jsonl") == second


def test_what_goes_wrong_costs_one_cell(tmp_path: Path) -> None:
    plan = Plan(("a",), ("tf32",), (False,), (1, 3, 4), largest=False, parity=False, memory_bytes=1)
    results = measured(tmp_path, plan, batch_1="crashes", batch_3="is full")
    assert (results[step(1)].status, results[step(1)].why) == (FAILED, "its process ended with code 1: Segmentation fault, nearly")
    assert (results[step(3)].status, results[step(3)].why) == (OUT_OF_MEMORY, "OOM when allocating")
    assert results[step(4)].status == DONE
    # Memory is the same tomorrow; what failed is tried again.
    assert to_do(plan, read_results(tmp_path / "results.jsonl")) == [step(1)]
    told = gpu.table(plan, results, {"tf32": 1e12})
    # 10^12 operations an image, in a second.
    assert "| a | tf32 | no | 1 / 3 / 4 | failed / out of memory / 1 | failed / out of memory / 100% |" in told
    assert "- a, tf32, batch 3: out of memory, OOM when allocating" in told


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    cells = iter([[step(2)], []])
    processes = Processes(this_python("tests.benchmarks.pretended_cells"), {"2": "hangs"}, tmp_path / "logs", 1, 0.5)
    ((cell, result),) = processes.results(lambda: next(cells, []), time.monotonic() + 300)
    assert (cell, result.status, result.why) == (step(2), FAILED, "it took longer than 0.5 s")


def test_the_largest_batch_is_foreseen_and_made_smaller_until_it_fits(tmp_path: Path) -> None:
    plan = Plan(("a",), ("tf32",), (False,), (2, 1), largest=True, parity=False, memory_bytes=60 * 10**9)
    # (0.93 * 60 - 2) / 3 images, and if these do not fit, 0.88 of them.
    results = measured(tmp_path, plan, batch_17="is full")
    assert [cell.images for cell in results if cell.kind == STEP and cell.images > 2] == [17, 14]
    assert "| 2 / 1 / 14 | 1 / 1 / 1 |" in gpu.table(plan, results, {"tf32": 1e12})
    assert to_do(plan, results) == []


@pytest.mark.parametrize(
    ("ended", "largest"), [({}, None), ({1: DONE}, None), ({1: DONE, 2: OUT_OF_MEMORY}, None), ({1: DONE, 2: DONE, 5: DONE}, None)]
)
def test_no_larger_batch_is_tried_where_nothing_is_known_or_all(ended: dict[int, str], largest: Cell | None) -> None:
    results = {step(images): Result(status, {"peak_bytes": 10**9 * images}) for images, status in ended.items()}
    assert largest_to_try(results, "a", "tf32", False, 50e9) is largest


def test_table_shows_what_is_missing_and_parity_beyond_its_tolerance(tmp_path: Path) -> None:
    worst = {"stage 1": 1e-5, "losses": 2e-4}
    add_result(tmp_path / "x", Cell(PARITY, "a"), Result(DONE, {"rows": 9, "hold": 8, "worst": worst, "beyond": ["losses/0 2e-4"]}))
    add_result(tmp_path / "x", Cell(COUNT, "a"), Result(DONE, {"multiply_adds": 1}))
    told = gpu.table(PLAN, read_results(tmp_path / "x"), {"tf32": 1e12})
    assert "| a | tf32 | no | 2 / 1 | - / - | - / - | - / - | - / - | - / - |" in told
    assert "| a | 1.0e-05 | 2.0e-04 | 8 of 9 |" in told
    assert "- a: losses/0 2e-4" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mask_rcnn_resnet_coco"], "mask_rcnn_resnet_coco is none of"),
        (["--batches", "0"], "takes numbers above zero"),
        (["--seconds", "0"], "--seconds is 0"),
        ([], "nvidia-smi shows no GPU"),
    ],
)
def test_call_that_cannot_be_is_refused(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "found_gpus", list)
    with pytest.raises(SystemExit):
        gpu.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_real_cells_of_a_small_model_on_the_processors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = "mask_rcnn_inception_v2_coco"
    common = [
        config,
        "--cpu",
        "--precisions",
        "float32",
        "--xla",
        "off",
        "--image-size",
        "64",
        "--proposals",
        "8",
        "--folder",
        str(tmp_path),
    ]
    # Interrupted before all is there, and gone on with.
    assert gpu.main([*common, "--batches", "1", "2", "--seconds", "5"]) == 1
    assert gpu.main([*common, "--batches", "1", "2", "--seconds", "1200"]) == 0
    told = capsys.readouterr().out
    rows = [line for line in told.splitlines() if line.startswith(f"| {config} | float32 | no | 2 / 1 |")]
    assert rows[0].endswith("| - / - | - / - | - / - | - / - | - / - |")
    assert "-" not in rows[1].removeprefix(f"| {config} |")
    assert "64 x 107" in told
    (file,) = tmp_path.glob("*.jsonl")
    values: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    steps = {line["cell"]["images"]: line["result"]["values"] for line in values if line["cell"]["kind"] == STEP}
    assert all(step["finite"] == step["steps"] for step in steps.values())
    assert all(0 <= step["input_wait"] <= 1 for step in steps.values())
    (parity,) = [line["result"]["values"] for line in values if line["cell"]["kind"] == PARITY]
    # On the processors it is `make parity`.
    assert parity["hold"] == parity["rows"] > 70
