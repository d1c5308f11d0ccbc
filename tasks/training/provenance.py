"""Under what conditions a training ran, in `provenance.json` beside its checkpoints: what decides about its numbers, so that it can be run
again, and what differs can be told.

The settings are not here: `experiment.yaml` beside it has all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
from official.core import config_definitions as cfg

import tasks
from tasks.checkpoints.files import checkpoint_digest
from tasks.records.record_set import RecordSet
from tasks.running.errors import UserError
from tasks.running.schedule_memory import code
from tasks.running.workspace import read_json, write_json
from tasks.tracking.provenance import commit

PROVENANCE = "provenance.json"

ENVIRONMENT = (
    *("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "TF_DETERMINISTIC_OPS", "TF_CUDNN_DETERMINISTIC", "TF_CUDNN_USE_AUTOTUNE"),
    *("NVIDIA_TF32_OVERRIDE", "TF_XLA_FLAGS", "XLA_FLAGS", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    *("TF_AUTOTUNE_THRESHOLD", "TF_DISABLE_MKL", "TF_GPU_ALLOCATOR", "TF_USE_LEGACY_KERAS"),
)
"""Variables that change numbers, or the order in which they are added up."""
# Sets of instructions by which TensorFlow's kernels differ.
_INSTRUCTIONS = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile")
# Of another one a training is another training.
DATA, START = "data", "start"

Conditions = dict[str, dict[str, str]]
"""By group and name: `code`, `packages`, `data`, `start`, `hardware` and `environment`"""


def conditions(experiment: cfg.ExperimentConfig, records: RecordSet) -> Conditions:
    """Those of a training that would begin now, in this process."""
    lock = Path(tasks.__file__).parents[1] / "uv.lock"
    return {
        "code": {
            **code(),
            "commit": commit() or "in no checkout",
            "lock file": _digest(lock) if lock.is_file() else "none beside the code",
            "python": platform.python_version(),
        },
        "packages": {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()},
        DATA: {"name": records.name, "digest": records.digest},
        START: {"checkpoint": _checkpoint(experiment.task.init_checkpoint), "seed": str(experiment.task.train_data.seed)},
        "hardware": _hardware(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


def keep_conditions(folder: Path, now: Conditions, step: int) -> None:
    """Writes into a training's folder that it goes on from `step` under these conditions; those that held before that step stay."""
    file = folder / PROVENANCE
    earlier = [session for session in read_json(file)["sessions"] if session["step"] < step] if step and file.exists() else []
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(file, {"sessions": [*earlier, {"step": step, "began": began, "conditions": now}]})


def kept_conditions(folder: Path) -> list[tuple[int, Conditions]]:
    """The conditions of a training, each with the step from which they held; UserError where it kept none."""
    file = folder / PROVENANCE
    if not file.exists():
        raise UserError(f"{folder} holds no {PROVENANCE}", "name a model that this version of `maskline train` has trained")
    try:
        return [(int(session["step"]), session["conditions"]) for session in read_json(file)["sessions"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is not what `maskline train` writes", "bring the file back, or train the model again") from error


def differences(then: Conditions, now: Conditions, when: tuple[str, str] = ("then", "now")) -> list[str]:
    """A line for each condition that is another one, group by group."""
    lines = []
    for group in [*then, *(group for group in now if group not in then)]:
        before, after = then.get(group, {}), now.get(group, {})
        names = [*before, *(name for name in after if name not in before)]
        lines += [
            f"{group}: {name}: {_short(before.get(name))} {when[0]}, {_short(after.get(name))} {when[1]}"
            for name in names
            if before.get(name) != after.get(name)
        ]
    return lines


def _hardware() -> dict[str, str]:
    build = tf.sysconfig.get_build_info()
    found = {"machine": platform.machine(), "system": platform.system(), "processor": platform.processor() or "unknown"}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                found["processor"] = value.strip()
            if name.strip() == "flags":
                found["instructions"] = " ".join(one for one in _INSTRUCTIONS if one in value.split())
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    found["cores"] = str(cores)
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    for number, gpu in enumerate(gpus):
        capability = ".".join(map(str, gpu.get("compute_capability", ("unknown",))))
        found[f"GPU {number}"] = f"{gpu.get('device_name', 'unknown')}, compute capability {capability}"
    if gpus:
        found |= {"driver": _driver(), "CUDA": str(build.get("cuda_version")), "cuDNN": str(build.get("cudnn_version"))}
    return found


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def _checkpoint(path: str) -> str:
    """The digest of a checkpoint, or of the file that stands for one."""
    if not path:
        return "from scratch"
    return checkpoint_digest(Path(path)) or f"{path}, which is not there"


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _short(value: str | None) -> str:
    if value is None:
        return "none"
    return value[:12] if len(value) == hashlib.sha256().digest_size * 2 else value


def flags(then: Conditions) -> Mapping[str, str | None]:
    """The variables of `ENVIRONMENT` as they were: None for one that was not set."""
    return {name: then.get("environment", {}).get(name) for name in ENVIRONMENT}
