"""The step that makes a finished run the last good one of its schedule.

    maskline remember SCHEDULE RUN_DIR

`recall` compares the next run with it, and finds the weights in its folder. Usual runtime: under a second.
"""

from __future__ import annotations

from tasks.running.schedule_memory import remember_run
from tasks.running.workspace import RunDir, StepResult, schedule_file


def remember(schedule: str, run: RunDir) -> StepResult:
    """UserError where `recall` was not asked about the run before."""
    remember_run(schedule, run)
    return StepResult("remember", "done", {"run": str(run.root), "memory": str(schedule_file(schedule))}, {"schedule": schedule})
