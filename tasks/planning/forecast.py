"""What a training needs to its end: from the count of a step, and from what was measured of it where it was."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from tasks.planning.devices import GIBI, TERA, Device
from tasks.planning.estimate import INPUT, Range, largest_batch, step_memory, step_time
from tasks.planning.measured_step import Measured
from tasks.planning.step_count import StepCount

MEASURED, ESTIMATED = "measured", "estimated"

# While the newest checkpoint is written, the oldest is still there.
_CHECKPOINTS_BEING_WRITTEN = 1


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number with its range, and how it is known."""

    values: Range
    how: str

    def to_json(self) -> dict[str, Any]:
        """Three digits of each: more would not be known."""
        return {name: float(f"{value:.3g}") for name, value in dataclasses.asdict(self.values).items()} | {"how": self.how}


@dataclasses.dataclass(frozen=True)
class Forecast:
    seconds_per_step: Figure
    images_per_second: Figure
    hours: Figure
    """Of the steps that are left, without compiling and evaluation"""
    cost: Figure | None
    memory_gb: Figure
    """GiB of one device"""
    largest_batch: Figure
    """Images on all devices together"""
    checkpoint_gb: float
    checkpoints_gb: float
    """All that lie there at once"""
    limit: str
    limit_how: str

    def to_json(self) -> dict[str, Any]:
        return {name: value.to_json() if isinstance(value, Figure) else value for name, value in vars(self).items()}


def forecast(
    usual: StepCount,
    largest: StepCount,
    devices: list[Device],
    precision: str,
    *,
    steps: int,
    checkpoints_kept: int,
    price_per_hour: float | None = None,
    measured: Measured | None = None,
    measured_on_device: bool = False,
) -> Forecast:
    """`usual` and `largest` are a step on one of the `devices`, at the usual size and at the largest; `steps` are left.

    What was measured counts for time and memory where that was on the device itself, and for the input pipeline anywhere: it is taken to
    be as quick there. The step is then as quick as the slower of the two.
    """
    device, images = devices[0], usual.shape.images * len(devices)
    estimate = step_time(usual, device, precision)
    seconds, limit = Figure(estimate.seconds, ESTIMATED), (estimate.limit, ESTIMATED)
    memory = Figure(step_memory(largest), ESTIMATED)
    if measured and measured_on_device and measured.step_seconds:
        taken = measured.step_seconds
        seconds = Figure(Range(min(taken), statistics.fmean(taken), max(taken)), MEASURED)
    if measured and measured_on_device and measured.memory_bytes:
        # The batches that were seen may not have been the largest ones.
        larger = measured.memory_bytes * max(1.0, largest.operations.most_bytes / usual.operations.most_bytes)
        memory = Figure(Range(measured.memory_bytes, larger, max(larger, memory.values.high)), MEASURED)
    if measured and measured.input_images_per_second:
        reading = images / measured.input_images_per_second
        if reading > seconds.values.likely:
            limit = INPUT, MEASURED
        seconds = Figure(seconds.values.map(lambda value: max(value, reading)), seconds.how)
    hours = Figure(seconds.values.map(lambda value: value * steps / 3600), seconds.how)
    fits = largest_batch(largest, device.memory_bytes, memory.values if memory.how == MEASURED else None)
    return Forecast(
        seconds_per_step=seconds,
        images_per_second=Figure(seconds.values.map(lambda value: images / value), seconds.how),
        hours=hours,
        cost=Figure(hours.values.map(lambda value: value * price_per_hour), hours.how) if price_per_hour else None,
        memory_gb=Figure(memory.values.map(lambda value: value / GIBI), memory.how),
        largest_batch=Figure(fits.map(lambda value: value * len(devices)), memory.how),
        checkpoint_gb=in_gb(usual.variable_bytes),
        checkpoints_gb=in_gb(usual.variable_bytes * (checkpoints_kept + _CHECKPOINTS_BEING_WRITTEN)),
        limit=limit[0],
        limit_how=limit[1],
    )


def counted(usual: StepCount, largest: StepCount) -> dict[str, Any]:
    """The counts themselves, for people: of a step at the usual size, and the bytes alive at the largest."""
    return {
        "parameters": usual.parameters,
        "tflop_per_step": float(f"{2 * usual.operations.multiply_adds / TERA:.4g}"),
        "gb_moved_per_step": in_gb(usual.operations.bytes_moved),
        "kernels_per_step": usual.operations.kernels,
        "gb_alive_at_most": in_gb(largest.operations.most_bytes),
    }


def in_gb(number: float) -> float:
    """Bytes as GiB."""
    return round(number / GIBI, 3)
