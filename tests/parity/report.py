"""`python -m tests.parity.report`: every deviation from the original as a table in docs/parity.md; fails when one exceeds its tolerance.

Other reference files can be given as arguments; the image, its size and the seed are the file's own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.workspace import write_text
from tests.parity.comparison import REFERENCES, SCOPES, Deviation, Reference, inference_deviations, training_deviations

TABLE = Path(__file__).parents[2] / "docs" / "parity.md"
HEAD = """# Deviations from the original

Written by `make parity`. Outputs: largest absolute difference over the tensor's standard deviation. Losses and gradients: relative.

"""


def section(reference: Reference) -> tuple[str, list[Deviation]]:
    """The Markdown table of one reference file, and its rows."""
    rows = [*inference_deviations(reference), *training_deviations(reference)]
    lines = [f"| {row.tensor} | {row.deviation:.1e} | {row.tolerance:.0e} | {'yes' if row.holds else '**no**'} |" for row in rows]
    image = "{height} x {width}".format(**reference.meta)
    title = f"## {reference.name}, {image}, seed {reference.seed}"
    return "\n".join([title, "", "| tensor | deviation | tolerance | holds |", "|---|---|---|---|", *lines, ""]), rows


def main(paths: list[str]) -> int:
    """Writes the table; the number of rows that do not hold comes back."""
    chosen = [Path(path) for path in paths] or [REFERENCES / f"{name}_small.npz" for name in SCOPES]
    sections, failures = [], 0
    for path in chosen:
        text, rows = section(Reference(path))
        sections.append(text)
        failures += sum(not row.holds for row in rows)
        print(text, flush=True)
    if not paths:
        write_text(TABLE, HEAD + "\n".join(sections))
    return failures


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
