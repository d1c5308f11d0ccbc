"""The step that finds which model a promotion is about, and on which split a policy wants it measured.

    maskline nominate RUN_DIR|MODEL_DIR [--policy FILE]

Of a pipeline run it takes the model that `compare` found highest. What `promote` would refuse of either only after an evaluation is refused
here. Usual runtime: a second.
"""

from __future__ import annotations

from pathlib import Path

from tasks.promotion.candidate import candidate_in
from tasks.promotion.policy import Policy
from tasks.running.errors import UserError
from tasks.running.workspace import StepResult


def nominate(target: Path, policy: Policy) -> StepResult:
    """The output `model` is the folder of the model, the summary's `split` the one whose figures count."""
    model = candidate_in(target)
    if not model.train.is_dir():
        raise UserError(f"{model.root} was not trained", f"train it: maskline train {model.root}")
    print(f"{model.root} is judged by {policy.file}, on the split {policy.split}")
    return StepResult("nominate", "done", {"model": str(model.root)}, {"config": model.name, "split": policy.split, "policy": policy.file})
