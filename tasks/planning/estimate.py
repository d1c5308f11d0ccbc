"""Time and memory of a step on a device, from what it computes and moves: an estimate with a range, until somebody measures it there.

The time of each kernel is the longer of two: its operations at the device's peak, its bytes at the device's bandwidth, each times what
real programs reach of it. Kernels are started one after the other by a processor, which is the limit where they are small.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from tasks.planning.devices import GIGA, Device
from tasks.planning.graph_operations import OperationCount
from tasks.planning.step_count import StepCount

COMPUTE, BANDWIDTH, STARTS, INPUT = "arithmetic", "memory bandwidth", "starting kernels", "input"


@dataclasses.dataclass(frozen=True)
class Range:
    """What is likely, and between what it will be found."""

    low: float
    likely: float
    high: float

    def map(self, change: Callable[[float], float]) -> Range:
        """The range after a change that keeps order, or turns it around."""
        ends = sorted((change(self.low), change(self.high)))
        return Range(ends[0], change(self.likely), ends[1])

    @classmethod
    def exactly(cls, value: float) -> Range:
        return cls(value, value, value)


@dataclasses.dataclass(frozen=True)
class _Reached:
    """Shares of the peaks that are reached, and seconds, for a good, a usual and a bad case."""

    products: float
    vector_products: float
    """Where the precision has no matrix units"""
    bandwidth: float
    start: float
    """Seconds for which a processor is busy with the start of a kernel"""
    image: float
    """Seconds an image in loops that wait for the device: matching, sampling, suppression"""


# Published trainings of relatives reach, over their operations, 0.6 of the vector units' peak (R50-C4, V100) and 0.15 to 0.35 of the
# matrix units' (R50-FPN, A100 and H100), the time for what is not arithmetic included: docs/planning.md.
_GPU = (
    _Reached(0.7, 0.85, 0.85, 4e-6, 2e-3),
    _Reached(0.4, 0.6, 0.65, 8e-6, 5e-3),
    _Reached(0.2, 0.35, 0.4, 20e-6, 20e-3),
)
# Peaks of processors are measured by a good convolution, not told by a maker.
_CPU = (
    _Reached(1.0, 1.0, 1.0, 2e-6, 5e-3),
    _Reached(0.7, 0.7, 0.7, 5e-6, 20e-3),
    _Reached(0.35, 0.35, 0.4, 20e-6, 80e-3),
)

# Of the counted bytes: an allocator leaves gaps, and kernels take scratch; between those two the measured steps of docs/planning.md lie.
_MEMORY = (1.0, 1.2, 1.5)
# What CUDA and its libraries, or Python and TensorFlow, take beside.
_RUNTIME_BYTES = (0.5 * GIGA, 0.8 * GIGA, 1.5 * GIGA)


@dataclasses.dataclass(frozen=True)
class TimeEstimate:
    seconds: Range
    limit: str
    """What takes most of it"""


def step_time(count: StepCount, device: Device, precision: str) -> TimeEstimate:
    """Of one step in one of the training's precisions."""
    cases = [_seconds(count, device, precision, reached) for reached in (_CPU if device.is_cpu else _GPU)]
    usual = cases[1]
    return TimeEstimate(Range(*(sum(case.values()) for case in cases)), max(usual, key=lambda part: usual[part]))


def _seconds(count: StepCount, device: Device, precision: str, reached: _Reached) -> dict[str, float]:
    peak = device.peak(precision)
    share = reached.products if device.has_matrix_units(precision) else reached.vector_products
    computing = moving = 0.0
    for multiply_adds, moved in count.operations.work:
        products, transfers = 2 * multiply_adds / (peak * share), moved / (device.bytes_per_second * reached.bandwidth)
        if products > transfers:
            computing += products
        else:
            moving += transfers
    starts = count.operations.kernels * reached.start
    waiting = max(0.0, starts - computing - moving) if not device.is_cpu else starts
    return {COMPUTE: computing, BANDWIDTH: moving, STARTS: waiting + count.shape.images * reached.image}


def step_memory(count: StepCount) -> Range:
    """Bytes that a device needs for a step: variables, and what is alive at its fullest moment."""
    return Range(*(count.variable_bytes + _MEMORY[case] * count.operations.most_bytes + _RUNTIME_BYTES[case] for case in range(3)))


def largest_batch(count: StepCount, memory_bytes: int, used: Range | None = None) -> Range:
    """Images that fit at once, 0 where not even one does: memory grows with their number from what the variables and libraries take.

    `used` is the memory of the counted step where it is known better than by the estimate.
    """
    fits = []
    for case, runtime in zip(("high", "likely", "low"), reversed(_RUNTIME_BYTES), strict=True):
        fixed = count.variable_bytes + (_RUNTIME_BYTES[1] if used else runtime)
        growing = (getattr(used or step_memory(count), case) - fixed) / count.shape.images
        fits.append(max(0, math.floor((memory_bytes - fixed) / max(growing, 1.0))))
    return Range(*fits)


def share_of_peak(operations: OperationCount, seconds: float, device: Device, precision: str) -> float:
    """Operations a second over the device's peak."""
    return 2 * operations.multiply_adds / seconds / device.peak(precision)
