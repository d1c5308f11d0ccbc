"""`python -m tests.parity.report`: every deviation from the original as a table in docs/parity.md; fails when one exceeds its tolerance.

Other reference files can be given; they say themselves of which network, image size and seed they are, and are told, not written down.
`--image-size` and `--seed` choose among them. Usual runtime: 5 minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tasks.workspace import write_text
from tests.parity.deviation import EXACT, TOLERANCES, Deviation
from tests.parity.inference import inference_deviations
from tests.parity.operations import operation_deviations
from tests.parity.reference import REFERENCES, SCOPES, Reference
from tests.parity.training import training_deviations

TABLE = Path(__file__).parents[2] / "docs" / "parity.md"
KINDS = [kind for kind in TOLERANCES if kind != EXACT]
HEAD = f"""# Deviations from the original

Written by `make parity`, with TensorFlow {tf.__version__} on CPU.

The zoo's models, built from their `pipeline.config` files, against tensors of the original's own TF1 graph under the same weights.
Outputs: the largest absolute difference over the tensor's standard deviation, of all stored values and, for the tensor as a whole, of
its mean, standard deviation, minimum, maximum and mean absolute value. Losses and gradients: relative, the gradients' over all variables
together. Counts, shapes and variables must be equal. `block4` of the first stage, which the original builds and never uses, is left out.

After an optimizer step there are no stored proposals to feed. For a crop that ends at the image's border, the last bit of a coordinate
decides whether its last row is features or zeros, in the original as here: where a remark says so, the losses are those with one or a
few such crops rounded the other way, by moving the named coordinate by so many units in the last place. One bit so brings three losses
from 1e-3 to 1e-6.

What remains after steps is mostly the original's own: TensorFlow's CPU kernel for the gradient of crops adds from several threads without
a lock and loses some of it, 2e-3 of that gradient between two runs. Ours does not use it.

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


def summary(tables: dict[str, list[Deviation]]) -> str:
    """The worst deviation of each kind, a line per file."""
    head = [f"{kind} ({TOLERANCES[kind]:.0e})" for kind in KINDS]
    lines = [f"| reference | {' | '.join(head)} | hold |", "|---" * (len(KINDS) + 2) + "|"]
    for title, rows in tables.items():
        found = {kind: [row.deviation for row in rows if row.kind == kind] for kind in KINDS}
        worst = [f"{max(found[kind]):.1e}" if found[kind] else "" for kind in KINDS]
        lines.append(f"| {title} | {' | '.join(worst)} | {sum(row.holds for row in rows)} of {len(rows)} |")
    return "\n".join([*lines, ""])


def deviations(path: Path) -> tuple[str, list[Deviation]]:
    """Title and rows of a reference file."""
    if "meta" not in np.load(path):
        return "operations", list(operation_deviations(path))
    reference = Reference(path)
    rows = [*inference_deviations(reference), *training_deviations(reference)]
    rows.append(Deviation("arrays that are not compared", float(len(reference.uncompared())), EXACT))
    return f"{reference.name}, {_image_size(reference)}, seed {reference.seed}", rows


def main(arguments: Sequence[str]) -> int:
    """The number of rows that do not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity.report", description="Compare the models with the original's tensors.")
    parser.add_argument("files", nargs="*", type=Path, help="reference files; otherwise the project's own, written to docs/parity.md")
    parser.add_argument("--image-size", metavar="HEIGHTxWIDTH", help="only the files with images of this size")
    parser.add_argument("--seed", type=int, help="only the files with weights of this seed")
    options = parser.parse_args(arguments)
    own = [REFERENCES / "ops.npz", *(REFERENCES / f"{name}_small.npz" for name in SCOPES)]
    for path in options.files:
        if not path.is_file():
            parser.error(f"{path} does not exist")
    chosen = [path for path in options.files or own if _is_wanted(path, options.image_size, options.seed)]
    if not chosen:
        parser.error("no reference file is of that image size and seed: the tensors are the original's, and cannot be computed here")
    tables = {}
    for path in chosen:
        # The original's tensors were made on a CPU, too.
        with tf.device("CPU"):
            title, rows = deviations(path)
        tables[title] = rows
        print(section(title, rows), flush=True)
    print(summary(tables))
    if chosen == own:
        sections = "\n".join(section(title, rows) for title, rows in tables.items())
        write_text(TABLE, HEAD + summary(tables) + "\n" + sections)
    return sum(not row.holds for rows in tables.values() for row in rows)


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
