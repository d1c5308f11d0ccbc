"""The step that gives the champion's place back to the version before it.

    maskline rollback NAME --reason TEXT [--approved-by NAME]

NAME is the registered model's, by default the dataset's name. The alias `champion` moves to the version that is `previous`, and `previous`
to the one whose place that had taken, so that a second rollback goes one further back. No rule is asked: a champion that fails has to go at
once. It is appended to the ledger, as `promote` does it. Usual runtime: five seconds.
"""

from __future__ import annotations

from tasks.promotion import ledger
from tasks.running.errors import UserError
from tasks.running.workspace import StepResult
from tasks.tracking.registry import CHAMPION, PREVIOUS, REPLACED, Registry

_WAIT_SECONDS = 60.0


def rollback(name: str, by: str, reason: str) -> StepResult:
    """Moves both aliases back. UserError where there is no version before the champion."""
    registry = Registry(name)
    with registry.locked(_WAIT_SECONDS):
        champion, previous = registry.alias(CHAMPION), registry.alias(PREVIOUS)
        if champion is None or previous is None or previous.number == champion.number:
            raise UserError(
                f"{name} has no version before its champion" if champion else f"{name} has no champion",
                "promote the version that is to be it",
            )
        before = previous.tags.get(REPLACED)
        earlier = registry.version(int(before)) if before else None
        entry = ledger.decision(ledger.ROLLED_BACK, previous, champion, by, reason)
        ledger.append(entry)
        try:
            registry.move(previous, earlier)
        except BaseException as error:
            ledger.append({**entry, "decision": ledger.FAILED, "error": f"{type(error).__name__}: {error}"})
            raise
    page = ledger.show_in_mlflow(registry, entry)
    print(f"rolled back: {previous} is the champion of {name} again, and no longer {champion}")
    return StepResult(
        "rollback",
        "done",
        {"ledger": str(ledger.ledger_file(name))},
        {
            "name": name,
            "version": previous.number,
            "champion": previous.number,
            "champion_before": champion.number,
            "previous": earlier and earlier.number,
            "mlflow_url": page,
        },
    )
