"""The step that trains one converted zoo config.

    maskline train MODEL_DIR [--steps N --batch-size N --image-size N --learning-rate X --precision P --proposals N --seed N]
    maskline train MODEL_DIR --evaluate-every 10% [--best-metric NAME --patience N --keep N]

Reads `experiment.yaml` of the model's folder and the records that it names; writes `train/`: checkpoints, `experiment.yaml` as trained, the
conditions that it ran under in `provenance.json`, the numbers of every step in `metrics.jsonl` and for TensorBoard in `tensorboard/`, what
MLflow is to have in `tracking.jsonl`, evaluations on the way in `evaluations.json`, steps that were no number in `skipped_steps/`, the
label map, `checkpoint_import.json` where it starts from a checkpoint, and last `result.json`. A killed training goes on from its newest
whole checkpoint, as if nothing had been; a finished one is skipped. Runtime: the zoo's own 200,000 steps are days on a GPU; the demo's
settings take about two minutes each on two CPU cores.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tasks import tracking
from tasks.checkpoints.own_checkpoint import checkpoint_at, step_of, written_checkpoints
from tasks.records.record_set import RecordSet
from tasks.running.errors import UserError
from tasks.running.lease import leased
from tasks.running.workspace import ModelDir, StepResult, read_json, read_settings, write_json, write_text
from tasks.training.cluster import Cluster
from tasks.training.compared_settings import compared_settings
from tasks.training.devices import Devices
from tasks.training.experiment import experiment_from, load_experiment
from tasks.training.loop import run_training
from tasks.training.overrides import Overrides, adapt_to_machine, override
from tasks.training.precision import gpus_here, settle_precision
from tasks.training.progress import Untracked
from tasks.training.provenance import PROVENANCE, conditions, keep_conditions
from tasks.training.records import records_read
from tasks.training.task import TOTAL_LOSS

# Where a resumed training may differ from the one it goes on with: the machine, how far to go, how often to save and how much to keep.
_FREE_TO_CHANGE = (
    "runtime.num_gpus",
    "runtime.distribution_strategy",
    "runtime.worker_hosts",
    "runtime.task_index",
    "runtime.all_reduce_alg",
    "runtime.enable_xla",
    "trainer.train_steps",
    "trainer.checkpoint_interval",
    "trainer.max_to_keep",
    "trainer.evaluate_every",
    "trainer.best_metric",
    "trainer.patience",
    "trainer.grace_seconds",
    "trainer.on_nan",
    "trainer.deterministic",
    "task.train_data.max_bad_records",
)


def train(
    model: ModelDir, overrides: Overrides | None = None, devices: Devices | None = None, cluster: Cluster | None = None
) -> StepResult:
    """Trains to the last step, or goes on to it; outputs name the model's folder and the checkpoint that the next steps use.

    Of the workers of a `cluster` the chief does all of it, and the others train beside it. UserError where another process trains in the
    model's folder.
    """
    # In a folder that is no model's nothing is written, and what is missing is told.
    if (cluster and not cluster.is_chief) or not model.experiment.is_file():
        return _train(model, overrides, devices, cluster)
    with leased(model.training_lock, "is trained"):
        return _train(model, overrides, devices, cluster)


def _train(model: ModelDir, overrides: Overrides | None, devices: Devices | None, cluster: Cluster | None) -> StepResult:
    overrides, gpus = overrides or Overrides(), gpus_here()
    trained, result = model.train / "experiment.yaml", model.train / "result.json"
    # Before its first checkpoint a training has left nothing to go on with: what stopped it can be mended in the same folder.
    begun: dict[str, Any] | None = read_settings(trained) if trained.exists() else None
    goes_on = begun is not None and (result.exists() or bool(written_checkpoints(model.train)))
    experiment = load_experiment(model.experiment)
    override(experiment, overrides)
    adapt_to_machine(experiment, len(gpus), devices, cluster)
    gpus = gpus[: experiment.runtime.num_gpus]
    computation = settle_precision(experiment, gpus, overrides.precision, overrides.xla, begun["runtime"] if begun and goes_on else None)
    records = records_read(experiment.task)
    if experiment.trainer.evaluate_every:
        confirm_measurable(experiment.task.model.number_of_stages, records)
    cut_off = objects_cut_off(experiment.task.train_data.max_number_of_boxes, records.objects_per_image.get("train", {}))
    resolved = {"dataset_digest": records.digest, **experiment.as_dict()}
    if begun and goes_on:
        _check_same_training(_with_defaults(begun, trained), resolved, model.train)
        begins_anew = False
    else:
        begins_anew = begun != yaml.safe_load(yaml.safe_dump(resolved))
    if result.exists():
        summary = read_json(result)
        if summary["steps"] == experiment.trainer.train_steps or (summary.get("ended_early") and _asks_the_same(begun, resolved)):
            return _answer("skipped", model, summary, read_json(model.tracking) if model.tracking.exists() else {})
    print(computation, flush=True)
    if cluster and not cluster.is_chief:
        summary = run_training(experiment, model.train, Untracked(), cluster)
        checkpoint = checkpoint_at(model.train, summary["steps"])
        return StepResult("train", "done", {"model": str(model.root), "checkpoint": str(checkpoint)}, {"steps": summary["steps"]})
    # What follows is a longer training than one that is complete, and is not so until its own result says it.
    result.unlink(missing_ok=True)
    write_text(trained, yaml.safe_dump(resolved, sort_keys=True))
    written = written_checkpoints(model.train)
    keep_conditions(model.train, conditions(experiment, records), step_of(written[-1]) if written else 0)
    write_text(model.trained_label_map, Path(experiment.task.train_data.label_map_path).read_text())

    with tracking.model_run(model, records, "train", anew=begins_anew) as run:
        run.log_params(compared_settings(experiment, records))
        # No parameter, since MLflow keeps a parameter's first value, and a training may be gone on with.
        run.log_summary({"steps": experiment.trainer.train_steps, **_planned(model.plan)})
        kept = (model.pipeline_config, trained, model.conversion_report, model.zoo_difference, model.plan, records.description)
        for artifact in (*kept, model.train / PROVENANCE):
            if artifact.exists():
                run.log_artifacts(artifact)
        summary = {"config": model.name, "dataset_digest": records.digest, "objects_cut_off": cut_off}
        summary |= run_training(experiment, model.train, run, cluster)
        run.log_metrics({name: summary[name] for name in ("parameters", "images_per_second", "seconds", "bad_records")}, summary["steps"])
        write_json(result, summary)
        run.log_artifacts(model.train / "metrics.jsonl")
        if experiment.task.init_checkpoint:
            run.log_artifacts(model.checkpoint_import)
    print(summary["standing"], flush=True)
    return _answer("done", model, summary, dataclasses.asdict(run.identity) if run.identity else {})


def _planned(plan: Path) -> dict[str, float | None]:
    """What `maskline plan` expected; nothing where there is no plan, or none that can be read: no training fails for an estimate."""
    try:
        summary = json.loads(plan.read_bytes())["summary"]
        return {f"planned_{name}": summary[name] for name in ("hours", "memory_gb", "cost")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _asks_the_same(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    """Whether a training that ended early would end there again."""
    return before is not None and all(
        before["trainer"][name] == now["trainer"][name] for name in ("train_steps", "evaluate_every", "best_metric", "patience")
    )


def confirm_measurable(stages: int, records: RecordSet) -> None:
    """UserError where evaluations on the way would have nothing to measure, which they would only find after the first steps."""
    if stages == 1:
        raise UserError(
            "--evaluate-every measures objects by their classes, and the config has number_of_stages 1: proposals have none",
            "train without it, or set number_of_stages to 2 or 3",
        )
    if not any(records.objects_per_image.get("val", {})):
        raise UserError(
            f"{records.root}: --evaluate-every has nothing to measure, the validation records hold no object",
            "train without it, or materialize the dataset with objects in its validation split",
        )


def objects_cut_off(limit: int, objects_per_image: Mapping[int, int]) -> int:
    """How many objects training does not see because their image has more than `limit`; says so where there are any."""
    cut_off = sum(images * (objects - limit) for objects, images in objects_per_image.items() if objects > limit)
    if cut_off:
        images = sum(images for objects, images in objects_per_image.items() if objects > limit)
        most = max(objects_per_image)
        print(
            f"max_number_of_boxes is {limit}: of {images} image{'s' * (images > 1)} with more objects, {cut_off} are left out;"
            f" convert with --set train_input_reader.max_number_of_boxes={most} to train on all",
            flush=True,
        )
    return cut_off


def _with_defaults(values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """What a training began with; fields that its version did not know have their defaults."""
    known = {name: value for name, value in values.items() if name != "dataset_digest"}
    try:
        return {"dataset_digest": values.get("dataset_digest"), **experiment_from(known, file).as_dict()}
    except UserError as error:
        raise UserError(
            f"{error.message}: it is of a training by another version", f"train into another run folder, or remove {file.parent}"
        ) from error


def _check_same_training(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuses to go on with a training that began with other settings or data, or that is past the steps asked for."""
    old, new = dict(_flat(before)), dict(_flat(now))
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name) and name not in _FREE_TO_CHANGE]
    if changed:
        told = ", ".join(f"{name} ({old.get(name)} -> {new.get(name)})" for name in changed[:5])
        raise UserError(
            f"{folder} holds a training with other settings or other data: {told}",
            f"train into another run folder, or remove {folder}",
        )
    if new["trainer.train_steps"] < old["trainer.train_steps"]:
        raise UserError(
            f"{folder} holds a training of {old['trainer.train_steps']} steps, more than the {new['trainer.train_steps']} asked for",
            f"train into another run folder, or remove {folder}",
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def _answer(status: str, model: ModelDir, summary: Mapping[str, Any], identity: Mapping[str, Any]) -> StepResult:
    return StepResult(
        "train",
        status,
        {"model": str(model.root), "checkpoint": summary["checkpoint"]},
        {
            "steps": summary["steps"],
            "images_per_second": summary["images_per_second"],
            "total_loss": summary["losses"].get(TOTAL_LOSS),
            "mlflow_run_id": identity.get("run_id"),
            "mlflow_url": identity.get("url"),
        },
    )
