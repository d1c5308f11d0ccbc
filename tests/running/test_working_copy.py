"""Two machines, which are two folders, on one store: what each finds, sends and gives up."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from tasks.running import store_lease
from tasks.running.errors import UserError
from tasks.running.store_lease import leased_in_store
from tasks.running.working_copy import WorkingCopy

MODEL = "runs/r/model"


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}/ws"


@pytest.fixture
def machine(tmp_path: Path, url: str) -> Callable[[str], WorkingCopy]:
    """A new process on a machine of this name."""
    return lambda name: WorkingCopy(url, tmp_path / name)


def stored(url: str) -> dict[str, bytes]:
    store, root = fsspec.url_to_fs(url)
    return {key.removeprefix(f"{root}/"): store.cat_file(key) for key in store.find(root)}


def write(copy: WorkingCopy, name: str, text: str) -> Path:
    path = copy.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_what_one_machine_writes_another_finds(machine, url):
    one, two = machine("one"), machine("two")
    one.open(MODEL)
    write(one, f"{MODEL}/train/ckpt-1.index", "1")
    write(one, "runs/r/run.json", "{}")
    write(one, "runs/r/other/train/result.json", "not named, not sent")
    write(one, f"{MODEL}/.training.lock", "a lock")
    write(one, f"{MODEL}/train/ckpt-2_temp/part-00000-of-00001.index", "not whole yet")
    write(one, f"{MODEL}/.evaluation_parts/0.npz", "half of an evaluation")
    one.close()
    assert set(stored(url)) == {f"{MODEL}/train/ckpt-1.index", "runs/r/run.json", f"{MODEL}/.evaluation_parts/0.npz"}
    two.open(f"{MODEL}/train/ckpt-1")
    assert (two.root / MODEL / "train/ckpt-1.index").read_text() == "1"
    assert (two.root / "runs/r/run.json").exists()


def test_the_store_has_the_numbers_of_a_checkpoint_s_steps_when_it_has_the_checkpoint(machine, url, monkeypatch):
    one = machine("one")
    one.open(MODEL)
    write(one, f"{MODEL}/train/ckpt-2.index", "2")
    # Written last, since training has gone on.
    write(one, f"{MODEL}/train/metrics.jsonl", "1\n2\n3\n")
    right = one._put

    def dies_at_the_second(name, stat):
        if stored(url):
            raise KeyboardInterrupt
        right(name, stat)

    monkeypatch.setattr(one, "_put", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        one.send()
    assert set(stored(url)) == {f"{MODEL}/train/metrics.jsonl"}


def test_what_a_step_removes_is_removed_and_what_was_cleaned_away_here_is_not(machine, url):
    one = machine("one")
    one.open(MODEL)
    old, new = write(one, f"{MODEL}/ckpt-1", "1"), write(one, f"{MODEL}/ckpt-2", "2")
    one.send()
    old.unlink()
    one.close()
    assert set(stored(url)) == {f"{MODEL}/ckpt-2"}
    # Somebody empties the machine's caches between two steps.
    new.unlink()
    again = machine("one")
    again.open(MODEL)
    again.close()
    assert new.read_text() == "2"
    assert set(stored(url)) == {f"{MODEL}/ckpt-2"}


def test_a_machine_goes_on_with_what_it_had_not_sent_unless_another_has_worked_there(machine, url, capsys):
    one = machine("one")
    one.open(MODEL)
    write(one, f"{MODEL}/a", "sent")
    one.send()
    write(one, f"{MODEL}/b", "killed before it was sent")
    again = machine("one")
    one._locks.clear()
    again.open(MODEL)
    again.close()
    assert set(stored(url)) == {f"{MODEL}/a", f"{MODEL}/b"}

    write(again, f"{MODEL}/c", "never sent")
    two = machine("two")
    two.open(MODEL)
    write(two, f"{MODEL}/a", "of the other")
    two.close()
    last = machine("one")
    last.open(MODEL)
    assert (last.root / MODEL / "a").read_text() == "of the other"
    assert not (last.root / MODEL / "c").exists()
    assert "another machine has worked there since; left out: 1 files that this one never sent" in capsys.readouterr().out


def test_a_step_joins_another_of_its_machine_and_leaves_its_files_alone(machine, url):
    trainer, other = machine("one"), machine("two")
    trainer.open(MODEL)
    journal = write(trainer, f"{MODEL}/train/metrics.jsonl", "line\n")
    trainer.send()
    other.open(MODEL)
    write(other, f"{MODEL}/notes.txt", "of another machine")
    other.close()
    journal.write_text("line\nline\n")
    looks = machine("one")
    looks.open("runs/r", with_weights=False)
    assert journal.read_text() == "line\nline\n"
    looks.close()
    trainer.close()
    assert stored(url)[f"{MODEL}/train/metrics.jsonl"] == b"line\nline\n"


def test_weights_are_brought_when_they_are_needed(machine):
    one = machine("one")
    one.open(MODEL)
    weights = write(one, f"{MODEL}/train/ckpt-1.data-00000-of-00001", "w" * 100)
    write(one, f"{MODEL}/train/result.json", "{}")
    one.close()
    looks, predicts = machine("two"), machine("two")
    looks.open("runs/r", with_weights=False)
    there = looks.root / weights.relative_to(one.root)
    assert (there.with_name("result.json").exists(), there.exists()) == (True, False)
    predicts.open(MODEL)
    assert there.read_text() == "w" * 100
    looks.close()
    predicts.close()
    assert there.exists()


def test_paths_are_urls_in_the_store_and_local_on_each_machine(machine, url):
    one, two = machine("one"), machine("two")
    one.open(MODEL)
    write(one, f"{MODEL}/experiment.yaml", f"input_path: {one.root}/datasets/d/train.record*\nother: {one.root}s")
    write(one, f"{MODEL}/train/tracking.jsonl", f'{{"path": "{one.root}/x"}}\n')
    one.close()
    assert stored(url)[f"{MODEL}/experiment.yaml"].decode().startswith(f"input_path: {url}/datasets/d/train.record*\n")
    two.open(MODEL)
    assert (two.root / MODEL / "experiment.yaml").read_text().startswith(f"input_path: {two.root}/datasets/d/train.record*\n")
    # Bytes of it are counted.
    assert (two.root / MODEL / "train/tracking.jsonl").read_text() == f'{{"path": "{one.root}/x"}}\n'
    with two.with_addresses(two.root / MODEL) as shared:
        assert (shared / "experiment.yaml").read_text().startswith(f"input_path: {url}/datasets")


def test_a_workspace_is_not_taken_for_one_whose_name_begins_alike(machine, url):
    copy = machine("one")
    assert (
        copy.localized(f"--set x={url}/runs/r --dataset={url} {url}2/runs")
        == f"--set x={copy.root}/runs/r --dataset={copy.root} {url}2/runs"
    )


def test_one_process_at_a_time_has_a_folder_and_sends_before_it_gives_it_back(machine, url, monkeypatch):
    monkeypatch.setattr(store_lease, "_SECONDS_TO_WAIT", 0.2)
    monkeypatch.setattr(store_lease, "_SECONDS_BETWEEN_LOOKS", 0.02)
    one, two = machine("one"), machine("two")
    one.open(MODEL)
    two.open(MODEL)
    with leased_in_store(one, MODEL, "is trained"):
        with pytest.raises(UserError, match=rf"{MODEL} is trained by process \d+ on .* since"), leased_in_store(two, MODEL, "is trained"):
            pass
        write(one, f"{MODEL}/ckpt-1", "1")
    assert set(stored(url)) == {f"{MODEL}/ckpt-1"}
    with leased_in_store(two, MODEL, "is trained"):
        assert (two.root / MODEL / "ckpt-1").read_text() == "1"


def test_a_lease_that_stands_still_is_taken_over_and_its_holder_sends_nothing_more(machine, url, monkeypatch, capfd):
    monkeypatch.setattr(store_lease, "STANDS_STILL_SECONDS", 0.1)
    monkeypatch.setattr(store_lease, "_SECONDS_BETWEEN_LOOKS", 0.02)
    told: list[int] = []
    monkeypatch.setattr(store_lease.os, "kill", lambda process, number: told.append(number))
    one, two = machine("one"), machine("two")
    one.open(MODEL)
    two.open(MODEL)
    with leased_in_store(one, MODEL, "is trained"):
        with leased_in_store(two, MODEL, "is trained"):
            write(one, f"{MODEL}/ckpt-1", "of a machine that was taken for dead")
            one.send()
            assert told == [store_lease.signal.SIGTERM]
            assert f"{MODEL}/ckpt-1" not in stored(url)
        assert "is another process's by now" in capfd.readouterr().err
    assert set(stored(url)) == set()


def test_a_store_that_overwrites_in_spite_of_a_condition_keeps_a_lease_too(machine, url, monkeypatch):
    monkeypatch.setattr(store_lease, "_SECONDS_TO_WAIT", 0.1)
    monkeypatch.setattr(store_lease, "_SECONDS_BETWEEN_LOOKS", 0.02)
    one, two = machine("one"), machine("two")
    for copy in (one, two):
        copy.open(MODEL)
        write_always = copy.store.write
        monkeypatch.setattr(copy.store, "write", lambda name, content, new=False, write=write_always: write(name, content))
    with leased_in_store(one, MODEL, "is trained"):
        with pytest.raises(UserError, match="is trained by process"), leased_in_store(two, MODEL, "is trained"):
            pass
        write(one, f"{MODEL}/ckpt-1", "1")
    assert set(stored(url)) == {f"{MODEL}/ckpt-1"}


def test_a_damaged_lease_is_nobodys(machine, url, monkeypatch):
    monkeypatch.setattr(store_lease, "STANDS_STILL_SECONDS", 0.1)
    monkeypatch.setattr(store_lease, "_SECONDS_BETWEEN_LOOKS", 0.02)
    one = machine("one")
    one.open(MODEL)
    one.store.write(f"{MODEL}/.lease.json", b"[half")
    with leased_in_store(one, MODEL, "is trained"):
        assert json.loads(stored(url)[f"{MODEL}/.lease.json"])["process"] > 0


def test_a_store_that_does_not_answer_at_the_end_is_told_with_what_to_do(machine, monkeypatch, capsys):
    monkeypatch.setattr("tasks.running.working_copy._SECONDS_TO_REACH_THE_STORE", 0.1)
    monkeypatch.setattr("tasks.running.working_copy._SECONDS_BETWEEN_TRIES", 0.02)
    copy = machine("one")
    copy.open(MODEL)
    write(copy, f"{MODEL}/a", "1")

    def away(*_: object, **__: object) -> None:
        raise OSError("nobody listens")

    monkeypatch.setattr(copy.store, "put", away)
    with pytest.raises(ConnectionError, match=r"does not take what the step has written: nobody listens\n  fix: see that it answers"):
        copy.close()
    assert "nobody listens; trying again" in capsys.readouterr().err
    monkeypatch.undo()
    copy.close()


def test_the_outline_of_a_workspace_has_everything_but_the_bytes_of_large_files(machine, url):
    one = machine("one")
    one.open(MODEL)
    write(one, f"{MODEL}/train/ckpt-1.data-00000-of-00001", "w" * 100)
    write(one, f"{MODEL}/experiment.yaml", f"checkpoint: {one.root}/runs/x")
    one.close()
    looks = machine("two")
    looks.outline()
    weights = looks.root / MODEL / "train/ckpt-1.data-00000-of-00001"
    assert weights.read_bytes() == b"\0" * 100
    assert (looks.root / MODEL / "experiment.yaml").read_text() == f"checkpoint: {looks.root}/runs/x"
    assert weights.parent.stat().st_mtime == weights.stat().st_mtime
    weights.unlink()
    looks.close()
    assert set(stored(url)) == {f"{MODEL}/experiment.yaml"}


def test_what_another_machine_has_written_anew_is_not_removed(machine, url):
    one, two = machine("one"), machine("two")
    one.open(MODEL)
    file = write(one, f"{MODEL}/a", "1")
    one.send()
    two.open(MODEL)
    write(two, f"{MODEL}/a", "22")
    two.close()
    file.unlink()
    one.close()
    assert stored(url) == {f"{MODEL}/a": b"22"}


def test_what_a_model_is_made_of_comes_with_it(machine, url):
    """Its arguments name neither the records nor the model that a training starts from."""
    one = machine("one")
    for place in (MODEL, "datasets/d", "runs/earlier/model", "runs/earlier/other"):
        one.open(place)
    write(one, "datasets/d/train.record-00000-of-00001", "records")
    write(one, "runs/earlier/model/train/ckpt-9.data-00000-of-00001", "weights")
    write(one, "runs/earlier/other/train/ckpt-9.data-00000-of-00001", "weights")
    start = f"init_checkpoint: {one.root}/runs/earlier/model/train/ckpt-9"
    write(one, f"{MODEL}/experiment.yaml", f"input_path: {one.root}/datasets/d/train.record-?????-of-00001\n{start}")
    one.close()
    two = machine("two")
    two.open(MODEL)
    brought = {path.relative_to(two.root).as_posix() for path in two.root.rglob("*-00000-of-*")}
    assert brought == {"datasets/d/train.record-00000-of-00001", "runs/earlier/model/train/ckpt-9.data-00000-of-00001"}


def test_weights_that_nobody_needed_yet_are_no_other_machines_work(machine, url, capsys):
    one, looks = machine("one"), machine("two")
    one.open(MODEL)
    write(one, f"{MODEL}/train/ckpt-1.data-00000-of-00001", "weights")
    write(one, f"{MODEL}/train/result.json", "{}")
    one.close()
    looks.open(MODEL, with_weights=False)
    looks.close()
    write(looks, f"{MODEL}/notes.txt", "killed before it was sent")
    works = machine("two")
    works.open(MODEL)
    works.close()
    assert "left out" not in capsys.readouterr().out
    assert stored(url)[f"{MODEL}/notes.txt"] == b"killed before it was sent"


def test_a_file_that_vanishes_while_it_is_sent_is_no_fault_of_the_store(machine, url, monkeypatch):
    copy = machine("one")
    copy.open(MODEL)
    file = write(copy, f"{MODEL}/a", "1")
    files = copy._found_in_all()
    file.unlink()
    monkeypatch.setattr(copy, "_found_in_all", lambda: files)
    copy.send()
    assert stored(url) == {}


def test_no_store_for_a_protocol_is_told_with_the_way_out(tmp_path):
    with pytest.raises(UserError, match=r"foo://data/ws: Protocol not known: foo\n  fix: install maskline's extra"):
        WorkingCopy("foo://data/ws", tmp_path).open(MODEL)


def test_two_machines_add_to_one_file_in_turn(machine, url):
    place = "promotions/shapes"
    one, two = machine("one"), machine("two")
    one.open(place)
    two.open(place)
    for copy in (one, two, one):
        write(copy, f"{place}/of-{copy.root.name}.npz", "not sent yet, and not to be lost")
        with leased_in_store(copy, place, "is written to"), (copy.root / place / "ledger.jsonl").open("a") as stream:
            stream.write(f"{copy.root.name}\n")
    assert stored(url)[f"{place}/ledger.jsonl"] == b"one\ntwo\none\n"
    assert set(stored(url)) == {f"{place}/{name}" for name in ("ledger.jsonl", "of-one.npz", "of-two.npz")}
