"""Time, memory and cost from counts, against sums made by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from tasks.planning.batch_shapes import BatchShape
from tasks.planning.devices import GIBI, Device
from tasks.planning.estimate import BANDWIDTH, COMPUTE, INPUT, STARTS, Range, largest_batch, step_memory, step_time
from tasks.planning.forecast import ESTIMATED, MEASURED, forecast
from tasks.planning.graph_operations import OperationCount
from tasks.planning.measured_step import Measured
from tasks.planning.step_count import StepCount

# 10^12 operations and 10^11 bytes a second, 10 GiB.
DEVICE = Device("toy", 10 * GIBI, 1e11, {"float32": 1e12}, "nobody")


def step(*work: tuple[int, int], alive: int = GIBI, images: int = 1) -> StepCount:
    products = sum(multiply_adds for multiply_adds, _ in work)
    operations = OperationCount(products, Counter({"MatMul": products}), work, alive)
    return StepCount(BatchShape(images, 100, 100, 1), operations, 1, 4 * 10**8, 2 * 10**8)


@pytest.mark.parametrize(
    ("work", "seconds", "limit"),
    [
        # A kernel of 6 * 10^11 operations at 0.6 of the peak, and one of 65 * 10^9 bytes at 0.65 of the bandwidth.
        ([(3 * 10**11, 10)], 1.0, COMPUTE),
        ([(10, 65 * 10**9)], 1.0, BANDWIDTH),
        # 8 microseconds to start each of 10^5 kernels that do next to nothing.
        ([(1, 1)] * 10**5, 0.8, STARTS),
        ([(3 * 10**11, 10), (10, 65 * 10**9)], 2.0, COMPUTE),
    ],
)
def test_time_is_that_of_the_slower_part_of_each_kernel(work: list[tuple[int, int]], seconds: float, limit: str) -> None:
    estimate = step_time(step(*work), DEVICE, "float32")
    # And 5 ms an image.
    assert estimate.seconds.likely == pytest.approx(seconds + 0.005, rel=1e-3)
    assert estimate.seconds.low < estimate.seconds.likely < estimate.seconds.high
    assert estimate.limit == limit


def test_memory_and_the_batch_that_fits() -> None:
    count = step((1, 1), alive=2 * GIBI, images=2)
    memory = step_memory(count)
    assert memory.likely == pytest.approx(6 * 10**8 + 1.2 * 2 * GIBI + 0.8e9)
    # What is left of 10 GiB beside variables and libraries, over 1.2 GiB an image.
    assert largest_batch(count, 10 * GIBI).likely == (10 * GIBI - 1.4e9) // (1.2 * GIBI)
    assert largest_batch(count, GIBI) == Range(0, 0, 0)
    fits = largest_batch(count, 10 * GIBI)
    assert fits.low < fits.likely < fits.high


def test_hours_and_cost_of_the_steps_that_are_left() -> None:
    count = step((3 * 10**11, 10), images=4)
    found = forecast(count, count, [DEVICE, DEVICE], "float32", steps=7200, checkpoints_kept=2, price_per_hour=3.0)
    # 1 s for the kernel and 5 ms for each of 4 images; two devices see 8 images a step.
    assert found.hours.values.likely == pytest.approx(2 * 1.02)
    assert found.cost is not None
    assert found.cost.values.likely == pytest.approx(6 * 1.02)
    assert found.images_per_second.values.likely == pytest.approx(8 / 1.02)
    assert found.images_per_second.values.low == pytest.approx(8 / found.seconds_per_step.values.high)
    # Two are kept, and a third is written before the oldest goes.
    assert found.checkpoints_gb == pytest.approx(3 * 6 * 10**8 / GIBI, abs=1e-3)
    assert (found.limit, found.limit_how, found.hours.how) == (COMPUTE, ESTIMATED, ESTIMATED)
    # 0.85 of the peak and 2 ms, or 0.35 and 20 ms, in three digits.
    assert found.to_json()["hours"] == {"low": 1.43, "likely": 2.04, "high": 3.59, "how": ESTIMATED}


def measured(rate: float | None = None) -> Measured:
    return Measured((0.4, 0.5, 0.6), ((100, 100),) * 3, 3 * GIBI, rate, "toy", "")


def test_what_was_measured_on_the_device_counts_instead_of_the_estimate() -> None:
    usual, largest = step((3 * 10**11, 10), alive=GIBI), step((3 * 10**11, 10), alive=2 * GIBI)
    found = forecast(usual, largest, [DEVICE], "float32", steps=1, checkpoints_kept=1, measured=measured(), measured_on_device=True)
    assert found.seconds_per_step.values == Range(0.4, 0.5, 0.6)
    # The largest batch holds twice as much.
    assert found.memory_gb.values == Range(3, 6, 6)
    # Beside 1.4 * 10^9 bytes an image takes what is left of 3 GiB, or of 6, of 10 that there are.
    assert found.largest_batch.values == Range((10 * GIBI - 1.4e9) // (6 * GIBI - 1.4e9), 1, (10 * GIBI - 1.4e9) // (3 * GIBI - 1.4e9))
    assert (found.seconds_per_step.how, found.memory_gb.how) == (MEASURED, MEASURED)
    elsewhere = forecast(usual, largest, [DEVICE], "float32", steps=1, checkpoints_kept=1, measured=measured())
    assert (elsewhere.seconds_per_step.how, elsewhere.memory_gb.how) == (ESTIMATED, ESTIMATED)


def test_input_limits_where_it_is_slower_than_the_step() -> None:
    count = step((3 * 10**11, 10))
    slow, quick = (
        forecast(count, count, [DEVICE], "float32", steps=1, checkpoints_kept=1, measured=measured(rate)) for rate in (0.25, 100.0)
    )
    assert (slow.limit, slow.limit_how, slow.seconds_per_step.values.likely) == (INPUT, MEASURED, 4.0)
    assert quick.limit == COMPUTE
