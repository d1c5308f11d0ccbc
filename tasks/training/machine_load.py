"""How busy the machine is while it trains: processors, memory and GPUs, under the names of MLflow's page of system metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil

_SECONDS_BETWEEN_LOOKS = 2.0
_MEGABYTE = 1e6
_PREFIX = "system/"


class MachineLoad:
    """Looks every two seconds, in a thread that ends with the process; figures are of the whole machine, as others may use it too."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._gpus = _gpus()
        self._sums: dict[str, float] = {}
        self._looks = 0
        self._changing = threading.Lock()
        # It tells the time since the last call, and nothing the first time.
        psutil.cpu_percent()
        threading.Thread(target=self._watch, name="machine load", daemon=True).start()

    def take(self) -> dict[str, float]:
        """The means since the last call: percent, MB of 10^6 bytes, watts."""
        with self._changing:
            if not self._looks:
                self._look()
            means = {f"{_PREFIX}{name}": round(total / self._looks, 1) for name, total in self._sums.items()}
            self._sums, self._looks = {}, 0
        processors = f"{_PREFIX}cpu_utilization_percentage"
        return {processors: psutil.cpu_percent(), **means}

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(_SECONDS_BETWEEN_LOOKS):
            with self._changing:
                self._look()

    def _look(self) -> None:
        memory = psutil.virtual_memory()
        seen = {
            "system_memory_usage_megabytes": memory.used / _MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "process_memory_usage_megabytes": self._process.memory_info().rss / _MEGABYTE,
        }
        for name, value in (*seen.items(), *self._gpus()):
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._looks += 1


def _gpus() -> Callable[[], Iterator[tuple[str, float]]]:
    """What answers with names and values of all GPUs of the machine; with nothing where there is no driver or no `nvidia-ml-py`."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # the package, the driver or the right to ask it is missing
        return lambda: iter(())

    def look() -> Iterator[tuple[str, float]]:
        for index, handle in enumerate(handles):
            for ask in (_gpu_memory, _gpu_load, _gpu_power):
                try:
                    found = list(ask(pynvml, handle))
                except pynvml.NVMLError:  # not every GPU tells everything
                    continue
                yield from ((f"gpu_{index}_{name}", value) for name, value in found)

    return look


def _gpu_memory(nvml: Any, handle: Any) -> Iterator[tuple[str, float]]:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    yield "memory_usage_megabytes", memory.used / _MEGABYTE
    yield "memory_usage_percentage", 100 * memory.used / memory.total


def _gpu_load(nvml: Any, handle: Any) -> Iterator[tuple[str, float]]:
    yield "utilization_percentage", nvml.nvmlDeviceGetUtilizationRates(handle).gpu


def _gpu_power(nvml: Any, handle: Any) -> Iterator[tuple[str, float]]:
    yield "power_usage_watts", nvml.nvmlDeviceGetPowerUsage(handle) / 1000
