"""The step that says what corrected labels gained: a model from before and one from after, on the same images, by the same labels.

    maskline regrade BEFORE_RUN_OR_MODEL_DIR AFTER_RUN_OR_MODEL_DIR [--split test] [--output FOLDER]

Figures by different labels cannot be compared: a model may look better because the labels of the validation images became right, and not
because it learnt more. So the stored detections of the model from before are graded anew by the labels that the other was evaluated by,
on the images that both have; no network runs. Told are how the labels differ, what that alone does to the figure of the model from before,
and a verdict on the two models, by a paired bootstrap over the images. Of two runs each model is held against that of the same name. With
`--output` that is in the folder's `regraded.json`, too. Usual runtime: a second for 100 images, and ten for the verdict on
5,000.
"""

from __future__ import annotations

from pathlib import Path

from tasks.annotations.split_names import TEST, VAL, split_meaning
from tasks.data_queue.gain import gains
from tasks.running.errors import UserError
from tasks.running.workspace import StepResult, write_json

FORMAT_VERSION = 1


def regrade(before: Path, after: Path, split: str = VAL, output: Path | None = None) -> StepResult:
    """Says what the model in the second folder is better by on its own labels, or each model of a run.

    UserError where the two have no image or no class in common, and for runs without models of the same names.
    """
    meaning = split_meaning(split)
    if meaning not in (VAL, TEST):
        raise UserError(f"--split is {split!r}", "use val or test, whichever the models were evaluated on")
    told, alone = gains(before, after, meaning)
    print("\n\n".join("\n".join(one["sentences"]) for one in told))
    if alone:
        print(f"left out: {', '.join(alone)}, which one of the two alone has", flush=True)
    outputs = {}
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "regraded.json", {"format_version": FORMAT_VERSION, "models": told})
        outputs["regraded"] = str(output / "regraded.json")
    names = ("before", "after", "before_by_old_labels", "before_by_new_labels", "after_by_new_labels", "labels", "shown", "sentences")
    return StepResult("regrade", "done", outputs, {"models": [{name: one[name] for name in names} for one in told]})
