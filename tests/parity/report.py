"""`python -m tests.parity.report`: every deviation from the original as a table in docs/parity.md; fails when one exceeds its tolerance.

Other reference files can be given; they say themselves of which network, image size and seed they are, and are told, not written down.
`--image-size` and `--seed` choose among them. Usual runtime: 15 minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tasks.running.workspace import write_text
from tests.parity.deviation import EXACT, TOLERANCES, Deviation
from tests.parity.inference import inference_deviations
from tests.parity.operations import operation_deviations
from tests.parity.reference import KERAS, REFERENCES, SCOPES, Reference
from tests.parity.settings import setting_deviations
from tests.parity.training import training_deviations

TABLE = Path(__file__).parents[2] / "docs" / "parity.md"
KINDS = [kind for kind in TOLERANCES if kind != EXACT]
HEAD = f"""# Deviations from the original

Written by `make parity`, with TensorFlow {tf.__version__} on CPU.

The zoo's models, built from their `pipeline.config` files, against tensors of the original's own graph under the same weights.
Outputs: the largest absolute difference over the tensor's standard deviation, of all stored values and, for the tensor as a whole, of
its mean, standard deviation, minimum, maximum and mean absolute value. Losses and gradients: relative, the gradients' over all variables
together. Counts, shapes and variables must be equal. `block4` of the first stage, which the original builds and never uses, is left out.
*operations* are single computations; *settings*, written by `tests/parity/references/original_settings.py`, what the original makes of
settings that the zoo does not use.

Files called *TF2* are of the original's TensorFlow 2 form, that of its Keras models (`faster_rcnn_resnet50_keras` and kin), run under
TensorFlow 2.12: the same tensors, layers of both stages, moving statistics after a step (the ResNets train their batch norm), and two short
trainings. *dynamic* is a training without `use_static_shapes`, *padded* an image that is padded to a square. Batch norm over one image
makes these numbers restless: the files tell how far each moves when every weight is disturbed by a millionth, and three times that is
tolerated where it is more than the tolerance. A training is followed as long as its losses move by less than a thousandth then: at the
zoo's own rates that is its beginning, at a rate of 1e-6 all three steps. Gradients of the one file with native crops
(inception_resnet_v2_mask) have the lost additions of several threads in them, see below, and are compared to that.

After an optimizer step there are no stored proposals to feed. For a crop that ends at the image's border, the last bit of a coordinate
decides whether its last row is features or zeros, in the original as here: where a remark says so, the losses are those with one or a
few such crops rounded the other way, by moving the named coordinate by so many units in the last place. One bit so brings three losses
from 1e-3 to 1e-6.

What remains after steps is mostly the original's own: TensorFlow's CPU kernel for the gradient of crops adds from several threads without
a lock and loses some of it, so that two runs of the original differ by up to 4.5e-3 of the total gradient norm and 2.5e-2 of single samples
(ResNet-50, 192 x 256). Ours does not use it. References that were made on one thread have no such loss, those on several may exceed a
tolerance for that reason alone; how many threads a reference was made on stands in the table, where its file tells.

## Where ours differs

- **Masks of padded images.** The original predicts a detection's mask on the padded feature map at a box that is relative to the image
  without its padding, so that with `pad_to_max_dimension` it looks beside the object; the less of the square the image fills, the farther.
  Ours looks where the box is. `convert --original-padded-masks` (`task.model.original_padded_masks` in `experiment.yaml`) gives the
  original's masks; the rows `padded` under *settings* compare them, and tell how far apart the two are. Without padding they are the same.
- **`random_square_crop_by_scale`**: the original drops the last row and column of the image, and of an odd window; ours keeps them. Masks
  were 8 to 15 % larger in a comparison of many draws.
- **`random_scale_crop_and_pad_to_square`**: the original interpolates masks, which leaves edges between 0 and 1; ours takes the nearest
  pixel, so that masks stay 0 or 1. They were 2 to 9 % smaller.
- **Equal scores** come in the original's order: by class, then by proposal. But sums of the same numbers in another order, as a softmax
  makes them, may be equal in one version of TensorFlow and not in the next.

No difference is `use_matmul_crop_and_resize`, which is honoured. It is no other way to the same crops: it lets a sample beyond the feature
map fade over one cell where the native crop is zero. The rows `crops` under *settings* tell how many samples that moves.

## All references

"""


def section(title: str, rows: list[Deviation]) -> str:
    """One file's table in Markdown, folded, with its worst row in front."""
    worst = max(rows, key=_share)
    lines = [
        f"| {row.tensor} | {row.deviation:.1e} | {row.tolerance:.0e} | {'yes' if row.holds else '**no**'} | {row.remark} |" for row in rows
    ]
    return "\n".join(
        [
            f"## {title}",
            "",
            f"{len(rows)} rows, {sum(row.holds for row in rows)} hold. Nearest to its tolerance: `{worst.tensor}`, "
            f"{worst.deviation:.1e} of {worst.tolerance:.0e}.",
            "",
            "<details><summary>All rows</summary>",
            "",
            "| tensor | deviation | tolerance | holds | remark |",
            "|---|---|---|---|---|",
            *lines,
            "",
            "</details>",
            "",
        ]
    )


class Table(NamedTuple):
    """What became of one reference file."""

    title: str
    threads: int | None
    """That the original ran on; None where the file does not tell"""
    rows: list[Deviation]


def summary(tables: list[Table]) -> str:
    """The worst deviation of each kind, a line per file."""
    head = [f"{kind} ({TOLERANCES[kind]:.0e})" for kind in KINDS]
    lines = [f"| reference | threads | {' | '.join(head)} | hold |", "|---" * (len(KINDS) + 3) + "|"]
    for title, threads, rows in tables:
        found = {kind: [row.deviation for row in rows if row.kind == kind] for kind in KINDS}
        worst = [f"{max(found[kind]):.1e}" if found[kind] else "" for kind in KINDS]
        lines.append(f"| {title} | {threads or ''} | {' | '.join(worst)} | {sum(row.holds for row in rows)} of {len(rows)} |")
    return "\n".join([*lines, ""])


def compared(path: Path) -> Table:
    """Everything that a reference file holds, against ours."""
    names = np.load(path).files
    if "padded/image" in names:
        return Table("settings", None, list(setting_deviations(path)))
    if "meta" not in names:
        return Table("operations", None, list(operation_deviations(path)))
    reference = Reference(path)
    rows = list(inference_deviations(reference)) if "infer_variables" in reference else []
    if "train_variables" in reference:
        rows += training_deviations(reference)
    rows.append(Deviation("arrays that are not compared", float(len(reference.uncompared())), EXACT))
    return Table(f"{reference.name}, {_image_size(reference)}, seed {reference.seed}", reference.meta.get("threads"), rows)


def main(arguments: Sequence[str]) -> int:
    """The number of rows that do not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity.report", description="Compare the models with the original's tensors.")
    parser.add_argument("files", nargs="*", type=Path, help="reference files; otherwise the project's own, written to docs/parity.md")
    parser.add_argument("--image-size", metavar="HEIGHTxWIDTH", help="only the files with images of this size")
    parser.add_argument("--seed", type=int, help="only the files with weights of this seed")
    options = parser.parse_args(arguments)
    own = [REFERENCES / "ops.npz", REFERENCES / "settings.npz", *(REFERENCES / f"{name}_small.npz" for name in SCOPES)]
    own += [REFERENCES / "tf2" / f"{name}_small.npz" for name in KERAS]
    for path in options.files:
        if not path.is_file():
            parser.error(f"{path} does not exist")
    chosen = [path for path in options.files or own if _is_wanted(path, options.image_size, options.seed)]
    if not chosen:
        parser.error("no reference file is of that image size and seed: the tensors are the original's, and cannot be computed here")
    tables = []
    for path in chosen:
        # The original's tensors were made on a CPU, too.
        with tf.device("CPU"):
            tables.append(compared(path))
        print(section(tables[-1].title, tables[-1].rows), flush=True)
    print(summary(tables))
    if chosen == own:
        sections = "\n".join(section(table.title, table.rows) for table in tables)
        write_text(TABLE, HEAD + summary(tables) + "\n" + sections)
    return sum(not row.holds for table in tables for row in table.rows)


def _share(row: Deviation) -> float:
    return row.deviation / row.tolerance if row.tolerance else np.inf * row.deviation if row.deviation else 0.0


def _image_size(reference: Reference) -> str:
    return f"{reference.meta['height']}x{reference.meta['width']}"


def _is_wanted(path: Path, image_size: str | None, seed: int | None) -> bool:
    """Whether a file is of the wanted image size and seed; where neither is named, any is."""
    if image_size is None and seed is None:
        return True
    if "meta" not in np.load(path):
        return False
    reference = Reference(path)
    return image_size in (None, _image_size(reference)) and seed in (None, reference.seed)


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
