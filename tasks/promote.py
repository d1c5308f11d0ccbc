"""The step that makes an evaluated model the champion of its dataset, if it shows what the policy asks for.

    maskline promote RUN_DIR|MODEL_DIR --reason TEXT [--approved-by NAME --policy FILE]
    maskline promote RUN_DIR|MODEL_DIR --dry-run
    maskline promote RUN_DIR|MODEL_DIR --gate --reason TEXT
    maskline promote RUN_DIR|MODEL_DIR --decline --reason TEXT

Of a pipeline run it takes the model that `compare` found highest. Reads the evaluation on the policy's split, the stored matches of that
and of the champion, and MLflow's registry; prints every rule with its ruling and what it rests on. Only if all hold the alias `champion`
moves, and the earlier champion becomes `previous`. What was decided is appended to the ledger,
`WORKSPACE/promotions/NAME/ledger.jsonl`, and is a run of the MLflow experiment `NAME promotions`.

`--dry-run` decides nothing; `--gate` refuses where a rule fails, and leaves the rest to a person; `--decline` records that a person keeps
the champion, or that nobody has answered. Usual runtime: a minute; with 5,000 images five; and an
evaluation more where the champion was not measured on these records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.annotations.split_names import TEST
from tasks.coco.matches import read_matches
from tasks.evaluation.results import MATCHES
from tasks.promotion import ledger
from tasks.promotion.baseline import keep_baseline
from tasks.promotion.candidate import candidate_in
from tasks.promotion.champion import measured_champion
from tasks.promotion.policy import Policy
from tasks.promotion.rules import Challenger, Measured, Ruling, rulings
from tasks.records.manifest import read_manifest
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, ModelDir, StepResult, read_json, read_settings
from tasks.tracking.registry import CHAMPION, PREVIOUS, REPLACED, Registry, Version, registered_name

_WAIT_SECONDS = 60.0
"""As long somebody else who moves the champion is waited for."""
_UNCHANGED = "champion_unchanged"


@dataclass(frozen=True)
class Approval:
    """Who decides, and why."""

    by: str
    reason: str
    declines: bool = False
    """Whether the person keeps the champion, whatever the rules say"""
    only_refuses: bool = False
    """Whether nothing is decided where the rules hold: that is left to somebody else"""


def promote(target: Path, policy: Policy, approval: Approval | None, name: str = "") -> StepResult:
    """Judges the model in `target`, and with an `approval` decides; `status` is `done`, `refused`, `skipped` (it is the champion already),
    or, where nothing was decided, `checked`.

    `name` is of the registered model, by default the dataset's. UserError where something is missing that the policy asks for.
    """
    model = candidate_in(target)
    evaluation = model.test_evaluation if policy.split == TEST else model.evaluation
    if not (evaluation / "metrics.json").is_file():
        raise UserError(f"{model.root} was not evaluated on the split {policy.split}", _evaluate(model, policy))
    metrics, matches = read_json(evaluation / "metrics.json"), read_matches(evaluation / MATCHES)
    if matches.about.get("checkpoint_digest") != metrics.get("checkpoint_digest"):
        raise UserError(f"{evaluation}: matches and metrics are of different checkpoints", _evaluate(model, policy))
    registry = Registry(name or registered_name(metrics["dataset"]))
    version = registry.with_checkpoint(metrics["checkpoint_digest"])
    if version is None:
        raise UserError(
            f"MLflow has no version of {registry.name} with the checkpoint {metrics['checkpoint']}",
            f"register it: {_evaluate(model, policy)}; or send what waits: `maskline sync {model.root}`",
        )
    champion = registry.alias(CHAMPION)
    if champion is not None and champion.number == version.number:
        print(f"{version} of {registry.name} is the champion already")
        return _answer("skipped", registry, version, champion, [], None)
    theirs = measured_champion(registry, champion, model, matches, policy.split) if champion else None
    decided = sum(one.get("dataset_digest") == metrics["dataset_digest"] for one in ledger.decisions(registry.name))
    challenger = Challenger(version, matches, metrics, _records_now(model), registry.content_digest(version), decided)
    found = rulings(policy, challenger, theirs)
    _print(registry, challenger, theirs, found)
    if approval is None or (approval.only_refuses and all(one.passed for one in found)):
        return _answer("checked", registry, version, champion, found, None)
    return _decided(model, registry, challenger, champion, found, policy, approval)


def _decided(
    model: ModelDir,
    registry: Registry,
    challenger: Challenger,
    champion: Version | None,
    found: list[Ruling],
    policy: Policy,
    approval: Approval,
) -> StepResult:
    """Moves the aliases if all rules hold, and writes down what was decided."""
    version = challenger.version

    def decision(kind: str, **more: Any) -> ledger.Decision:
        about = {"dataset_digest": challenger.metrics["dataset_digest"], "split": challenger.metrics["split"], **more}
        return ledger.decision(kind, version, champion, approval.by, approval.reason, policy, found, **about)

    kind = ledger.DECLINED if approval.declines else ledger.PROMOTED if all(one.passed for one in found) else ledger.REFUSED
    if kind != ledger.PROMOTED:
        entry = decision(kind)
        ledger.append(entry)
    else:
        with registry.locked(_WAIT_SECONDS):
            if (now := registry.alias(CHAMPION)) != champion:
                found.append(_moved(champion, now))
                entry = decision(kind := ledger.REFUSED)
                ledger.append(entry)
            else:
                keep_baseline(version, challenger.matches, _manifest(model))
                # First, so that no champion is without an entry; one that was not made after all says so below it.
                entry = decision(kind)
                ledger.append(entry)
                try:
                    registry.tag(version, **{REPLACED: str(champion.number) if champion else ""})
                    registry.move(version, champion)
                except BaseException as error:
                    ledger.append(decision(ledger.FAILED, error=f"{type(error).__name__}: {error}"))
                    raise
    page = ledger.show_in_mlflow(registry, entry)
    _tell(kind, registry, version, champion, found)
    return _answer("done" if kind == ledger.PROMOTED else "refused", registry, version, champion, found, entry, page)


def _moved(before: Version | None, now: Version | None) -> Ruling:
    evidence = f"the champion was {before or 'nobody'} when the models were compared, and is {now or 'nobody'} now: compare with that one"
    return Ruling(_UNCHANGED, False, evidence)


def _evaluate(model: ModelDir, policy: Policy) -> str:
    return f"maskline evaluate {model.root} --split {policy.split}"


def _manifest(model: ModelDir) -> Path | None:
    """The manifest of the dataset that the model reads, where it has one."""
    experiment = read_settings(model.train / "experiment.yaml")
    manifest = DatasetDir(Path(experiment["task"]["validation_data"]["label_map_path"]).parent).manifest
    return manifest if manifest.is_file() else None


def _records_now(model: ModelDir) -> str | None:
    """The digest of the dataset that the model reads, as it lies there now; None where no manifest tells."""
    manifest = _manifest(model)
    return read_manifest(manifest).digest if manifest is not None else None


def _print(registry: Registry, challenger: Challenger, champion: Measured | None, found: Sequence[Ruling]) -> None:
    against = f"beside the champion, {champion.version}" if champion else "there is no champion yet"
    print(f"{challenger.version} of {registry.name}, {against}")
    table = Table("rule", "", "evidence")
    for one in found:
        table.add_row(one.rule, "holds" if one.passed else "FAILS", one.evidence)
    Console().print(table)


def _tell(kind: str, registry: Registry, version: Version, champion: Version | None, found: Sequence[Ruling]) -> None:
    failed = [one.rule for one in found if not one.passed]
    if kind == ledger.PROMOTED:
        before = f"; before it {champion}, now `{PREVIOUS}`" if champion else ""
        print(f"promoted: {version} is the champion of {registry.name}{before}")
    elif kind == ledger.DECLINED:
        print(f"declined: the champion of {registry.name} stays")
    else:
        print(f"refused: {', '.join(failed)} {'fail' if len(failed) > 1 else 'fails'}; the champion of {registry.name} stays")
    if found and found[-1].rule == _UNCHANGED:
        print(f"  {found[-1].evidence}")


def _answer(
    status: str,
    registry: Registry,
    version: Version,
    champion: Version | None,
    found: Sequence[Ruling],
    entry: ledger.Decision | None,
    page: str | None = None,
) -> StepResult:
    is_champion = status in ("done", "skipped")
    return StepResult(
        "promote",
        status,
        {"ledger": str(ledger.ledger_file(registry.name))} if entry else {},
        {
            "name": registry.name,
            "version": version.number,
            "config": version.tags.get("config"),
            "model": f"models:/{registry.name}/{version.number}",
            "decision": entry and entry["decision"],
            "passed": all(one.passed for one in found),
            "champion": version.number if is_champion else champion and champion.number,
            "champion_before": champion and champion.number,
            "rules": {one.rule: {"passed": one.passed, "evidence": one.evidence} for one in found},
            "mlflow_url": page,
        },
    )
