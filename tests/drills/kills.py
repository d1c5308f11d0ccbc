"""A training is killed at random moments of all its stages, and started again each time."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.drills.drill import Bench, Drill, Found, verdict
from tests.drills.left import differences, unfinished
from tests.drills.processes import Process
from tests.drills.training import EVALUATE_EVERY, STEPS, TERMINATED, Training, Undisturbed, undisturbed

GRACE_SECONDS = 30.0
"""What `maskline train` gives itself from SIGTERM on, unless it is told otherwise"""
KILL, TERM = signal.SIGKILL, signal.SIGTERM
_EVALUATED = range(EVALUATE_EVERY, STEPS + 1, EVALUATE_EVERY)
_STARTED = "training from step"


class Stage(Enum):
    """Where in a training a signal has found the process."""

    START = "before its first step"
    STEPS = "among the steps"
    CHECKPOINT = "while a checkpoint was written"
    EVALUATION = "during an evaluation"
    END = "after the last evaluation"


@dataclass(frozen=True)
class Struck:
    """One signal, and what came of it."""

    number: signal.Signals
    stage: Stage
    step: int
    """The last one whose figures were written"""
    at: str
    """More exactly, for a person"""
    code: int
    seconds: float
    """Until the process had ended"""
    saved: int
    """The step of the newest checkpoint after it, 0 where there was none"""
    load: float = 1.0
    """How many processes there were meanwhile for each core, at least 1: so much slower than alone is each"""

    def __str__(self) -> str:
        load = f" (of {self.load:.0f} processes for each core)" if self.load >= 1.5 else ""
        end = f"ended with {self.code} after {self.seconds:.1f} s{load}, " if self.number == TERM else ""
        return f"{self.number.name} {self.at}; {end}newest checkpoint {self.saved or 'none'}"

    def problem(self) -> str | None:
        """What was not as promised; None where all was. SIGKILL promises nothing of the process."""
        if self.number != TERM:
            return None
        if self.code not in TERMINATED:
            return f"{self.at} SIGTERM ended with {self.code} and not 143"
        # The first loop of steps compiles; then there is nothing to lose.
        if self.stage is not Stage.START and self.seconds > GRACE_SECONDS * self.load:
            return f"{self.at} SIGTERM took {self.seconds:.0f} s, and {GRACE_SECONDS:.0f} are given"
        if self.stage is Stage.STEPS and self.saved < self.step:
            return f"{self.at} SIGTERM kept the checkpoint of step {self.saved} and not that of step {self.step}"
        return None


@dataclass(frozen=True)
class Strike:
    """A signal that is to be sent in a stage: when some step is reached, and a share of the stage's usual time has passed."""

    stage: Stage
    number: signal.Signals
    step: int
    share: float


def _kill(strikes: Callable[[Bench], Sequence[Strike]]) -> Callable[[Bench], Found]:
    """A drill that sends signals one after the other to one training, and starts it again each time, to its end."""

    def perform(bench: Bench) -> Found:
        plain = undisturbed(bench)
        trainings = [Training(bench.folder / "training-1")]
        struck: list[Struck] = []
        for strike in strikes(bench):
            # Chance may miss: the moment passes, or the training ends, before the signal is there.
            for hurry in (1.0, 0.7, 0.5, 0.3, 0.1, 0.0):
                if trainings[-1].result():
                    trainings.append(Training(bench.folder / f"training-{len(trainings) + 1}"))
                one = _strike(trainings[-1], dataclasses.replace(strike, share=strike.share * hurry), plain)
                if one is None:
                    continue
                struck.append(one)
                bench.say(str(one))
                if one.stage is strike.stage:
                    break
            else:
                raise RuntimeError(f"no signal found the training {strike.stage.value} in 6 tries")
        problems = [one.problem() for one in struck]
        for training in trainings:
            done = training.run()
            problems.append(f"the last start ended with {done.code}: {done.output[-200:]}" if done.code else None)
            if not done.code:
                problems += differences(plain.left, training.left())
        told, kept = verdict(*problems)
        return Found(told or _as_undisturbed(plain, struck), kept, len(struck), tuple(map(str, struck)))

    return perform


def _as_undisturbed(plain: Undisturbed, struck: Sequence[Struck]) -> str:
    stages = [f"{sum(one.stage is stage for one in struck)} {stage.value}" for stage in Stage if any(one.stage is stage for one in struck)]
    slowest = max((one.seconds for one in struck if one.number == TERM), default=0.0)
    left = plain.left
    told = (
        f"{len(struck)} signals: {', '.join(stages)}. All figures of {STEPS} steps, {len(left.weights)} tensors of weights and optimizer, "
    )
    told += f"{len(left.evaluations)} evaluations and {len(left.points)} numbers in MLflow as of the undisturbed training"
    return told + (f"; SIGTERM took at most {slowest:.1f} s" if slowest else "")


def _strike(training: Training, strike: Strike, plain: Undisturbed) -> Struck | None:
    """Starts the training, waits for the moment and sends the signal; None where the process ended before."""
    lines, evaluated = training.lines(), training.evaluated()
    with training.running() as process:
        _WAITING[strike.stage](training, process, strike, plain)
        if not process.alive:
            return None
        sent = time.monotonic()
        before = _found_at(training, process, lines, evaluated)
        process.send(strike.number)
        done = process.end()
        seconds = time.monotonic() - sent
        if done.code == 0:
            return None
        # SIGKILL leaves all as it found it, SIGTERM does not.
        stage, step, at = _found_at(training, process, lines, evaluated) if strike.number == KILL else before
    saved = training.checkpoints()
    load = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    return Struck(strike.number, stage, step, at, done.code, seconds, max(saved, default=0), load)


def _found_at(training: Training, process: Process, lines: int, evaluated: Sequence[int]) -> tuple[Stage, int, str]:
    """The stage, the last step that is written, and both in words; `lines` and `evaluated` are what there was before this process."""
    step, written = training.step(), training.checkpoints()
    writing = [name for name in unfinished(training.model.train) if _touched(training.model.train / name, process.begun)]
    took_steps = training.lines() > lines
    if writing and any(name.startswith("ckpt-") for name in writing):
        names = ", ".join(sorted({name.partition(".")[0].partition("_")[0] for name in writing if name.startswith("ckpt-")}))
        return Stage.CHECKPOINT, step, f"while {names} was written"
    if not took_steps and not process.says(_STARTED):
        return Stage.START, step, f"before its first step, which is {max(written, default=0) + 1}"
    done = training.evaluated()
    due = [one for one in written if one % EVALUATE_EVERY == 0 and one not in done]
    if due and step == due[-1]:
        return Stage.EVALUATION, step, f"during the evaluation of step {due[-1]}"
    if STEPS in done and STEPS not in evaluated:
        return Stage.END, step, "after the last evaluation"
    if not took_steps:
        return Stage.START, step, f"in its first step, {max(written, default=0) + 1}"
    return Stage.STEPS, step, f"after step {step}"


def _touched(file: Path, since: float) -> bool:
    try:
        return file.stat().st_mtime >= since
    except FileNotFoundError:  # it has its name by now
        return False


def _wait_start(training: Training, process: Process, strike: Strike, plain: Undisturbed) -> None:
    process.rest(0.3 + strike.share * (plain.seconds_to_first_step - 0.3))


def _wait_steps(training: Training, process: Process, strike: Strike, plain: Undisturbed) -> None:
    lines = training.lines()
    process.until(lambda: training.step() >= strike.step and training.lines() > lines)
    process.rest(strike.share)


def _wait_checkpoint(training: Training, process: Process, strike: Strike, plain: Undisturbed) -> None:
    there = unfinished(training.model.train)

    def writes() -> bool:
        return training.step() >= strike.step and any(name.startswith("ckpt-") for name in unfinished(training.model.train) - there)

    process.until(writes, every=0.001)
    # About as long as it takes to write 100 MB.
    process.rest(strike.share * 0.1)


def _wait_evaluation(training: Training, process: Process, strike: Strike, plain: Undisturbed) -> None:
    lines, due = training.lines(), [step for step in _EVALUATED if step >= strike.step]

    def measures() -> bool:
        step = training.step()
        return step in due and step in training.checkpoints() and step not in training.evaluated() and training.lines() > lines

    process.until(measures, every=0.005)
    process.rest(strike.share * plain.seconds_of_evaluation)


def _wait_end(training: Training, process: Process, strike: Strike, plain: Undisturbed) -> None:
    process.until(lambda: STEPS in training.evaluated(), every=0.005)
    process.rest(strike.share * plain.seconds_after_last_evaluation)


_WAITING: dict[Stage, Callable[[Training, Process, Strike, Undisturbed], None]] = {
    Stage.START: _wait_start,
    Stage.STEPS: _wait_steps,
    Stage.CHECKPOINT: _wait_checkpoint,
    Stage.EVALUATION: _wait_evaluation,
    Stage.END: _wait_end,
}


def _signals(bench: Bench, kills: int, terms: int) -> list[signal.Signals]:
    return bench.draw.sample([KILL] * kills + [TERM] * terms, kills + terms)


def _in_start_and_steps(bench: Bench) -> list[Strike]:
    """Steps are drawn from equal parts of the training, so that it advances; between them its start is hit."""
    stages = [Stage.START, Stage.STEPS, Stage.STEPS, Stage.START, Stage.STEPS, Stage.STEPS, Stage.START, Stage.STEPS]
    among = stages.count(Stage.STEPS)
    steps = iter(bench.draw.randrange(part * STEPS // among + 1, (part + 1) * STEPS // among) for part in range(among))
    signals = {Stage.START: iter(_signals(bench, kills=2, terms=1)), Stage.STEPS: iter(_signals(bench, kills=3, terms=2))}
    return [Strike(stage, next(signals[stage]), next(steps) if stage is Stage.STEPS else 0, bench.draw.random()) for stage in stages]


def _in_checkpoints(bench: Bench) -> list[Strike]:
    """At the four at least that there are, and at one of them a second time."""
    every = list(_EVALUATED)
    steps = sorted([*every, bench.draw.choice(every)])
    return [
        Strike(Stage.CHECKPOINT, number, step, bench.draw.random())
        for step, number in zip(steps, _signals(bench, kills=4, terms=1), strict=True)
    ]


def _in_evaluations(bench: Bench) -> list[Strike]:
    """In each."""
    return [
        Strike(Stage.EVALUATION, number, step, bench.draw.random())
        for step, number in zip(_EVALUATED, _signals(bench, kills=3, terms=1), strict=True)
    ]


def _at_the_end(bench: Bench) -> list[Strike]:
    return [Strike(Stage.END, number, STEPS, 0.7 * bench.draw.random()) for number in _signals(bench, kills=2, terms=1)]


_DONE = "the same command is run again each time, to the end of the training"
_PROMISED = (
    "to the bit what an undisturbed training leaves: the figures of every step, also of those taken again, weights and optimizer, "
    "evaluations and the best checkpoint; in one MLflow run no number missing or doubled; nothing half written. SIGTERM: code 143 within "
    f"{GRACE_SECONDS:.0f} s (longer by as much as other work slows the machine down), with a checkpoint"
)

DRILLS = [
    Drill(
        "kill-start-and-steps",
        f"SIGKILL twice and SIGTERM once as a training starts, SIGKILL 3 times and SIGTERM twice among its steps, by chance; {_DONE}",
        _PROMISED,
        _kill(_in_start_and_steps),
    ),
    Drill(
        "kill-checkpoint",
        f"SIGKILL 4 times and SIGTERM once while a checkpoint is being written; {_DONE}",
        _PROMISED,
        _kill(_in_checkpoints),
    ),
    Drill(
        "kill-evaluation",
        f"SIGKILL 3 times and SIGTERM once while the validation records are measured on the way; {_DONE}",
        _PROMISED,
        _kill(_in_evaluations),
    ),
    Drill(
        "kill-end",
        f"SIGKILL twice and SIGTERM once after the last evaluation, before the result is there; {_DONE}",
        _PROMISED,
        _kill(_at_the_end),
    ),
]
