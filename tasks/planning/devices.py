"""What a step can run on: peaks of known accelerators as their maker tells them, those that a person gives, and those of this machine."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping

import numpy as np
import psutil
import tensorflow as tf

from tasks.running.errors import UserError

GIGA, TERA, GIBI = 10**9, 10**12, 2**30

_MIXED = "mixed_"


@dataclasses.dataclass(frozen=True)
class Device:
    """One accelerator, or the processors of this machine. Peaks are dense products, without sparsity, a multiply-add being two."""

    name: str
    memory_bytes: int
    bytes_per_second: float
    peaks: Mapping[str, float]
    """Operations a second by `float32`, `tf32`, `bfloat16` and `float16`; what is absent runs as float32"""
    source: str
    compute_capability: tuple[int, int] | None = None
    """NVIDIA's"""
    is_cpu: bool = False

    def peak(self, precision: str) -> float:
        """Operations a second of a network's products in one of the training's precisions."""
        return self.peaks.get(precision.removeprefix(_MIXED), self.peaks["float32"])

    def has_matrix_units(self, precision: str) -> bool:
        """Whether products in a precision are more than the vector units make."""
        return self.peak(precision) > self.peaks["float32"]


def _nvidia(
    name: str, capability: tuple[int, int], memory: int, bandwidth: float, float32: float, tf32: float, half: float, source: str
) -> Device:
    """One of NVIDIA's, in GiB, GB/s and TFLOP/s; a tf32 of zero is a device with units for float16 (`half`) alone, and not bfloat16."""
    peaks = {"float32": float32, "tf32": tf32, "float16": half, "bfloat16": half if tf32 else 0}
    return Device(
        name,
        memory * GIBI,
        bandwidth * GIGA,
        {key: one * TERA for key, one in peaks.items() if one},
        f"NVIDIA's {source}, as quoted in November 2026",
        capability,
    )


KNOWN = {
    "v100": _nvidia("V100 SXM2 32 GB", (7, 0), 32, 900, 15.7, 0, 125, "Tesla V100 datasheet, January 2020"),
    "t4": _nvidia("T4", (7, 5), 16, 320, 8.1, 0, 65, "T4 datasheet, 2019"),
    "a10": _nvidia("A10", (8, 6), 24, 600, 31.2, 62.5, 125, "A10 datasheet, 2021"),
    "l4": _nvidia("L4", (8, 9), 24, 300, 30.3, 60, 121, "L4 datasheet, 2023"),
    "l40s": _nvidia("L40S", (8, 9), 48, 864, 91.6, 183, 362, "L40S datasheet, 2023"),
    "rtx3090": _nvidia("GeForce RTX 3090", (8, 6), 24, 936, 35.6, 35.6, 71, "GA102 whitepaper, 2020"),
    "rtx4090": _nvidia("GeForce RTX 4090", (8, 9), 24, 1008, 82.6, 82.6, 165.2, "Ada whitepaper, 2022"),
    "a100-40": _nvidia("A100 SXM 40 GB", (8, 0), 40, 1555, 19.5, 156, 312, "A100 datasheet, 2020"),
    "a100": _nvidia("A100 SXM 80 GB", (8, 0), 80, 2039, 19.5, 156, 312, "A100 datasheet, June 2021"),
    "h100-pcie": _nvidia("H100 PCIe", (9, 0), 80, 2000, 51, 378, 756, "H100 datasheet, 2023"),
    "h100": _nvidia("H100 SXM", (9, 0), 80, 3350, 67, 494, 989, "H100 datasheet, 2023"),
    "h200": _nvidia("H200 SXM", (9, 0), 141, 4800, 67, 494, 989, "H200 datasheet, 2024"),
}
"""Accelerators by the name that the command line takes."""

# What nvidia-smi calls them; the first that fits.
_NAMES = {
    r"V100": "v100",
    r"T4": "t4",
    r"A10": "a10",
    r"L4": "l4",
    r"L40S": "l40s",
    r"RTX 3090": "rtx3090",
    r"RTX 4090": "rtx4090",
    r"A100.*40GB": "a100-40",
    r"A100": "a100",
    r"H100 PCIe": "h100-pcie",
    r"H100": "h100",
    r"H200": "h200",
}


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where a person says that a training will run; by default here, on its GPUs or else its processors."""

    device: str | None = None
    """A name in `KNOWN`"""
    flops: float | None = None
    """TFLOP/s of a device that is not in it"""
    memory: float | None = None
    """GiB of one device; of one that is known or here, instead of what is told of it"""
    count: int | None = None
    """Devices; by default those that are here, or one"""

    def __post_init__(self) -> None:
        for option, value in (("flops", self.flops), ("memory", self.memory), ("devices", self.count)):
            if value is not None and value <= 0:
                raise UserError(f"--{option} is {value}", "give a number above zero")
        if self.device is not None and self.device.lower() not in KNOWN:
            raise UserError(f"--device is {self.device!r}", f"use one of {', '.join(KNOWN)}, or give --flops and --memory of another")
        if self.device is not None and self.flops is not None:
            raise UserError("--device and --flops are both given", "name a device of the table, or tell the peak of another")
        if self.flops is not None and self.memory is None:
            raise UserError("--flops is given without --memory", "give the device's memory in GB too")

    @property
    def is_here(self) -> bool:
        return self.device is None and self.flops is None

    def accelerators(self) -> list[Device]:
        """One or more of a kind; none where it is this machine, and that has none."""
        if self.flops is not None:
            # So many operations for every byte that they move have those of the table.
            peak = self.flops * TERA
            given = Device("the device given", 0, peak / 150, dict.fromkeys(("float32", "tf32", "bfloat16", "float16"), peak), "--flops")
            return self._sized([given])
        return self._sized([KNOWN[self.device.lower()]] if self.device is not None else found_gpus())

    def processors(self, precision: str) -> list[Device]:
        """This machine's, which are one device, timed just now in a precision."""
        if self.count is not None and self.count > 1:
            raise UserError(f"--devices is {self.count}, and this machine has no GPU", "name the devices' kind with --device")
        return self._sized([this_cpu(precision)])

    def _sized(self, found: list[Device]) -> list[Device]:
        if self.memory is not None:
            found = [dataclasses.replace(one, memory_bytes=round(self.memory * GIBI)) for one in found]
        return found[:1] * (self.count or len(found))


def found_gpus() -> list[Device]:
    """The GPUs that a training in this environment would use, as the driver tells of them, without taking them.

    Of one that is not in the table only the memory is known; its peaks are those of the one in the table that is nearest by memory.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = [] if visible is None else [f"--id={visible}"]
    if visible is not None and not re.fullmatch(r"[^,\s-][^\s]*", visible):
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits", *chosen]
    try:
        answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
        return [
            _named(name.strip(), int(mebibytes) * 2**20) for name, _, mebibytes in (line.rpartition(",") for line in answer.splitlines())
        ]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def _named(name: str, memory_bytes: int) -> Device:
    known = next((KNOWN[key] for pattern, key in _NAMES.items() if re.search(rf"\b{pattern}\b", name)), None)
    like = known or min(KNOWN.values(), key=lambda one: abs(one.memory_bytes - memory_bytes))
    source = known.source if known else f"not in the table, and taken for a {like.name} by its memory"
    return dataclasses.replace(like, name=name, memory_bytes=memory_bytes, source=source)


def this_cpu(precision: str) -> Device:
    """The processors of this machine, with peaks that were measured just now, in about a second."""
    dtype = tf.dtypes.as_dtype(precision.removeprefix(_MIXED)) if precision.startswith(_MIXED) else tf.float32
    images, kernel = tf.zeros([1, 96, 96, 128], dtype), tf.zeros([3, 3, 128, 128], dtype)
    convolve = tf.function(lambda: tf.nn.conv2d(images, kernel, 1, "SAME"))
    operations = 2 * 96 * 96 * 9 * 128 * 128
    numbers = np.zeros(2**24, np.float32)
    copy = np.ones_like(numbers)
    rate = operations / _seconds(lambda: convolve().numpy())
    bandwidth = 2 * numbers.nbytes / _seconds(lambda: np.copyto(copy, numbers))
    cores = len(os.sched_getaffinity(0))
    return Device(
        f"{cores} CPU core{'s' * (cores > 1)}",
        available_memory(),
        bandwidth,
        {"float32": rate, dtype.name: rate},
        f"a convolution and a copy, timed here: {rate / GIGA:.0f} GFLOP/s, {bandwidth / GIGA:.1f} GB/s",
        is_cpu=True,
    )


def available_memory() -> int:
    """Bytes that a new process can have here."""
    return int(psutil.virtual_memory().available)


def _seconds(work: Callable[[], object], spent: float = 0.3) -> float:
    """Of one call, the quickest of as many as fit."""
    work()
    best, end = float("inf"), time.monotonic() + spent
    while time.monotonic() < end:
        start = time.monotonic()
        work()
        best = min(best, time.monotonic() - start)
    return best
