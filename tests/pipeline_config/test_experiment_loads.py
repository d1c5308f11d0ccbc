"""What the translation writes is what Model Garden builds: loaded strictly, and schedules compared step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import yaml
from official.modeling import optimization

from tasks.checkpoints import importing
from tasks.input import image_resizer
from tasks.input.augmentation_options import OPTIONS, option
from tasks.mask_rcnn.backbones import MODULES, build_backbone
from tasks.mask_rcnn.config import FeatureExtractor
from tasks.mask_rcnn.mask_depth import FEATURE_CHANNELS, KERAS
from tasks.pipeline_config import fine_tuning
from tasks.pipeline_config.augmentation_pb2 import PreprocessingStep
from tasks.pipeline_config.edits import MaskBranch, Records, to_mask_rcnn
from tasks.pipeline_config.experiment import translate
from tasks.pipeline_config.experiment_augmentation import translate_augmentations
from tasks.pipeline_config.fields import FieldError
from tasks.pipeline_config.image_resizer_pb2 import ResizeType
from tasks.pipeline_config.ledger import Ledger, Reading
from tasks.pipeline_config.parser import read_pipeline_config, set_field
from tasks.pipeline_config.training_pb2 import TrainConfig
from tasks.pipeline_config.zoo import zoo_configs
from tasks.running.errors import UserError
from tasks.training.experiment import load_experiment

GOLDEN = Path(__file__).parent / "golden"


def test_the_feature_extractors_are_those_that_can_be_built() -> None:
    assert {name.removesuffix(KERAS) for name in FEATURE_CHANNELS} == set(MODULES)


def test_a_stride_that_cannot_be_built_is_not_translated(records: Records) -> None:
    config, _ = to_mask_rcnn(read_pipeline_config(zoo_configs()["mask_rcnn_inception_v2_coco"]), records, MaskBranch())
    config, _ = set_field(config, "model.faster_rcnn.feature_extractor.first_stage_features_stride=8")
    with pytest.raises(FieldError, match="lie 16 pixels apart"):
        translate(config, name="x")
    with pytest.raises(UserError, match="lie 16 pixels apart"):
        build_backbone(FeatureExtractor(type="faster_rcnn_inception_v2", first_stage_features_stride=8))


def test_the_resize_methods_are_the_language_s() -> None:
    assert set(image_resizer.METHODS) == set(ResizeType.keys())


def test_the_checkpoint_types_are_those_of_the_import() -> None:
    types = (importing.CLASSIFICATION, importing.DETECTION, importing.FULL)
    assert types == fine_tuning.CHECKPOINT_TYPES


@pytest.mark.parametrize("kind", OPTIONS)
def test_an_augmentation_s_defaults_are_the_language_s(kind: str) -> None:
    step = PreprocessingStep()
    getattr(step, kind).SetInParent()
    (translated,) = translate_augmentations(Reading(TrainConfig(data_augmentation_options=[step]), Ledger()))
    assert option(**translated) == OPTIONS[kind]()


@pytest.mark.parametrize("name", sorted(zoo_configs()))
def test_golden_experiments_load_with_every_value_in_place(name: str) -> None:
    values = yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())
    loaded = load_experiment(GOLDEN / f"{name}.yaml").as_dict()
    assert _missing(values, loaded) == []


def _missing(wanted: Any, found: Any, path: str = "") -> list[str]:
    if isinstance(wanted, dict):
        return [line for key, value in wanted.items() for line in _missing(value, found[key], f"{path}.{key}")]
    same = list(found) == wanted if isinstance(wanted, list) else found == wanted
    return [] if same else [f"{path}: {found} is not {wanted}"]


def constant(_: int) -> float:
    return 0.7


def manual_steps(step: int) -> float:
    return 0.3 if step < 10 else 0.03 if step < 20 else 0.003


def manual_steps_from_zero(step: int) -> float:
    return 0.5 if step < 20 else 0.003


def manual_steps_with_warmup(step: int) -> float:
    return 0.01 + (0.3 - 0.01) * step / 10 if step < 10 else 0.3 if step < 20 else 0.03


def exponential(step: int) -> float:
    return 0.4 * 0.5 ** (step // 8)


def exponential_smooth(step: int) -> float:
    return 0.4 * 0.5 ** (step / 8)


def cosine(step: int) -> float:
    if step < 10:
        return 0.02 + (0.2 - 0.02) * step / 10
    return 0.1 * (1 + math.cos(math.pi * (step - 10) / 20)) if step <= 30 else 0.0


def exponential_after_burn_in(step: int) -> float:
    return 0.2 if step < 10 else max(0.4 * 0.5 ** ((step - 10) // 8), 0.15)


def exponential_from_its_initial_rate(step: int) -> float:
    return 0.4 if step < 10 else 0.4 * 0.5 ** ((step - 10) / 8)


def cosine_after_plateau(step: int) -> float:
    if step < 10:
        return 0.02 + (0.2 - 0.02) * step / 10
    return 0.2 if step < 15 else 0.1 * (1 + math.cos(math.pi * (step - 15) / 15)) if step <= 30 else 0.0


SCHEDULES: dict[str, Callable[[int], float]] = {
    "constant_learning_rate { learning_rate: 0.7 }": constant,
    "manual_step_learning_rate { initial_learning_rate: 0.3 schedule { step: 10 learning_rate: 0.03 } "
    "schedule { step: 20 learning_rate: 0.003 } }": manual_steps,
    "manual_step_learning_rate { initial_learning_rate: 0.3 schedule { step: 0 learning_rate: 0.5 } "
    "schedule { step: 20 learning_rate: 0.003 } }": manual_steps_from_zero,
    "manual_step_learning_rate { initial_learning_rate: 0.01 warmup: true schedule { step: 10 learning_rate: 0.3 } "
    "schedule { step: 20 learning_rate: 0.03 } }": manual_steps_with_warmup,
    "exponential_decay_learning_rate { initial_learning_rate: 0.4 decay_steps: 8 decay_factor: 0.5 }": exponential,
    "exponential_decay_learning_rate { initial_learning_rate: 0.4 decay_steps: 8 decay_factor: 0.5 staircase: false }": exponential_smooth,
    "cosine_decay_learning_rate { learning_rate_base: 0.2 total_steps: 30 warmup_learning_rate: 0.02 warmup_steps: 10 }": cosine,
    "cosine_decay_learning_rate { learning_rate_base: 0.2 total_steps: 30 warmup_learning_rate: 0.02 warmup_steps: 10 "
    "hold_base_rate_steps: 5 }": cosine_after_plateau,
    "exponential_decay_learning_rate { initial_learning_rate: 0.4 decay_steps: 8 decay_factor: 0.5 burnin_learning_rate: 0.2 "
    "burnin_steps: 10 min_learning_rate: 0.15 }": exponential_after_burn_in,
    "exponential_decay_learning_rate { initial_learning_rate: 0.4 decay_steps: 8 decay_factor: 0.5 staircase: false "
    "burnin_steps: 10 }": exponential_from_its_initial_rate,
}


def optimizer_config(records: Records, tmp_path: Path, *assignments: str) -> Any:
    config, _ = to_mask_rcnn(read_pipeline_config(zoo_configs()["mask_rcnn_resnet50_atrous_coco"]), records, MaskBranch())
    for assignment in assignments:
        config, _ = set_field(config, assignment)
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(translate(config, name="x").values))
    return load_experiment(file).trainer.optimizer_config


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda text: text.split(" ")[0])
def test_learning_rates_are_the_original_s_at_every_step(schedule: str, records: Records, tmp_path: Path) -> None:
    """Against the original's formulas, written down here by hand; steps 0 to 35 pass every change of rate."""
    config = optimizer_config(records, tmp_path, f"train_config.optimizer.momentum_optimizer.learning_rate={{{schedule}}}")
    rate = optimization.OptimizerFactory(config).build_learning_rate()
    found = [float(rate(tf.constant(step)) if callable(rate) else rate) for step in range(36)]
    assert found == pytest.approx([SCHEDULES[schedule](step) for step in range(36)], rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    ("rule", "kind", "settings"),
    [
        ("momentum_optimizer={momentum_optimizer_value: 0.8", "momentum", {"momentum": 0.8, "nesterov": False}),
        (
            "adam_optimizer={epsilon: 0.001",
            "adam",
            {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 0.001, "amsgrad": False},
        ),
        (
            "rms_prop_optimizer={decay: 0.95 momentum_optimizer_value: 0.7",
            "rms_prop",
            {"rho": 0.95, "momentum": 0.7, "epsilon": 1.0},
        ),
    ],
)
@pytest.mark.parametrize("clipping", [None, 4.0])
def test_optimizers_are_built_with_the_original_s_settings(
    rule: str, kind: str, settings: dict[str, Any], clipping: float | None, records: Records, tmp_path: Path
) -> None:
    config = optimizer_config(
        records,
        tmp_path,
        f"train_config.optimizer.{rule} learning_rate {{ constant_learning_rate {{ learning_rate: 0.25 }} }}}}",
        f"train_config.gradient_clipping_by_norm={clipping or 0}",
    )
    factory = optimization.OptimizerFactory(config)
    built = factory.build_optimizer(factory.build_learning_rate()).get_config()
    assert config.optimizer.type == kind
    assert {name: built[name] for name in settings} == pytest.approx(settings)
    assert config.optimizer.get().global_clipnorm == clipping


@pytest.mark.parametrize(
    ("rule", "gradients", "expected"),
    [
        # a = 1, 1.9, 2.71; the first step at a rate of 0.5, the others at 0.05.
        ("momentum_optimizer={momentum_optimizer_value: 0.9", [1, 1, 1], -(0.5 * 1 + 0.05 * 1.9 + 0.05 * 2.71)),
        ("momentum_optimizer={momentum_optimizer_value: 0", [1, 2], -(0.5 * 1 + 0.05 * 2)),
        # The mean square is 1 before, then 0.9 + 0.1 * 4 = 1.3 and 0.9 * 1.3 + 0.1 * 4 = 1.57; epsilon is 1.
        ("rms_prop_optimizer={momentum_optimizer_value: 0", [2, 2], -(0.5 * 2 / 2.3**0.5 + 0.05 * 2 / 2.57**0.5)),
        ("rms_prop_optimizer={momentum_optimizer_value: 0.5", [2, 2], -(1.5 * 0.5 * 2 / 2.3**0.5 + 0.05 * 2 / 2.57**0.5)),
        # m = 0.1, v = 0.001, and the rate is corrected by sqrt(1 - 0.999) / (1 - 0.9); epsilon stands beside the uncorrected root.
        ("adam_optimizer={epsilon: 1", [1], -0.5 * 0.001**0.5 / 0.1 * 0.1 / (0.001**0.5 + 1)),
    ],
)
def test_the_rules_are_the_original_s(rule: str, gradients: list[float], expected: float, records: Records, tmp_path: Path) -> None:
    rates = "learning_rate { manual_step_learning_rate { initial_learning_rate: 0.5 schedule { step: 1 learning_rate: 0.05 } } }"
    config = optimizer_config(records, tmp_path, f"train_config.optimizer.{rule} {rates}}}", "train_config.gradient_clipping_by_norm=0")
    factory = optimization.OptimizerFactory(config)
    optimizer = factory.build_optimizer(factory.build_learning_rate())
    weight = tf.Variable(0.0)
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(float(gradient)), weight)])
    assert float(weight) == pytest.approx(expected, rel=1e-5)
