"""Stands in for the trainer's command line: keeps every command it is given and answers with names of files.

FAKE_TRAINER_FAILS   `STEP WORD CODE`: a command of that step with that word in an argument ends with that code
FAKE_TRAINER_WAITS   a file; the step says "waiting" and waits until it exists
FAKE_TRAINER_DEAF    set: SIGTERM is ignored
FAKE_TRAINER_TELLS   names of variables, with spaces between: printed with their values, as a careless library might
FAKE_TRAINER_REAL    a trainer's command: the steps that need no TensorFlow are its own
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

WORKSPACE = Path(os.environ["MASKLINE_WORKSPACE"])
HOURS = {"inception_v2": 0.5, "resnet50": 1.0, "resnet101": 2.0, "inception_resnet_v2": 3.0}
"""That trainings are planned to take, by backbone."""
REAL_STEPS = ("preflight", "materialize", "recall", "remember")


def outputs(step: str, arguments: list[str]) -> dict[str, str]:
    options = dict(itertools.pairwise(arguments))
    first = arguments[0]
    return {
        "preflight": {},
        "recall": {"run": arguments[1]} if step == "recall" else {},
        "remember": {"run": arguments[1]} if step == "remember" else {},
        "materialize": {"dataset": f"{WORKSPACE}/datasets/fake"},
        "open-run": {"run": first},
        "convert": {"model": options.get("--output", "")},
        "plan": {"model": options.get("--output", ""), "plan": f"{options.get('--output', '')}/plan.json"},
        "train": {"model": first, "checkpoint": f"{first}/train/ckpt-1"},
        "evaluate": {"model": first, "metrics": f"{first}/evaluation/metrics.json"},
        "compare": {"markdown": f"{first}/compare/comparison.md"},
        "nominate": {"model": first},
        "promote": {},
        "reassess": {"history": f"{WORKSPACE}/promotions/fake/reassessments.jsonl"},
    }[step]


def told(step: str, arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """The status and the summary. The data is new once; a schedule has nothing to train where its workspace says so."""
    if step == "materialize":
        seen = WORKSPACE / "materialized"
        whole = "--shard-range" not in arguments
        changed = whole and not seen.exists()
        if whole:
            seen.touch()
            (WORKSPACE / "datasets" / "fake").mkdir(parents=True, exist_ok=True)
        return "done" if changed else "skipped", {"name": "fake", "digest": "d" * 64, "changed": changed, "images": {"train": 3}}
    if step == "recall":
        if (WORKSPACE / "nothing_new").exists():
            return "skipped", {"reason": "nothing has changed"}
        configs = [value for name, value in itertools.pairwise(arguments) if name == "--config"]
        return "done", {
            "reason": "new",
            "before": "/last/run",
            "starts": {name: {"checkpoint": f"/last/{name}", "label_map": ""} for name in configs},
        }
    if step == "nominate":
        return "done", {"config": Path(arguments[0]).name, "split": "test", "policy": "configs/promotion.yaml"}
    if step == "reassess":
        if (WORKSPACE / "no_champion").exists():
            return "skipped", {"name": "fake", "fell": False, "sentence": "there is no champion yet"}
        fell = (WORKSPACE / "fallen").exists()
        sentence = "mask AP 0.5000 -> 0.3000 (-0.2000, -0.2500 to -0.1500): it has fallen by more than 0.02" if fell else "it holds"
        about = {"name": "fake", "version": 7, "config": "m", "drift": ["val, objects by size: distance 0.30"] if fell else []}
        return "done", {**about, "fell": fell, "sentence": sentence, "mlflow_url": "http://mlflow.example/reassess"}
    if step == "promote":
        return promoted(arguments)
    summary: dict[str, Any] = {} if step in ("preflight", "remember") else {"mlflow_url": f"http://mlflow.example/{step}"}
    if step == "plan":
        summary["hours"] = HOURS[arguments[0].removeprefix("mask_rcnn_").removesuffix("_coco").removesuffix("_atrous")]
    if step == "compare":
        summary |= {
            "best": "mask_rcnn_inception_v2_coco",
            "mask_ap": 0.5,
            "mlflow_run_id": "parent",
            "page_url": "http://mlflow.example/page",
        }
    return "done", summary


def promoted(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Of a model called `weak` a rule fails, and `moved` is refused only when it is decided on; `champion` is it already."""
    name = Path(arguments[0]).name
    passed = name != "weak" and not (name == "moved" and "--gate" not in arguments)
    rules = {"least_ap": {"passed": passed, "evidence": "mask AP is 0.4000, at least 0.1 is asked"}}
    told = {"name": "fake", "version": 7, "config": name, "champion_before": 3, "rules": rules, "passed": passed, "decision": None}
    if name == "champion":
        return "skipped", told
    if "--decline" in arguments:
        return "refused", told | {"decision": "declined"}
    if not passed:
        return "refused", told | {"decision": "refused"}
    return ("checked", told) if "--gate" in arguments else ("done", told | {"decision": "promoted"})


def main() -> int:
    step, *arguments = sys.argv[1:]
    if os.environ.get("FAKE_TRAINER_DEAF"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    kept = {"command": [step, *arguments], "environment": dict(os.environ), "pid": os.getpid()}
    with (WORKSPACE / "commands.jsonl").open("a") as stream:
        stream.write(json.dumps(kept) + "\n")
    for name in os.environ.get("FAKE_TRAINER_TELLS", "").split():
        print(f"told {name}: {os.environ[name]}", flush=True)
    if awaited := os.environ.get("FAKE_TRAINER_WAITS"):
        print("waiting", flush=True)
        while not Path(awaited).exists():
            time.sleep(0.02)
    if failure := os.environ.get("FAKE_TRAINER_FAILS"):
        failing_step, word, code = failure.split()
        if step == failing_step and any(word in argument for argument in arguments):
            print(f"error: {word} is broken\n  fix: mend it", file=sys.stderr)
            return int(code)
    if (real := os.environ.get("FAKE_TRAINER_REAL")) and step in REAL_STEPS:
        trainer = shlex.split(real)
        os.execv(trainer[0], [*trainer, step, *arguments])
    answer = outputs(step, arguments)
    if step == "compare":
        Path(answer["markdown"]).parent.mkdir(parents=True, exist_ok=True)
        Path(answer["markdown"]).write_text("| config | mask AP |\n")
    result = Path(arguments[arguments.index("--result") + 1])
    status, summary = told(step, arguments)
    result.write_text(json.dumps({"step": step, "status": status, "outputs": answer, "summary": summary}))
    print(f"{step}: {status}")
    return 3 if status == "refused" and "--decline" not in arguments else 0


if __name__ == "__main__":
    sys.exit(main())
