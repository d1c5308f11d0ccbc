"""What a machine is made of: the table, a driver that answers, and what a person says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.planning.devices import GIBI, KNOWN, TERA, Machine, found_gpus
from tasks.running.errors import UserError


def driver(folder: Path, answer: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver that answers so to every question, and keeps the words of the last."""
    asked = folder / "asked"
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\necho \"$@\" > {asked}\ncat <<'END'\n{answer}\nEND\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return asked


def test_table() -> None:
    a100 = KNOWN["a100"]
    assert (a100.memory_bytes, a100.bytes_per_second) == (80 * GIBI, 2.039e12)
    assert [a100.peak(precision) / TERA for precision in ("float32", "tf32", "mixed_bfloat16", "mixed_float16")] == [19.5, 156, 312, 312]
    # What a device has no matrix units for, its vector units do in float32.
    v100 = KNOWN["v100"]
    assert [v100.peak(precision) / TERA for precision in ("float32", "tf32", "mixed_bfloat16", "mixed_float16")] == [15.7, 15.7, 15.7, 125]
    assert (a100.has_matrix_units("tf32"), a100.has_matrix_units("float32"), v100.has_matrix_units("tf32")) == (True, False, False)
    assert all("20" in device.source for device in KNOWN.values())


@pytest.mark.parametrize(
    ("told", "known"),
    [
        ("NVIDIA A100-SXM4-80GB, 81920", "a100"),
        ("NVIDIA A100-SXM4-40GB, 40960", "a100-40"),
        ("NVIDIA A10, 23028", "a10"),
        ("NVIDIA L40S, 46068", "l40s"),
        ("NVIDIA L4, 23034", "l4"),
        ("NVIDIA H100 PCIe, 81559", "h100-pcie"),
        ("NVIDIA H100 80GB HBM3, 81559", "h100"),
        ("Tesla T4, 15360", "t4"),
        ("Tesla V100-SXM2-16GB, 16384", "v100"),
    ],
)
def test_gpu_of_the_driver_is_found_in_the_table(told: str, known: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver(tmp_path, told, monkeypatch)
    (found,) = found_gpus()
    name, _, mebibytes = told.partition(", ")
    assert (found.name, found.memory_bytes, found.peaks) == (name, int(mebibytes) * 2**20, KNOWN[known].peaks)


def test_gpu_that_nobody_knows_says_what_it_is_taken_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver(tmp_path, "NVIDIA A10G, 23028\nNVIDIA A10G, 23028", monkeypatch)
    found = found_gpus()
    assert len(found) == 2
    assert "not in the table" in found[0].source
    assert len(Machine().accelerators()) == 2
    assert [device.memory_bytes for device in Machine(count=3, memory=10).accelerators()] == [10 * GIBI] * 3


def test_gpus_that_are_hidden_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = driver(tmp_path, "NVIDIA A10, 23028", monkeypatch)
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert found_gpus() == []
    assert not asked.exists()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert len(found_gpus()) == 1
    assert "--id=1,0" in asked.read_text()
    driver(tmp_path, "No devices were found", monkeypatch)
    assert found_gpus() == []
    monkeypatch.setenv("PATH", "/nowhere")
    assert found_gpus() == []


def test_processors_of_this_machine_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert Machine().accelerators() == []
    (cpu,) = Machine().processors("float32")
    assert cpu.is_cpu
    assert "timed here" in cpu.source
    # A processor's core makes 10^9 to 10^13 of them a second.
    assert 1e9 < cpu.peak("float32") < 1e13 * 1000
    assert 0 < cpu.memory_bytes < 2**50
    with pytest.raises(UserError, match="--devices is 2, and this machine has no GPU"):
        Machine(count=2).processors("float32")


def test_device_that_a_person_gives() -> None:
    (given,) = Machine(flops=100, memory=24).accelerators()
    assert (given.peak("mixed_bfloat16"), given.peak("float32"), given.memory_bytes) == (100 * TERA, 100 * TERA, 24 * GIBI)
    assert [device.memory_bytes for device in Machine(device="H100", memory=40, count=2).accelerators()] == [40 * GIBI] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "h1000"}, "--device is 'h1000'"),
        ({"device": "h100", "flops": 3.0}, "both given"),
        ({"flops": 3.0}, "without --memory"),
        ({"flops": 0.0, "memory": 3.0}, "--flops is 0"),
        ({"memory": -1.0}, "--memory is -1"),
        ({"count": 0}, "--devices is 0"),
    ],
)
def test_machine_that_cannot_be_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Machine(**arguments)  # type: ignore[arg-type]
