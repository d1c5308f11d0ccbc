"""Stands in for the trainer's command line: keeps every command it is given and answers with names of files.

FAKE_TRAINER_FAILS   `STEP WORD CODE`: a command of that step with that word in an argument ends with that code
FAKE_TRAINER_WAITS   a file; the step says "waiting" and waits until it exists
FAKE_TRAINER_DEAF    set: SIGTERM is ignored
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path

WORKSPACE = Path(os.environ["MASKLINE_WORKSPACE"])


def outputs(step: str, arguments: list[str]) -> dict[str, str]:
    options = dict(itertools.pairwise(arguments))
    first = arguments[0]
    return {
        "preflight": {},
        "materialize": {"dataset": f"{WORKSPACE}/datasets/fake"},
        "open-run": {"run": first},
        "convert": {"model": options.get("--output", "")},
        "train": {"model": first, "checkpoint": f"{first}/train/ckpt-1"},
        "evaluate": {"model": first, "metrics": f"{first}/evaluation/metrics.json"},
        "compare": {"markdown": f"{first}/compare/comparison.md"},
    }[step]


def main() -> int:
    step, *arguments = sys.argv[1:]
    if os.environ.get("FAKE_TRAINER_DEAF"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    kept = {"command": [step, *arguments], "environment": dict(os.environ), "pid": os.getpid()}
    with (WORKSPACE / "commands.jsonl").open("a") as stream:
        stream.write(json.dumps(kept) + "\n")
    if awaited := os.environ.get("FAKE_TRAINER_WAITS"):
        print("waiting", flush=True)
        while not Path(awaited).exists():
            time.sleep(0.02)
    if failure := os.environ.get("FAKE_TRAINER_FAILS"):
        failing_step, word, code = failure.split()
        if step == failing_step and any(word in argument for argument in arguments):
            print(f"error: {word} is broken\n  fix: mend it", file=sys.stderr)
            return int(code)
    answer = outputs(step, arguments)
    if step == "compare":
        Path(answer["markdown"]).parent.mkdir(parents=True, exist_ok=True)
        Path(answer["markdown"]).write_text("| config | mask AP |\n")
    summary = {} if step in ("preflight", "materialize") else {"mlflow_url": f"http://mlflow.example/{step}"}
    result = Path(arguments[arguments.index("--result") + 1])
    result.write_text(json.dumps({"step": step, "status": "done", "outputs": answer, "summary": summary}))
    print(f"{step}: done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
