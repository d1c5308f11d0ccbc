"""The DAG `promote` in one whole run by Airflow's own runner: six candidates, of which each meets another end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.hitl import HITLDetail
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import handle_event_submit
from airflow.sdk import DAG, timezone
from airflow.sdk.exceptions import AirflowFailException
from airflow.triggers.base import TriggerEvent
from airflow.utils.session import create_session
from maskline_airflow.assets import CANDIDATE
from maskline_airflow.notifications import APPROVAL, Message
from maskline_airflow.promotion import KEEP, PROMOTE, Approval

from tests.dags.test_dag_run import DagRun, parse_commands, run_dag, steps_that_every_place_runs_alike

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = ("strong", "weak", "kept", "forgotten", "moved", "champion")
"""Of the candidates: approved, refused by a rule, declined by a person, answered by nobody, overtaken, and champion already"""
ANSWERS = {"strong": (PROMOTE, "field test of 12 March"), "kept": (KEEP, "the customer\nwaits"), "moved": (PROMOTE, "it is better")}


class Person(threading.Thread):
    """Answers the approvals of a run as Airflow's API does, and lets the scheduler see which are too late."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.asked: dict[str, dict[str, Any]] = {}
        self.waited: dict[str, timedelta] = {}
        self.messages: list[Message] = []

    def run(self) -> None:
        while not self.done.wait(0.2):
            with create_session() as session:
                for ti in session.query(TaskInstance).filter_by(dag_id="promote", state="awaiting_input"):
                    self._answer(ti, NAMES[ti.map_index], session)

    def _answer(self, ti: TaskInstance, name: str, session: Any) -> None:
        detail = session.get(HITLDetail, ti.id)
        self.asked[name] = {"subject": detail.subject, "body": detail.body, "options": detail.options, "defaults": detail.defaults}
        self.asked[name]["reason"] = detail.params["reason"]
        self.waited[name] = ti.trigger_timeout - timezone.utcnow()
        if name not in ANSWERS:
            ti.trigger_timeout = timezone.utcnow() - timedelta(seconds=1)
            session.commit()
            SchedulerJobRunner(job=Job()).check_awaiting_input_timeouts(session=session)
            return
        detail.chosen_options, detail.params_input = [ANSWERS[name][0]], {"reason": ANSWERS[name][1]}
        detail.responded_by, detail.responded_at = {"id": "7", "name": "anna"}, timezone.utcnow()
        handle_event_submit(TriggerEvent(detail.as_resume_event_payload()), task_instance=ti, session=session)


@pytest.fixture(scope="module")
def asked(airflow_database: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[DagRun, Person]:
    workspace = tmp_path_factory.mktemp("promoted")
    candidates = [f"{workspace}/runs/r/{name}" for name in NAMES]
    person = Person()
    person.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("maskline_airflow.notifications.send", person.messages.append)
            run = run_dag(workspace, {"candidates": [*candidates, ""], "hours_to_answer": 5}, dag_id="promote")
    finally:
        person.done.set()
        person.join()
    return run, person


@pytest.fixture(scope="module")
def promoted(asked: tuple[DagRun, Person]) -> DagRun:
    return asked[0]


def test_each_candidate_meets_its_own_end_and_none_fails_the_run(promoted: DagRun) -> None:
    assert promoted.state == "success"
    assert promoted.tasks == {
        "check_request": ["success"],
        "candidate.nominate": ["success"] * 6,
        "candidate.evaluate": ["success"] * 6,
        "candidate.gate": ["success", "skipped", "success", "success", "success", "skipped"],
        "candidate.approve": ["success", "skipped", "success", "success", "success", "skipped"],
        # Green is who became champion.
        "candidate.decide": ["success", "skipped", "skipped", "skipped", "skipped", "skipped"],
    }


def test_a_candidate_is_measured_on_the_split_of_the_policy(promoted: DagRun) -> None:
    assert sorted(promoted.of_step("evaluate")) == sorted([f"{promoted.workspace}/runs/r/{name}", "--split", "test"] for name in NAMES)


def decisions(run: DagRun) -> dict[str, list[str]]:
    return {Path(model).name: words for model, *words in run.of_step("promote") if "--gate" not in words}


def test_what_a_person_says_reaches_the_ledger_with_name_and_reason_on_one_line(promoted: DagRun) -> None:
    said = decisions(promoted)
    assert said["strong"] == ["--approved-by", "anna", "--reason", "field test of 12 March"]
    assert said["kept"] == ["--decline", "--approved-by", "anna", "--reason", "the customer waits"]


def test_what_nobody_answers_ends_as_a_refusal_in_the_ledger(promoted: DagRun) -> None:
    assert decisions(promoted)["forgotten"] == ["--decline", "--approved-by", "nobody", "--reason", "nobody has answered within 5 hours"]


def test_the_rules_refuse_without_asking_a_person_and_once(asked: tuple[DagRun, Person]) -> None:
    run, person = asked
    gates = [(Path(model).name, words) for model, *words in run.of_step("promote") if "--gate" in words]
    assert sorted(name for name, _ in gates) == sorted(NAMES)  # an answer is no failure: none was tried twice
    assert {tuple(words) for _, words in gates} == {("--gate", "--approved-by", "the rules", "--reason", "the gate of the DAG promote")}
    assert set(person.asked) == {"strong", "kept", "forgotten", "moved"}
    assert set(decisions(run)) == set(person.asked)


def test_a_person_sees_what_the_rules_rest_on_and_has_to_give_a_reason_in_time(asked: tuple[DagRun, Person]) -> None:
    seen = asked[1].asked["strong"]
    assert seen["subject"] == "strong passes all rules: shall it be the champion of fake?"
    assert "| least_ap | mask AP is 0.4000, at least 0.1 is asked |" in seen["body"]
    assert "The champion is version 3." in seen["body"]
    assert (seen["options"], seen["defaults"]) == ([PROMOTE, KEEP], [KEEP])
    assert (seen["reason"]["schema"]["minLength"], seen["reason"]["value"]) == (1, None)
    assert timedelta(hours=4.9) < asked[1].waited["strong"] < timedelta(hours=5)


def test_people_are_told_with_a_link_to_the_page_of_that_candidate(asked: tuple[DagRun, Person]) -> None:
    run, person = asked
    messages = {message.title.split()[3]: message for message in person.messages if message.event == APPROVAL}
    assert set(messages) == set(person.asked)
    assert messages["kept"].title == "Waits for you: kept passes all rules: shall it be the champion of fake?"
    assert messages["kept"].lines == [
        "least_ap: mask AP is 0.4000, at least 0.1 is asked",
        "Without an answer within 5 hours nothing changes.",
    ]
    page = f"http://airflow.example/dags/promote/runs/{quote(run.run_id)}/tasks/candidate.approve/mapped/{NAMES.index('kept')}"
    assert messages["kept"].links == {"Answer": f"{page}/required_actions"}


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ({}, {"promote": False, "by": "ben", "reason": "ben has given no reason to promote it"}),
        ({"reason": " "}, {"promote": False, "by": "ben", "reason": "ben has given no reason to promote it"}),
        ({"reason": "ok"}, {"promote": True, "by": "ben", "reason": "ben says: ok"}),
    ],
)
def test_an_answer_without_a_reason_keeps_the_champion_and_a_short_one_counts(given: dict[str, str], answer: dict[str, Any]) -> None:
    approve = Approval(task_id="approve", gate={}, hours="", instance_name="m")
    event = {"chosen_options": [PROMOTE], "params_input": given, "responded_at": timezone.utcnow(), "responded_by_user": {"name": "ben"}}
    assert approve.execute_complete({}, event) == answer


def test_real_parser_accepts_every_command_in_every_place(promoted: DagRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps_that_every_place_runs_alike([promoted], tmp_path, monkeypatch) == {"nominate", "evaluate", "promote"}
    parsed = [told for step, told in parse_commands(promoted.commands) if step == "promote"]
    assert {(told["gate"], told["decline"]) for told in parsed} == {(True, False), (False, False), (False, True)}


@pytest.fixture(scope="module")
def dag() -> DAG:
    return DagBag(REPOSITORY / "dags").dags["promote"]


def candidates_of(dag: DAG, monkeypatch: pytest.MonkeyPatch, named: list[str], events: list[dict[str, Any]]) -> Callable[[], list[str]]:
    context = {
        "params": {"candidates": named},
        "triggering_asset_events": {CANDIDATE: [SimpleNamespace(extra=extra) for extra in events]},
        "dag_run": SimpleNamespace(conf={}),
        "dag": dag,
    }
    monkeypatch.setattr("maskline_airflow.promotion.get_current_context", lambda: context)
    return dag.get_task("check_request").python_callable


def test_every_run_that_was_offered_is_a_candidate_once(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ({"run": f"/runs/{name}", "config": "m", "mask_ap": 0.5} for name in "ab")
    assert candidates_of(dag, monkeypatch, [], [first, second, first, {}])() == ["/runs/a/m", "/runs/b/m"]
    assert candidates_of(dag, monkeypatch, [" /runs/c "], [first])() == ["/runs/c"]


def test_without_a_candidate_the_run_says_how_to_name_one(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowFailException, match="there is no candidate\n  fix: give the folder"):
        candidates_of(dag, monkeypatch, [""], [{"somebody": "made it by hand"}])()


def test_one_that_waits_for_an_answer_holds_up_no_other(dag: DAG) -> None:
    assert dag.max_active_runs > 1
    assert dag.get_task("candidate.approve").pool != "gpu"
