"""The step that looks for mistakes in a config before anything runs.

    maskline lint CONFIG [--dataset DATASET_DIR] [--strict]

CONFIG is the name of a zoo config or the path of a pipeline.config; with a dataset, its records and label map stand for the
config's own. Prints the findings, each with its place in the file and its code, and writes nothing. Usual runtime: under a
second, or ten where the config names a checkpoint, which takes TensorFlow to look into.
"""

from __future__ import annotations

from tasks.pipeline_config.dataset_records import records_of
from tasks.pipeline_config.edits import read_records
from tasks.pipeline_config.evidence import gather
from tasks.pipeline_config.fields import OtherFamilyError
from tasks.pipeline_config.lint import ERROR, OTHER_FAMILY, UNREADABLE, WARNING, Finding, lint
from tasks.pipeline_config.overwritten import overwritten
from tasks.pipeline_config.parser import located, odd_encoding, parse_pipeline_config, read_text
from tasks.pipeline_config.refusals import refusals
from tasks.pipeline_config.zoo import find_config
from tasks.records.manifest import read_manifest
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, StepResult


def lint_config(config: str, dataset: DatasetDir | None = None) -> StepResult:
    """Prints the findings; the summary has the codes of `errors` and `warnings`, once per finding.

    Raises UserError for a text that is no config, under its code, and for a dataset that is not there.
    """
    file = find_config(config)
    try:
        text = read_text(file)
        refused: list[UserError] = []
        parsed = parse_pipeline_config(text, str(file), refused)
    except UserError as error:
        if not isinstance(error.__cause__, OtherFamilyError):
            raise UserError(f"{UNREADABLE} {error.message}", error.fix) from error
        print(f"{ERROR} {OTHER_FAMILY} {error}")
        return StepResult("lint", "done", {}, {"config": file.stem, "errors": [OTHER_FAMILY], "warnings": []})
    if dataset is not None:
        parsed, _ = read_records(parsed, records_of(dataset, read_manifest(dataset.manifest)))
    said = (*odd_encoding(file), *overwritten(text))
    findings = lint(gather(parsed, file.stem, (*refused, *refusals(parsed, file.stem, with_dataset=dataset is not None)), said))
    for finding in findings:
        print(f"{finding.check.severity} {finding.check.code} {located(finding.error, text, str(file))}")
    return StepResult("lint", "done", {}, {"config": file.stem, "errors": _codes(findings, ERROR), "warnings": _codes(findings, WARNING)})


def _codes(findings: list[Finding], severity: str) -> list[str]:
    return [finding.check.code for finding in findings if finding.check.severity == severity]
