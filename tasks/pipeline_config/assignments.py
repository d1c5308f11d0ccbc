"""Which fields are set in which config: `PATH=VALUE` in each, `CONFIG: PATH=VALUE` in the config of that name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks.pipeline_config.fields import nearest
from tasks.pipeline_config.zoo import zoo_configs
from tasks.running.errors import UserError


def assignments_of(name: str, assignments: Iterable[str], others: Sequence[str] = ()) -> list[str]:
    """What is set in the config `name`, as `PATH=VALUE`, in order; later ones win.

    UserError, with the nearest name, for a config that is neither this one, nor one of `others`, nor one of the zoo's.
    """
    known = sorted({name, *others, *zoo_configs()})
    chosen = []
    for assignment in assignments:
        before, separator, value = assignment.partition("=")
        config, colon, path = before.rpartition(":")
        config = config.strip()
        if not colon:
            chosen.append(assignment)
        elif config not in known:
            raise UserError(f"--set {assignment}: there is no config {config}", nearest(config, known))
        elif config == name:
            chosen.append(f"{path.strip()}{separator}{value}")
    return chosen
