"""What a project's weights say of themselves."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.adoption.project import Opened
from tasks.adoption.project_folder import Weights
from tasks.checkpoints.reader import stored_variables
from tasks.checkpoints.training_state import has_optimizer_state, step_in
from tasks.running.errors import UserError


def opened(weights: Sequence[Weights], network: str) -> tuple[list[Opened], list[str]]:
    """Those that can be read as a network's, in their order, and what is wrong with the others."""
    found, faults = [], []
    for one in weights:
        try:
            with stored_variables(one.path, network) as stored:
                found.append(Opened(one, dict(stored.shapes), step_in(stored), has_optimizer_state(stored)))
        except UserError as error:
            faults.append(error.message)
    return found, faults
