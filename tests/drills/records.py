"""Numbers that are none, and records that are damaged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tasks.records.example_pb2 import Example
from tests.drills.drill import Bench, Drill, Found, verdict
from tests.drills.left import TOTAL_LOSS, unequal_steps
from tests.drills.processes import Ended, ended, maskline
from tests.drills.training import FAILED, STEPS, STEPS_PER_EPOCH, Training, undisturbed

_RECORD = 5
_MESSAGE = "error:"


def _poison(example: Example) -> None:
    objects = len(example.features.feature["image/object/bbox/ymin"].float_list.value)
    example.features.feature["image/object/weight"].float_list.value[:] = [math.nan] * objects


def _is_no_number(bench: Bench) -> Found:
    plain, training = undisturbed(bench), Training(bench.folder / "training")
    training.change_record(_RECORD, _poison)
    done = training.run("--on-nan", "skip")
    rows = training.left().rows
    skipped = {int(file.stem.removeprefix("step-")): json.loads(file.read_text()) for file in _step_files(training)}
    first, last = min(skipped, default=1), max(skipped, default=1)
    bench.say(f"skipped steps {', '.join(map(str, sorted(skipped)))}; the last of them is taken again")
    answer = training.folder / "replay.json"
    replayed = ended(maskline("replay", str(training.model.root), str(last), "--result", str(answer)), training.environment, training.log())
    summary = json.loads(answer.read_text())["summary"] if answer.exists() else {}
    # Each epoch has the record once, whatever its order.
    epochs = [(step - 1) // STEPS_PER_EPOCH for step in sorted(skipped)]
    whole_epochs = STEPS // STEPS_PER_EPOCH
    others = [row[name] for row in rows if row["step"] not in skipped for name in row if name.startswith("Loss/")]
    # What is no number is a word in the one file and nothing in the other.
    figures = {name: None if isinstance(value, str) else value for name, value in skipped[last]["figures"].items()} if skipped else {}
    unequal = [name for name, value in figures.items() if value != summary.get("figures", {}).get(name, math.nan)]
    told, kept = verdict(
        f"ended with {done.code}: {done.output[-300:]}" if done.code else None,
        None if [epochs.count(epoch) for epoch in range(whole_epochs)] == [1] * whole_epochs else f"skipped {sorted(skipped)}",
        None if all(_names(values, _RECORD) for values in skipped.values()) else "a file of a skipped step does not name the record",
        None if all(f"step {step} was skipped" in done.output for step in skipped) else "a skipped step was not told",
        None if all(map(math.isfinite, others)) else "a step that was not skipped has a loss that is no number",
        *unequal_steps([row for row in plain.left.rows if row["step"] < first], [row for row in rows if row["step"] < first]),
        f"replay ended with {replayed.code}: {replayed.output[-300:]}" if replayed.code else None,
        None if summary.get("bad_images") == [f"{training.shard()}: record {_RECORD}"] else f"replay blames {summary.get('bad_images')}",
        f"taken again, step {last} has other figures: {', '.join(unequal)}" if unequal else None,
    )
    happened = f"steps {', '.join(map(str, sorted(skipped)))} skipped, one in each epoch, told and kept with the record's name; all other "
    happened += f"losses finite; code {done.code} after step {training.step()}. `maskline replay` of step {last}: the same to the bit, and "
    return Found(told or f"{happened}{replayed.line('is no finite number')}", kept, len(skipped))


def _step_files(training: Training) -> list[Path]:
    return sorted((training.model.train / "skipped_steps").glob("step-*.json"))


def _names(values: dict[str, Any], record: int) -> bool:
    return any(one["record"] == record for one in values["records"])


def _short(done: Ended, training: Training) -> str:
    return done.line(_MESSAGE).replace(str(training.folder), "...").replace(str(training.folder.parent), "...")[:240]


def _runs_away(bench: Bench) -> Found:
    at = STEPS // 2 + 3
    schedule = f"{{initial_learning_rate: 0.001 schedule {{step: {at} learning_rate: 1e30}}}}"
    training = Training(
        bench.folder / "training",
        ("--steps", f"{STEPS}", "--evaluate-every", "10"),
        [f"train_config.optimizer.momentum_optimizer.learning_rate.manual_step_learning_rate={schedule}"],
    )
    done = training.run("--on-nan", "skip")
    last = max(training.checkpoints(), default=0)
    rows = {row["step"]: row for row in training.left().rows}
    skipped = [step for step, row in rows.items() if not row["finite"]]
    line = done.line(_MESSAGE)
    told, kept = verdict(
        f"ended with {done.code}: {done.output[-300:]}" if done.code != FAILED else None,
        f"said: {line}" if f"ckpt-{last} is the last good checkpoint" not in line else None,
        None if last and math.isfinite(rows[last][TOTAL_LOSS]) else f"the last checkpoint is of step {last}",
        f"{len(skipped)} steps were skipped" if not 0 < len(skipped) <= 20 else None,
    )
    return Found(told or f"code {done.code} after step {training.step()}, {len(skipped)} steps skipped: {_short(done, training)}", kept)


def _is_damaged(bench: Bench) -> Found:
    training = Training(bench.folder / "training")
    training.damage_records(_RECORD)
    stopped = training.run()
    bench.say(f"ended with {stopped.code}: {_short(stopped, training)}")
    done = training.run("--max-bad-records", "1")
    result, shard = training.result() or {}, training.shard().name
    file = training.model.train / "bad_records.json"
    listed = json.loads(file.read_text()) if file.exists() else []
    line = stopped.line(_MESSAGE)
    told, kept = verdict(
        f"without the option it ended with {stopped.code}: {stopped.output[-300:]}" if stopped.code != FAILED else None,
        None if shard in line and f"record {_RECORD}" in line else f"the message does not name the record: {line}",
        f"with --max-bad-records 1 it ended with {done.code}: {done.output[-300:]}" if done.code else None,
        None if result.get("bad_records") == 1 else f"result.json counts {result.get('bad_records')}",
        None if [(one["file"].endswith(shard), one["record"]) for one in listed] == [(True, _RECORD)] else f"listed: {listed}",
        None if sorted({row["step"] for row in training.left().rows}) == [*range(1, STEPS + 1)] else "steps are missing",
    )
    left_out = done.line("left out").replace(str(training.folder), "...")
    happened = f"code {stopped.code}: {_short(stopped, training)}. With --max-bad-records 1: {left_out}"
    return Found(told or f"{happened}; code 0 after {STEPS} steps", kept)


def _are_too_many(bench: Bench) -> Found:
    training = Training(bench.folder / "training")
    training.damage_records(_RECORD, _RECORD + 3)
    done = training.run("--max-bad-records", "1")
    line = done.line(_MESSAGE)
    told, kept = verdict(
        f"ended with {done.code}: {done.output[-300:]}" if done.code != FAILED else None,
        None if "more than 1 records cannot be used" in line and training.shard().name in line else f"said: {line}",
    )
    return Found(told or f"code {done.code} after step {training.step()}: {_short(done, training)}", kept, 2)


DRILLS = [
    Drill(
        "nan-record",
        "the weights of a record's objects made NaN, so that its loss is none; --on-nan skip; then `maskline replay` of a step",
        "the steps with it, and no others, are left out before they are applied, told and kept in a file with the record's name; training "
        "ends well; such a step can be taken again, is the same to the bit, and names the record",
        _is_no_number,
    ),
    Drill(
        "nan-for-good",
        f"a learning rate of 1e30 from step {STEPS // 2 + 3} on, so that no loss is a number any more; --on-nan skip",
        "a bounded number of steps is left out; then code 2 and a message that names the last good checkpoint, which is there",
        _runs_away,
    ),
    Drill(
        "corrupt-record",
        "16 bytes overwritten in the middle of one of the records; then the same command with --max-bad-records 1",
        "code 2 and a message that names file and record; with the limit the record is told, counted, listed and left out, and training "
        "ends well",
        _is_damaged,
    ),
    Drill(
        "corrupt-over-limit",
        "two records overwritten so; --max-bad-records 1",
        "the first is left out; at the second code 2 and a message with the limit",
        _are_too_many,
    ),
]
