"""Which precision a training computes in, by person, config and device, and how near the precisions are to each other."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf
import tf_keras
from official.core import config_definitions as cfg

from tasks.mask_rcnn.config import ImageResizer
from tasks.running.errors import UserError
from tasks.training.experiment import mask_rcnn_zoo
from tasks.training.precision import Gpu, computing_in, precision_of, settle_precision

H100, A100, T4, V100, P100 = (
    Gpu(name, capability)
    for name, capability in (
        ("NVIDIA H100 80GB HBM3", (9, 0)),
        ("NVIDIA A100", (8, 0)),
        ("Tesla T4", (7, 5)),
        ("Tesla V100", (7, 0)),
        ("Tesla P100", (6, 0)),
    )
)
RADEON = Gpu("Radeon", None)


def experiment(**runtime: Any) -> cfg.ExperimentConfig:
    made = mask_rcnn_zoo()
    made.runtime.override(runtime)
    return made


@pytest.mark.parametrize(
    ("gpus", "precision", "why"),
    [
        ([], "float32", "there is no GPU"),
        ([H100, H100], "mixed_bfloat16", "NVIDIA H100 80GB HBM3 of compute capability 9.0 has tensor cores for it"),
        ([A100], "mixed_bfloat16", "NVIDIA A100 of compute capability 8.0"),
        ([T4], "mixed_float16", "Tesla T4 of compute capability 7.5 has tensor cores for it, and none for bfloat16"),
        ([A100, V100], "mixed_float16", "Tesla V100"),
        ([A100, P100], "float32", "Tesla P100 of compute capability 6.0 has no tensor cores"),
        ([RADEON], "float32", "Radeon, which tells no compute capability"),
    ],
)
def test_auto_follows_the_weakest_device_and_says_why(gpus: list[Gpu], precision: str, why: str) -> None:
    for asked in (None, "auto"):
        made = experiment()
        line = settle_precision(made, gpus, asked, None)
        assert precision_of(made) == precision
        assert line.startswith(f"computes in {precision}: ")
        assert why in line
        assert made.runtime.loss_scale == ("dynamic" if precision == "mixed_float16" else None)


def test_a_person_counts_more_than_the_config_and_the_config_more_than_the_device() -> None:
    made = experiment(mixed_precision_dtype="bfloat16")
    assert "computes in mixed_bfloat16: as the config says" in settle_precision(made, [], None, None)
    assert "computes in float32: there is no GPU" in settle_precision(made, [], "auto", None)
    made = experiment(mixed_precision_dtype="bfloat16", loss_scale=128.0)
    assert "computes in mixed_float16: as asked for" in settle_precision(made, [T4], "mixed_float16", None)
    assert made.runtime.loss_scale == 128.0


@pytest.mark.parametrize("began", [None, "float32", "bfloat16"])
def test_a_training_keeps_the_precision_that_it_began_with_on_another_machine(began: str | None) -> None:
    before = experiment(mixed_precision_dtype=began).runtime.as_dict()
    for asked in (None, "auto"):
        made = experiment()
        assert ": as it began; " in settle_precision(made, [T4], asked, None, before)
        assert made.runtime.mixed_precision_dtype == began


@pytest.mark.parametrize(
    ("gpus", "asked", "told"),
    [
        ([A100], "float32", "float32 and not in TF32: as asked for"),
        ([A100], "tf32", "tf32: as asked for"),
        ([T4], "tf32", "tf32, which is float32 here since"),
        ([], "tf32", "tf32, which is float32 here since"),
        ([], "mixed_float16", "mixed_float16, which takes a CPU a hundred times as long"),
    ],
)
def test_what_a_word_means_on_the_device_is_said(gpus: list[Gpu], asked: str, told: str) -> None:
    assert f"computes in {told}" in settle_precision(experiment(), gpus, asked, None)


@pytest.mark.parametrize(
    ("gpus", "resizer", "asked", "compiled", "why"),
    [
        ([], ImageResizer(kind="fixed_shape"), None, False, "there is no GPU"),
        ([A100], ImageResizer(kind="fixed_shape"), None, True, "all images have one size"),
        ([A100], ImageResizer(pad_to_max_dimension=True), "auto", True, "all images have one size"),
        ([A100], ImageResizer(), None, False, "images differ in size"),
        ([P100], ImageResizer(kind="fixed_shape"), None, False, "the GPU has no tensor cores"),
        ([], ImageResizer(), "on", True, "as asked for"),
        ([A100], ImageResizer(kind="fixed_shape"), "off", False, "as asked for"),
    ],
)
def test_xla(gpus: list[Gpu], resizer: ImageResizer, asked: str | None, compiled: bool, why: str) -> None:
    made = experiment()
    made.task.model.image_resizer = resizer
    line = settle_precision(made, gpus, None, asked)
    assert made.runtime.enable_xla == compiled
    assert f"; {'with' if compiled else 'without'} XLA: {why}" in line


def test_xla_of_the_config_stays_unless_the_device_is_to_decide() -> None:
    made = experiment(enable_xla=True)
    settle_precision(made, [], None, None)
    assert made.runtime.enable_xla
    settle_precision(made, [], None, "auto")
    assert not made.runtime.enable_xla
    made.task.model.jit_compile = True
    assert "with XLA: as the config says" in settle_precision(made, [], None, None)
    settle_precision(made, [], None, "off")
    assert not made.task.model.jit_compile


def test_a_deterministic_training_is_not_compiled() -> None:
    made = experiment(enable_xla=True)
    made.trainer.deterministic = True
    assert settle_precision(made, [A100], None, None).endswith("without XLA: it cannot be deterministic")
    assert not made.runtime.enable_xla
    with pytest.raises(UserError, match="--xla is on, and --deterministic"):
        settle_precision(made, [A100], None, "on")


@pytest.mark.parametrize(
    ("precision", "policy", "tf32"),
    [
        ("float32", "float32", False),
        ("tf32", "float32", True),
        ("mixed_bfloat16", "mixed_bfloat16", True),
        ("mixed_float16", "mixed_float16", True),
    ],
)
def test_float32_is_not_tf32_and_both_settings_end_with_the_block(precision: str, policy: str, tf32: bool) -> None:
    enabled = tf.config.experimental.tensor_float_32_execution_enabled
    before = enabled()
    with computing_in(precision):
        assert tf_keras.mixed_precision.global_policy().name == policy
        assert enabled() == tf32
    assert tf_keras.mixed_precision.global_policy().name == "float32"
    assert enabled() == before
