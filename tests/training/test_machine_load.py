"""Figures of the machine, of the process and of two GPUs that are none."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from tasks.training import machine_load
from tasks.training.machine_load import MachineLoad


class NVMLError(Exception):
    pass


def not_told(_handle: int) -> int:
    raise NVMLError


TWO_GPUS = {
    "NVMLError": NVMLError,
    "nvmlInit": lambda: None,
    "nvmlDeviceGetCount": lambda: 2,
    "nvmlDeviceGetHandleByIndex": lambda index: index,
    "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=(handle + 1) * 2_000_000, total=8_000_000),
    "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=90 + handle),
    "nvmlDeviceGetPowerUsage": lambda handle: 250_000 if handle == 0 else not_told(handle),
}


@pytest.fixture(autouse=True)
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests look themselves."""
    monkeypatch.setattr(MachineLoad, "_watch", lambda self: None)


def test_memory_and_processors_are_as_the_system_tells_them() -> None:
    figures = MachineLoad().take()
    used = psutil.Process().memory_info().rss / 1e6
    assert figures.pop("system/process_memory_usage_megabytes") == pytest.approx(used, rel=0.2)
    total = psutil.virtual_memory().total / 1e6
    assert 0 < figures["system/system_memory_usage_megabytes"] < total
    for name in ("system/system_memory_usage_percentage", "system/cpu_utilization_percentage"):
        assert 0 <= figures[name] <= 100


def test_figures_are_means_of_the_looks_since_the_last_call(monkeypatch: pytest.MonkeyPatch) -> None:
    load = MachineLoad()
    for percent in (20.0, 30.0, 70.0):
        monkeypatch.setattr(psutil, "virtual_memory", lambda percent=percent: SimpleNamespace(used=percent * 1e6, percent=percent))
        load._look()
    assert load.take()["system/system_memory_usage_percentage"] == 40.0
    # Nobody has looked since, so that this call does.
    assert load.take()["system/system_memory_usage_percentage"] == 70.0


def test_each_gpu_tells_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**TWO_GPUS))
    figures = MachineLoad().take()
    assert {name.removeprefix("system/"): value for name, value in figures.items() if "gpu" in name} == {
        "gpu_0_memory_usage_megabytes": 2.0,
        "gpu_0_memory_usage_percentage": 25.0,
        "gpu_0_utilization_percentage": 90.0,
        "gpu_0_power_usage_watts": 250.0,
        "gpu_1_memory_usage_megabytes": 4.0,
        "gpu_1_memory_usage_percentage": 50.0,
        "gpu_1_utilization_percentage": 91.0,
    }


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise NVMLError("libnvidia-ml.so.1 is not there")

    for module in (None, SimpleNamespace(**TWO_GPUS | {"nvmlInit": no_driver})):
        monkeypatch.setitem(sys.modules, "pynvml", module)
        assert not any("gpu" in name for name in MachineLoad().take())


def test_a_thread_looks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(machine_load, "_SECONDS_BETWEEN_LOOKS", 0.01)
    load = MachineLoad()
    while load._looks < 3:
        time.sleep(0.01)
    assert load.take()["system/system_memory_usage_percentage"] > 0
