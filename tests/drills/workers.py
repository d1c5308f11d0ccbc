"""Two workers train together on one machine, and one of them is killed."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.drills.drill import Bench, Drill, Found, verdict
from tests.drills.left import Left, differences
from tests.drills.processes import Ended, Process, free_port
from tests.drills.training import Training, left_in

CHIEF, OTHER = 0, 1
LEFT = 75
"""The code of a worker that another one has left"""
STEPS = 20
_OPTIONS = ("--steps", f"{STEPS}", "--evaluate-every", "10", "--learning-rate", "0.001")


def _one_is_killed(bench: Bench) -> Found:
    plain, training = _undisturbed(bench), Training(bench.folder / "training", _OPTIONS)
    # The same commands each time, so the same addresses.
    hosts = _free_hosts()
    problems: list[str | None] = []
    moments: list[str] = []
    for worker, part in ((OTHER, 0), (CHIEF, 1)):
        step = bench.draw.randrange(part * STEPS // 2 + 1, (part + 1) * STEPS // 2 - 1)
        with _both(training, hosts) as processes:
            lines = training.lines()
            processes[CHIEF].until(lambda lines=lines, step=step: training.lines() > lines and training.step() >= step)
            processes[worker].send(signal.SIGKILL)
            killed = time.monotonic()
            survivor = processes[1 - worker].end()
            seconds = time.monotonic() - killed
        name = "the chief" if worker == CHIEF else "the other worker"
        saved = max(training.checkpoints(), default=0)
        moments.append(
            f"SIGKILL to {name} after step {training.step()}; the one that was left ended with {survivor.code} after {seconds:.0f} s; "
            f"newest checkpoint {saved or 'none'}"
        )
        bench.say(moments[-1])
        problems.append(f"{moments[-1]}, and not with {LEFT}: {survivor.output[-300:]}" if survivor.code != LEFT else None)
        problems.append(None if "start all workers by the same commands" in survivor.output else f"it said {survivor.output[-200:]}")
    ends = _run(training, hosts)
    problems += [f"at the last start worker {index} ended with {done.code}: {_tail(done)}" for index, done in enumerate(ends) if done.code]
    problems += differences(plain, training.left())
    told, kept = verdict(*problems)
    happened = f"both started again by the same commands each time, to step {STEPS}; all figures, {len(plain.weights)} tensors, "
    happened += f"{len(plain.evaluations)} evaluations and {len(plain.points)} numbers in MLflow as of two workers that nobody killed"
    return Found(told or happened, kept, len(moments), tuple(moments))


def _undisturbed(bench: Bench) -> Left:
    """What two workers leave that nobody kills; run where none has run it."""
    folder = bench.shared / "two-workers"
    complete = folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        bench.say(f"an undisturbed training by two workers first, in {folder}")
        for done in _run(Training(folder, _OPTIONS), _free_hosts()):
            if done.code:
                raise RuntimeError(f"the undisturbed training failed: {_tail(done)}")
        complete.touch()
    return left_in(folder)


def _run(training: Training, hosts: str) -> list[Ended]:
    with _both(training, hosts) as processes:
        return [process.end() for process in processes]


def _tail(done: Ended) -> str:
    return done.output[-300:]


def _free_hosts() -> str:
    return ",".join(f"127.0.0.1:{free_port()}" for _ in range(2))


@contextmanager
def _both(training: Training, hosts: str) -> Iterator[list[Process]]:
    """The chief and the other one."""
    shared = ("--strategy", "multi_worker_mirrored", "--worker-hosts", hosts, "--task-index")
    with ExitStack() as stack:
        yield [stack.enter_context(training.running(*shared, f"{index}")) for index in (CHIEF, OTHER)]


DRILLS = [
    Drill(
        "worker-killed",
        "a training by two workers on 127.0.0.1 (multi_worker_mirrored); SIGKILL to one, and after a new start to the other, which is the "
        "chief, at steps drawn by chance; both commands are run again each time, as an orchestrator does",
        f"the one that is left ends with {LEFT} and says what to do; with both again training goes on, and leaves to the bit what two "
        "workers leave that nobody kills",
        _one_is_killed,
    ),
]
