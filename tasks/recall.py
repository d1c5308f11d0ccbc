"""The step that asks whether a scheduled run would train anything new, and where it would start from.

    maskline recall SCHEDULE RUN_DIR --dataset DATASET_DIR --config CONFIG ... [--setting NAME=VALUE ...] [--from-last-good-run] [--force]

Compares data, configs, settings and code with those of the schedule's last good run; `skipped` where they are the same. Otherwise
writes `ingredients.json` into the run's folder, from which `remember` knows later what the run was made of. Usual runtime: a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.checkpoints.own_checkpoint import checkpoint_to_start_from
from tasks.pipeline_config.zoo import find_config
from tasks.records.manifest import read_manifest
from tasks.running.schedule_memory import Ingredients, LastGoodRun, code, keep_ingredients, last_good_run
from tasks.running.workspace import DatasetDir, ModelDir, RunDir, StepResult, read_bytes

_NO_GOOD_RUN = "no run of this schedule ended well yet"


def recall(
    schedule: str,
    run: RunDir,
    dataset: DatasetDir,
    configs: Sequence[str],
    settings: Mapping[str, str],
    *,
    from_last_good_run: bool = False,
    force: bool = False,
) -> StepResult:
    """The summary has the `reason` for running or not; what `convert` gets to start from, by config, "" is from scratch; and as `before`
    the last good run where its data were others.

    `settings` are the form's fields; `checkpoint` with its label map is where a config starts for which the last good run has no weights.
    """
    manifest = read_manifest(dataset.manifest)
    files = {Path(config).stem: find_config(config) for config in configs}
    ingredients = Ingredients(
        data={"name": manifest.name, "digest": manifest.digest},
        configs={name: hashlib.sha256(read_bytes(file)).hexdigest() for name, file in files.items()},
        settings={name: value for name, value in settings.items() if value}
        | ({"start_from": "last_good_run"} if from_last_good_run else {}),
        code=code(),
    )
    last = last_good_run(schedule)
    changes = ingredients.differences(last.ingredients) if last else [_NO_GOOD_RUN]
    # A person who clears the tasks of the last good run wants them to run again.
    again = last is not None and last.run.root == run.root
    if last and not (changes or force or again):
        reason = f"nothing has changed since {last.run.name}, the last good run: the same data, configs, settings and code"
        print(f"{reason}\n  to train all the same: trigger the DAG with `force`", flush=True)
        return StepResult("recall", "skipped", {"run": str(last.run.root)}, {"reason": reason})
    reason = "; ".join(changes) or ("this is the last good run" if again else "forced")
    print(f"there is something to train: {reason}", flush=True)
    starts = {name: _start(name, last, settings, from_last_good_run) for name in files}
    keep_ingredients(run, ingredients)
    before = str(last.run.root) if last and not again and last.ingredients.data != ingredients.data else ""
    return StepResult("recall", "done", {"run": str(run.root)}, {"reason": reason, "starts": starts, "before": before})


def _start(config: str, last: LastGoodRun | None, settings: Mapping[str, str], from_last_good_run: bool) -> dict[str, str]:
    """`checkpoint` and its `label_map`; says where it is not what was wished for."""
    fallback = {"checkpoint": settings.get("checkpoint", ""), "label_map": settings.get("checkpoint_label_map", "")}
    otherwise = f"from {fallback['checkpoint']}" if fallback["checkpoint"] else "from scratch"
    if not from_last_good_run:
        print(f"{config} starts {otherwise}", flush=True)
        return fallback
    # Of a config that was trained with several seeds, any will do: the first.
    trained = [last.run.model(config), *map(ModelDir, sorted(last.run.root.glob(f"{config}-seed*")))] if last else []
    model = next((one for one in trained if one.root.is_dir() and checkpoint_to_start_from(one.root) is not None), None)
    if model is not None:
        print(f"{config} starts from the weights of the last good run, {model.root}", flush=True)
        return {"checkpoint": str(model.root), "label_map": ""}
    why = f"the last good run did not train {config}" if last else _NO_GOOD_RUN
    print(f"{config} starts {otherwise}: {why}", flush=True)
    return fallback
