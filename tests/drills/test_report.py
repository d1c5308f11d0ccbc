"""The table of the drills, and what a drill's end means for it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.drills import report
from tests.drills.drill import Bench, Drill, Found, verdict
from tests.drills.kills import GRACE_SECONDS, Stage, Struck


def drill(name: str, found: Found | BaseException) -> Drill:
    def perform(bench: Bench) -> Found:
        (bench.folder / "left").touch()
        if isinstance(found, BaseException):
            raise found
        return found

    return Drill(name, "the | disk\n is taken", "nothing is lost", perform)


@pytest.mark.parametrize(
    ("found", "kept", "cell"),
    [
        (Found("all there", kept=True, times=3), True, "| kept | 3 |"),
        (Found("a step is missing", kept=False), False, "| **NOT KEPT** | 1 |"),
        (Found("cannot be tried here", kept=None, times=0), None, "| not tried | 0 |"),
        (RuntimeError("no such file"), False, "| **NOT KEPT** | 0 |"),
    ],
)
def test_what_came_of_a_drill_stands_in_its_row(found: Found | Exception, kept: bool | None, cell: str, tmp_path: Path) -> None:
    result = report.perform(drill("disk", found), tmp_path, seed=0)
    assert result.kept is kept
    row = report.table([result]).splitlines()[-1]
    assert cell in row
    assert row.startswith("| `make drills ARGS=disk` | the \\| disk is taken | nothing is lost | ")
    # What was not kept is there to be looked into.
    assert (tmp_path / "disk" / "left").exists() is (kept is False)


def test_a_stopped_run_goes_on_and_only_all_drills_make_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drills = {
        name: drill(name, found)
        for name, found in (("one", Found("all there", kept=True)), ("two", KeyboardInterrupt()), ("three", Found("lost", kept=False)))
    }
    page = tmp_path / "drills.md"
    monkeypatch.setattr(report, "DRILLS", drills)
    monkeypatch.setattr(report, "TABLE", page)
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(tmp_path / "workspace"))

    def run(*arguments: str) -> int | str | None:
        monkeypatch.setattr("sys.argv", ["drills", *arguments])
        with pytest.raises(SystemExit) as ended:
            report.main()
        return ended.value.code

    with pytest.raises(KeyboardInterrupt):
        run()
    drills["two"] = drill("two", Found("all there, at second try", kept=True, moments=("after step 7",)))
    assert run("two") == 0
    assert not page.exists()
    assert "three have no result yet" in capsys.readouterr().out
    assert run("two", "--write") == 0
    assert "2 promises: 2 kept, 0 not kept, 0 not tried. Not performed: three. " in page.read_text()
    drills["one"] = drill("one", AssertionError("which has a result"))
    assert run("--go-on") == 1
    said = capsys.readouterr().out
    assert "1/1 three" in said
    text = page.read_text()
    assert "3 promises: 2 kept, 1 not kept, 0 not tried." in text
    assert [text.count(words) for words in ("all there, at second try", "| **NOT KEPT** | 1 |", "1. after step 7")] == [1, 1, 1]
    assert run("--go-on") == 1  # which performs none, and tells the same
    assert run("four") == 2

    with report._alone(tmp_path / "workspace" / "drills", drills["one"]):
        assert "one is being performed by another process" in str(run("one"))


def test_the_drills_have_names_of_their_own() -> None:
    assert len(report.DRILLS) == sum(len(module.DRILLS) for module in report.MODULES)


def struck(number: signal.Signals, stage: Stage = Stage.STEPS, **changes: float) -> Struck:
    values = {"step": 7, "code": 143, "seconds": 2.0, "saved": 7, "load": 1.0} | changes
    code, saved = int(values["code"]), int(values["saved"])
    return Struck(number, stage, int(values["step"]), "after step 7", code, values["seconds"], saved, values["load"])


def test_sigterm_has_to_end_in_time_by_its_code_and_with_a_checkpoint_and_sigkill_need_not() -> None:
    late = GRACE_SECONDS + 1
    assert struck(signal.SIGTERM).problem() is None
    assert "ended with 1 and not 143" in str(struck(signal.SIGTERM, code=1).problem())
    assert "took 31 s, and 30 are given" in str(struck(signal.SIGTERM, seconds=late).problem())
    assert struck(signal.SIGTERM, seconds=late, load=2.0).problem() is None
    assert "kept the checkpoint of step 6 and not that of step 7" in str(struck(signal.SIGTERM, saved=6).problem())
    assert struck(signal.SIGTERM, Stage.START, code=-15, seconds=late, saved=0).problem() is None
    assert struck(signal.SIGKILL, code=-9, saved=0).problem() is None


def test_problems_are_told_and_none_is_as_promised() -> None:
    assert verdict(None, None) == ("", True)
    assert verdict(None, "a step is missing", "code 1") == ("a step is missing; code 1", False)
