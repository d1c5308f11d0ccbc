"""The numbers that a training computes in, and whether XLA compiles its networks: as a person or a config says, else by the device.

Variables, losses, boxes and their suppression are float32 in every precision, and so is a trained model when it is evaluated or exported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras
from official.core import config_definitions as cfg

from tasks.input.image_resizer import one_size
from tasks.running.errors import UserError

AUTO = "auto"
PRECISIONS = (AUTO, "float32", "tf32", "mixed_bfloat16", "mixed_float16")
XLA = (AUTO, "on", "off")

_MIXED = "mixed_"
# NVIDIA's compute capability from which tensor cores take bfloat16 and TF32 (Ampere), and from which they take float16 (Volta).
_AMPERE, _VOLTA = (8, 0), (7, 0)


@dataclass(frozen=True)
class Gpu:
    """A GPU as TensorFlow tells it."""

    name: str
    compute_capability: tuple[int, int] | None
    """NVIDIA's; None for a GPU of others"""

    def __str__(self) -> str:
        if self.compute_capability is None:
            return f"{self.name}, which tells no compute capability"
        return f"{self.name} of compute capability {self.compute_capability[0]}.{self.compute_capability[1]}"


def gpus_here() -> list[Gpu]:
    """The GPUs of this machine that TensorFlow sees."""
    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return [Gpu(detail.get("device_name", "a GPU"), detail.get("compute_capability")) for detail in details]


def settle_precision(
    experiment: cfg.ExperimentConfig,
    gpus: Sequence[Gpu],
    precision: str | None,
    xla: str | None,
    before: Mapping[str, Any] | None = None,
) -> str:
    """Sets, in place, what to compute in, `precision` and `xla` being what a person asked for; a line that tells it, and why.

    `None` is what the experiment says, and `auto` where that says nothing; `auto` decides by the weakest of `gpus`, and on a CPU that is
    float32 without XLA. A training that goes on keeps the precision that it began with, `before` being its experiment's `runtime`. float16
    gets dynamic loss scaling, unless the experiment has a loss scale. UserError for XLA in a deterministic training.
    """
    runtime = experiment.runtime
    if precision not in (None, AUTO):
        runtime.mixed_precision_dtype, why = precision.removeprefix(_MIXED), "as asked for"
    elif before is not None:
        runtime.mixed_precision_dtype, why = before["mixed_precision_dtype"], "as it began"
    elif runtime.mixed_precision_dtype is not None and precision is None:
        why = "as the config says"
    else:
        runtime.mixed_precision_dtype, why = _precision_for(gpus)
    runtime.enable_xla, why_xla = _xla_for(experiment, gpus, xla)
    experiment.task.model.jit_compile &= runtime.enable_xla
    if runtime.mixed_precision_dtype == "float16" and runtime.loss_scale is None:
        runtime.loss_scale = "dynamic"
    told = precision_of(experiment)
    return f"computes in {told}{_note(told, gpus)}: {why}; {'with' if runtime.enable_xla else 'without'} XLA: {why_xla}"


def precision_of(experiment: cfg.ExperimentConfig) -> str:
    """An experiment's precision by the word of the command line."""
    dtype: str = experiment.runtime.mixed_precision_dtype or "float32"
    return dtype if dtype in PRECISIONS else f"{_MIXED}{dtype}"


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Within the block, Keras computes in `precision`, of `PRECISIONS` without `auto`, over float32 variables.

    Where it is float32, products and convolutions on a GPU are so too; otherwise those of float32 tensors are TF32, as TensorFlow does it.
    """
    policy, tf32 = tf_keras.mixed_precision.global_policy(), tf.config.experimental.tensor_float_32_execution_enabled()
    tf_keras.mixed_precision.set_global_policy(precision if precision.startswith(_MIXED) else "float32")
    tf.config.experimental.enable_tensor_float_32_execution(precision != "float32")
    try:
        yield
    finally:
        tf_keras.mixed_precision.set_global_policy(policy)
        tf.config.experimental.enable_tensor_float_32_execution(tf32)


def _precision_for(gpus: Sequence[Gpu]) -> tuple[str | None, str]:
    """The type as Model Garden's runtime has it, whose None is float32, and why."""
    if not gpus:
        return None, "there is no GPU"
    gpu = _weakest(gpus)
    if _has(gpu, _AMPERE):
        return "bfloat16", f"{gpu} has tensor cores for it, and its range is float32's"
    if _has(gpu, _VOLTA):
        return "float16", f"{gpu} has tensor cores for it, and none for bfloat16"
    return None, f"{gpu} has no tensor cores"


def _xla_for(experiment: cfg.ExperimentConfig, gpus: Sequence[Gpu], xla: str | None) -> tuple[bool, str]:
    if experiment.trainer.deterministic:
        # It refuses to run: the gradient of max pooling.
        if xla == "on":
            raise UserError("--xla is on, and --deterministic: XLA has no deterministic gradient of max pooling", "leave one of them out")
        return False, "it cannot be deterministic"
    if xla not in (None, AUTO):
        return xla == "on", "as asked for"
    if xla is None and (experiment.runtime.enable_xla or experiment.task.model.jit_compile):
        return True, "as the config says"
    if not gpus:
        return False, "there is no GPU"
    if not _has(_weakest(gpus), _VOLTA):
        return False, "the GPU has no tensor cores"
    if not one_size(experiment.task.model.image_resizer):
        return False, "images differ in size, and it would compile for each"
    return True, "all images have one size"


def _note(precision: str, gpus: Sequence[Gpu]) -> str:
    """What a person may not expect of a precision on these devices."""
    has_tf32 = bool(gpus) and _has(_weakest(gpus), _AMPERE)
    if precision == "float32" and has_tf32:
        return " and not in TF32"
    if precision == "tf32" and not has_tf32:
        return ", which is float32 here since TF32 is of NVIDIA's GPUs from compute capability 8.0 on"
    if precision == "mixed_float16" and not gpus:
        return ", which takes a CPU a hundred times as long as float32"
    return ""


def _weakest(gpus: Sequence[Gpu]) -> Gpu:
    return min(gpus, key=lambda gpu: gpu.compute_capability or (0, 0))


def _has(gpu: Gpu, capability: tuple[int, int]) -> bool:
    return gpu.compute_capability is not None and tuple(gpu.compute_capability) >= capability
