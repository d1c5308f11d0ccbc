"""MLflow is killed, or is not there, while a training has numbers for it."""

from __future__ import annotations

import signal

from tests.drills.drill import Bench, Drill, Found, verdict
from tests.drills.left import differences
from tests.drills.processes import MlflowServer, ended, maskline
from tests.drills.training import STEPS, Training, undisturbed


def _killed_and_restarted(bench: Bench) -> Found:
    plain, training = undisturbed(bench), Training(bench.folder / "training")
    server = MlflowServer(bench.folder / "server")
    training.environment["MLFLOW_TRACKING_URI"] = server.address
    with training.running() as process:
        with server.serving() as serving:
            process.until(lambda: training.step() >= STEPS // 8)
            serving.kill()
        killed = training.step()
        bench.say(f"MLflow killed after step {killed}")
        process.until(lambda: training.step() >= STEPS // 2)
        without = training.step()
        # The server takes longer to start than these steps: held meanwhile, training has its other half before it.
        process.send(signal.SIGSTOP)
        bench.say(f"MLflow started again after step {without}")
        with server.serving():
            process.send(signal.SIGCONT)
            done = process.end()
            told, kept = verdict(
                f"training ended with {done.code}: {done.output[-300:]}" if done.code else None,
                f"no step was taken while MLflow was down: killed after step {killed}" if without <= killed else None,
                None if "MLflow does not answer" in done.output else "nothing said that MLflow does not answer",
                *differences(plain.left, training.left(server.database)),
            )
    happened = f"killed after step {killed}, there again after step {without}; training ended with 0; "
    happened += f"all of {len(plain.left.points)} numbers are there once, each curve in order"
    return Found(told or happened, kept)


def _away_for_a_whole_training(bench: Bench) -> Found:
    plain, training = undisturbed(bench), Training(bench.folder / "training")
    server = MlflowServer(bench.folder / "server")
    training.environment["MLFLOW_TRACKING_URI"] = server.address
    done = training.run()
    bench.say(f"training ended with {done.code}; MLflow starts")
    with server.serving():
        syncs = [ended(maskline("sync", str(training.model.root)), training.environment, training.log()) for _ in range(2)]
    told, kept = verdict(
        f"training ended with {done.code}: {done.output[-300:]}" if done.code else None,
        *(f"sync ended with {sync.code}: {sync.output[-300:]}" for sync in syncs if sync.code),
        None if "MLflow has all of it" in syncs[1].output else f"the second sync said {syncs[1].output[-200:]}",
        *differences(plain.left, training.left(server.database)),
    )
    happened = f"training ended with 0; sync: {syncs[0].line('numbers sent')}; the second sync: {syncs[1].line('MLflow has all of it')}; "
    return Found(told or f"{happened}all of {len(plain.left.points)} numbers are there once, each curve in order", kept)


DRILLS = [
    Drill(
        "mlflow-restarted",
        "SIGKILL to the MLflow server after the first steps of a training, and the same server again when half of the steps are done "
        "(training is held by SIGSTOP while it starts)",
        "training goes on meanwhile and ends well; what MLflow has missed arrives once and in order",
        _killed_and_restarted,
    ),
    Drill(
        "mlflow-away",
        "no MLflow server until a training has ended; then the server, and `maskline sync` twice",
        "training ends well; then MLflow gets all of it once and in order, and the second time there is nothing to send",
        _away_for_a_whole_training,
    ),
]
