"""The optimizer part of an experiment: `train_config.optimizer` to the mapping of `tasks.training.optimization.OptimizationConfig`."""

from __future__ import annotations

from typing import Any

from tasks.pipeline_config.ledger import Reading


def translate_optimizer(optimizer: Reading, global_clipnorm: float, *, keras: bool = False) -> dict[str, Any]:
    """The `trainer.optimizer_config` mapping; `global_clipnorm` 0 does not clip.

    With `keras` the optimizers are those of the original's TensorFlow 2: its momentum holds steps, not gradients, which tells when the
    learning rate changes; its RMSProp takes `decay` for a decay of the learning rate.

    What is not supported, or contradicts itself, is refused.
    """
    names = ("momentum_optimizer", "rms_prop_optimizer", "adam_optimizer")
    chosen = optimizer.choose("optimizer", names, "optimizer")
    rule = optimizer.inside(chosen)
    # Written even when absent: the experiment that this overrides clips by default.
    clipping = {"global_clipnorm": global_clipnorm if global_clipnorm > 0 else None}
    if chosen == "momentum_optimizer" and keras:
        settings = {"type": "sgd", "sgd": {"momentum": rule.value("momentum_optimizer_value"), **clipping}}
    elif chosen == "rms_prop_optimizer" and keras:
        raise rule.error(
            "decay", "the original's TensorFlow 2 makes it a decay of the learning rate", "use momentum_optimizer or adam_optimizer"
        )
    elif chosen == "momentum_optimizer":
        settings = {"type": "momentum", "momentum": {"momentum": rule.value("momentum_optimizer_value"), **clipping}}
    elif chosen == "rms_prop_optimizer":
        values = {"rho": "decay", "momentum": "momentum_optimizer_value", "epsilon": "epsilon"}
        settings = {
            "type": "rms_prop",
            "rms_prop": {**{ours: rule.value(name) for ours, name in values.items()}, **clipping},
        }
    else:
        settings = {
            "type": "adam",
            "adam": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": rule.value("epsilon"), **clipping},
        }
    return {"optimizer": settings, **_schedule(rule.inside("learning_rate"))}


def translate_averages(optimizer: Reading, evaluation: Reading) -> dict[str, float]:
    """`moving_average_decay` of the mapping, where averages of the weights are kept: then they are what is evaluated and exported.

    The language keeps averages unless told otherwise, and uses none unless told otherwise; every Faster and Mask R-CNN sample of the
    original keeps none. Where averages are kept and nothing is said of their use, they are used here; where it is said that they are not
    used, none are kept.
    """
    used = evaluation.value("use_moving_averages")
    if not optimizer.value("use_moving_average"):
        optimizer.ignore("no moving average is kept", "moving_average_decay")
        if used:
            field = f"{optimizer.path}.use_moving_average"
            evaluation.reject("use_moving_averages", f"no averages are kept: {field} is false", f"--set {field}=true")
        return {}
    if evaluation.has("use_moving_averages") and not used:
        reason = f"{evaluation.path}.use_moving_averages is false: nothing would read the averages, so none are kept"
        optimizer.ignore(reason, "use_moving_average", "moving_average_decay")
        return {}
    return {"moving_average_decay": optimizer.value("moving_average_decay")}


def _schedule(rate: Reading) -> dict[str, Any]:
    schedules = {
        "constant_learning_rate": _constant,
        "manual_step_learning_rate": _manual_steps,
        "exponential_decay_learning_rate": _exponential,
        "cosine_decay_learning_rate": _cosine,
    }
    chosen = rate.choose("learning_rate", schedules, "learning rate")
    return schedules[chosen](rate.inside(chosen))


def _constant(schedule: Reading) -> dict[str, Any]:
    return _steps([], [schedule.value("learning_rate")])


def _manual_steps(schedule: Reading) -> dict[str, Any]:
    """Keras changes the rate after a boundary, the original at it: hence the minus one."""
    initial = schedule.value("initial_learning_rate")
    points = [(point.value("step"), point.value("learning_rate")) for point in schedule.each("schedule")]
    warmup = schedule.value("warmup")
    if not points:
        raise schedule.error("schedule", "has no step", "add schedule { step: ... learning_rate: ... }, or use a constant rate")
    steps = [step for step, _ in points]
    if steps != sorted(set(steps)):
        schedule.reject("schedule", f"the steps {steps} do not grow", "order them")
    if warmup and steps[0] > 0:
        later = points[1:]
        settings = _steps([step - 1 for step, _ in later], [points[0][1], *(value for _, value in later)])
        return {**settings, **_warmup(initial, steps[0])}
    values = [initial, *(value for _, value in points)]
    if steps[0] == 0:
        steps, values = steps[1:], values[1:]
    return _steps([step - 1 for step in steps], values)


def _exponential(schedule: Reading) -> dict[str, Any]:
    initial = schedule.value("initial_learning_rate")
    settings = {
        "initial_learning_rate": initial,
        "decay_steps": schedule.value("decay_steps"),
        "decay_rate": schedule.value("decay_factor"),
        "staircase": schedule.value("staircase"),
        # In the language 0 stands for the initial rate.
        "burnin_learning_rate": schedule.value("burnin_learning_rate") or initial,
        "burnin_steps": schedule.value("burnin_steps"),
        "min_learning_rate": schedule.value("min_learning_rate"),
    }
    return {"learning_rate": {"type": "exponential_after_burn_in", "exponential_after_burn_in": settings}}


def _cosine(schedule: Reading) -> dict[str, Any]:
    base = schedule.value("learning_rate_base")
    total, warmup_steps = schedule.value("total_steps"), schedule.value("warmup_steps")
    warmup_rate = schedule.value("warmup_learning_rate")
    hold_steps = warmup_steps + schedule.value("hold_base_rate_steps")
    if total <= hold_steps:
        schedule.reject("total_steps", f"{total} ends before the {hold_steps} steps of warm-up and plateau do", "raise it")
    if warmup_steps and warmup_rate > base:
        schedule.reject("warmup_learning_rate", f"{warmup_rate} is above learning_rate_base {base}", "lower it")
    settings = {"initial_learning_rate": base, "decay_steps": total - hold_steps, "hold_steps": hold_steps}
    cosine = {"learning_rate": {"type": "cosine_after_hold", "cosine_after_hold": settings}}
    return {**cosine, **_warmup(warmup_rate, warmup_steps)} if warmup_steps else cosine


def _steps(boundaries: list[int], values: list[float]) -> dict[str, Any]:
    """values[i] up to and including boundaries[i]; Keras cannot do it without a boundary."""
    if not boundaries:
        return {"learning_rate": {"type": "constant", "constant": {"learning_rate": values[0]}}}
    return {"learning_rate": {"type": "stepwise", "stepwise": {"boundaries": boundaries, "values": values}}}


def _warmup(rate: float, steps: int) -> dict[str, Any]:
    return {"warmup": {"type": "linear", "linear": {"warmup_learning_rate": rate, "warmup_steps": steps}}}
