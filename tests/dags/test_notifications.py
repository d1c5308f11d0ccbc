"""Messages, from what a run's tasks have answered to what arrives at servers of this process, in place of a mail server's and Slack's."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from airflow.sdk import DAG
from maskline_airflow import notifications
from maskline_airflow.notifications import APPROVAL, SUCCESS, Message, SettingError, dag_settings, send

MESSAGE = Message(
    SUCCESS, "Done: mask_rcnn_zoo r", ["best: m, mask AP 0.500", "A is <better> {{ 7 * 7 }}"], {"Run": "http://airflow.example/r"}
)


class Sink:
    """What arrived: over HTTP path and decoded body, by mail sender, receivers and text."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.mails: list[tuple[str, list[str], str]] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                sink.requests.append((self.path, json.loads(body) if body.startswith("{") else body))
                is_api = self.path.startswith("/api/")
                self.send_response(200)
                self.send_header("Content-Type", "application/json" if is_api else "text/plain")
                self.end_headers()
                self.wfile.write(b'{"ok": true}' if is_api else b"ok")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.smtp_port = probe.getsockname()[1]
        self.smtp = Controller(self, hostname="127.0.0.1", port=self.smtp_port)
        self.smtp.start()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        mail = message_from_bytes(envelope.content, policy=policy.default)
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, f"{mail['Subject']}\n{next(mail.iter_parts()).get_content()}"))
        return "250 OK"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.smtp.stop()


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sink]:
    """Airflow's connections lead there."""
    sink = Sink()
    here = f"127.0.0.1:{sink.port}"
    connections = {
        "people": {"conn_type": "apprise", "extra": {"config": {"path": f"json://{here}/apprise", "tag": "all"}}},
        "mail": {
            "conn_type": "smtp",
            "host": "127.0.0.1",
            "port": sink.smtp_port,
            "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "maskline@example.org"},
        },
        "bot": {"conn_type": "slack", "password": "xoxb-1", "extra": {"base_url": f"http://{here}/api/"}},
        "hook": {"conn_type": "slackwebhook", "password": f"http://{here}/services/T/B/x"},
        "nowhere": {
            "conn_type": "smtp",
            "host": "127.0.0.1",
            "port": 1,
            "extra": {"disable_ssl": True, "disable_tls": True, "retry_limit": 1},
        },
    }
    for name, value in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(value))
    yield sink
    sink.close()


def test_nobody_is_told_by_default(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASKLINE_NOTIFY", raising=False)
    assert dag_settings() == {}
    send(MESSAGE)
    assert (sink.requests, sink.mails) == ([], [])


def test_message_arrives_at_each_kind_of_target(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "MASKLINE_NOTIFY", "apprise:people smtp:mail:anna@example.org,ben@example.org slack:bot:#training slack_webhook:hook"
    )
    send(MESSAGE)
    # What looks like a template is somebody's text.
    text = "best: m, mask AP 0.500\nA is <better> {{ 7 * 7 }}\nRun: http://airflow.example/r"
    (path, apprise), (api, bot), (hook, webhook) = sink.requests
    assert (path, api, hook) == ("/apprise", "/api/chat.postMessage", "/services/T/B/x")
    assert (apprise["title"], apprise["message"], apprise["type"]) == (MESSAGE.title, text, "success")
    assert webhook["text"] == f"*{MESSAGE.title}*\n{text}"
    assert (bot["channel"], bot["text"]) == ("#training", webhook["text"])
    ((sender, receivers, mail),) = sink.mails
    assert (sender, receivers) == ("maskline@example.org", ["anna@example.org", "ben@example.org"])
    assert mail.startswith(f"{MESSAGE.title}\n")
    assert "A is &lt;better&gt; {{ 7 * 7 }}" in mail
    assert '<a href="http://airflow.example/r">Run</a>' in mail


def test_target_that_cannot_be_reached_is_a_line_in_the_log_and_keeps_nobody_else_from_being_told(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MASKLINE_NOTIFY", "smtp:nowhere:anna@example.org apprise:not_there apprise:people")
    with caplog.at_level(logging.WARNING, "maskline_airflow.notifications"):
        send(MESSAGE)
    told = [record.getMessage() for record in caplog.records if record.name == "maskline_airflow.notifications"]
    assert [line.split(" is not told of")[0] for line in told] == ["smtp:nowhere:anna@example.org", "apprise:not_there"]
    assert len(sink.requests) == 1


def test_only_what_is_chosen_is_told(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_NOTIFY", "apprise:people")
    monkeypatch.setenv("MASKLINE_NOTIFY_OF", "failure approval")
    send(MESSAGE)
    assert sink.requests == []
    assert "deadline" not in dag_settings()
    send(Message(APPROVAL, "t", ["x"], {}))
    assert len(sink.requests) == 1


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("MASKLINE_NOTIFY", "mail:anna@example.org", "MASKLINE_NOTIFY has 'mail:anna@example.org'\n  fix: write apprise:CONNECTION"),
        ("MASKLINE_NOTIFY", "smtp:mail", "fix: write "),
        ("MASKLINE_NOTIFY", "apprise:people:all", "fix: write "),
        ("MASKLINE_NOTIFY_OF", "failures", "MASKLINE_NOTIFY_OF has 'failures'\n  fix: name some of success, failure, approval, late"),
        ("MASKLINE_NOTIFY_LATE", "an hour", "MASKLINE_NOTIFY_LATE is 'an hour'\n  fix: give minutes, above 0"),
        ("MASKLINE_NOTIFY_LATE", "-3", "give minutes"),
    ],
)
def test_setting_that_is_wrong_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    monkeypatch.setenv("MASKLINE_NOTIFY", "apprise:people")
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError) as caught:
        dag_settings()
    assert told in str(caught.value)


def test_run_is_late_when_the_average_of_earlier_ones_and_the_time_beyond_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_NOTIFY", "apprise:people")
    monkeypatch.setenv("MASKLINE_NOTIFY_LATE", "45")
    deadline = dag_settings()["deadline"]
    assert deadline.reference.serialize_reference() == {"reference_type": "AverageRuntimeDeadline", "max_runs": 10, "min_runs": 3}
    assert deadline.interval.total_seconds() == 45 * 60
    # Airflow finds it by its name, in the process that tells.
    assert deadline.callback.path == "maskline_airflow.notifications.tell_of_late_run"


Told = Callable[[], dict[str, Any]]


@pytest.fixture
def told(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> Told:
    """The last message that arrived."""
    monkeypatch.setenv("MASKLINE_NOTIFY", "apprise:people")
    return lambda: {key: sink.requests[-1][1][key] for key in ("title", "message", "type")} if sink.requests else {}


def context(states: dict[str, str], xcoms: dict[tuple[str, int, str], Any], dag_id: str = "mask_rcnn_zoo") -> Any:
    """A run as a callback sees it."""
    ti = SimpleNamespace(
        get_task_states=lambda dag_id, run_ids: dict.fromkeys(run_ids, states),
        xcom_pull=lambda task_ids, map_indexes, key: xcoms.get((task_ids, map_indexes, key)),
    )
    return {"dag": DAG(dag_id), "run_id": "manual__2026-01-02T03:04:05+00:00", "ti": ti, "reason": "task_failure"}


RUN = "http://airflow.example/dags/{}/runs/manual__2026-01-02T03%3A04%3A05%2B00%3A00"
COMPARED = {
    "best": "resnet50",
    "mask_ap": 0.4321,
    "verdicts": ["resnet50 is better than inception_v2: +3.1 points (1.0 to 5.2)"],
    "not_evaluated": [],
    "page_url": "http://mlflow.example/page",
    "mlflow_url": "http://mlflow.example/side-by-side",
}


def test_run_that_ended_well_tells_its_numbers_its_verdict_and_where_to_look(told: Told) -> None:
    data = {"name": "kitchen", "changed": True, "images": {"train": 90, "val": 10}}
    xcoms = {("materialize", -1, "return_value"): {"summary": data}, ("compare", -1, "return_value"): {"summary": COMPARED}}
    states = {"materialize": "success", "backbone.train_0": "success", "backbone.train_1": "success", "compare": "success"}
    notifications.tell_of_success(context(states, xcoms))
    assert told() == {
        "title": "Done: mask_rcnn_zoo manual__2026-01-02T03:04:05+00:00",
        "message": "best: resnet50, mask AP 0.432\n"
        "resnet50 is better than inception_v2: +3.1 points (1.0 to 5.2)\n"
        "data set kitchen: new records (90 train, 10 val)\n"
        f"Run: {RUN.format('mask_rcnn_zoo')}\n"
        "Comparison: http://mlflow.example/page\n"
        "MLflow: http://mlflow.example/side-by-side",
        "type": "success",
    }


def test_schedules_run_that_found_nothing_new_tells_nobody(told: Told) -> None:
    notifications.tell_of_success(context({"anything_new": "skipped", "compare": "skipped"}, {}))
    assert told() == {}


def test_run_that_failed_names_what_failed_with_the_way_out_and_what_there_is_all_the_same(told: Told) -> None:
    states = {"backbone.train_0": "success", "backbone.train_1": "failed", "compare": "success", "every_backbone_finished": "failed"}
    xcoms = {
        ("backbone.train", 1, "error"): "error: record 7 is broken fix: mend it",
        ("longest_first", -1, "return_value"): ["resnet50", "resnet101"],
        ("compare", -1, "return_value"): {"summary": {**COMPARED, "not_evaluated": ["resnet101"]}},
    }
    notifications.tell_of_failure(context(states, xcoms))
    message = told()["message"].splitlines()
    assert told()["type"] == "failure"
    assert message[:3] == [
        "backbone.train of resnet101 failed: error: record 7 is broken fix: mend it",
        "every_backbone_finished failed",
        "best: resnet50, mask AP 0.432",
    ]
    assert "not evaluated: resnet101" in message
    assert f"backbone.train of resnet101: {RUN.format('mask_rcnn_zoo')}/tasks/backbone.train/mapped/1" in message


def test_champion_that_fell_is_told_with_its_numbers(told: Told) -> None:
    summary = {
        "name": "kitchen",
        "version": 3,
        "config": "resnet50",
        "sentence": "mask AP 0.5000 -> 0.3000: it has fallen by more than 0.02",
        "drift": ["val, objects by size: distance 0.30"],
        "mlflow_url": None,
    }
    xcoms = {("reassess", -1, "return_value"): {"summary": summary}, ("reassess", -1, "error"): "the champion has fallen"}
    notifications.tell_of_failure(context({"reassess": "failed"}, xcoms, "evaluate_champion"))
    lines = told()["message"].splitlines()
    assert lines[:3] == [
        "reassess failed: the champion has fallen",
        "version 3 (resnet50) of kitchen: mask AP 0.5000 -> 0.3000: it has fallen by more than 0.02",
        "the data has drifted: val, objects by size: distance 0.30",
    ]


def test_promotions_tell_who_became_champion_and_who_did_not(told: Told) -> None:
    decided = {"name": "kitchen", "version": 7, "config": "resnet50", "champion_before": 3}
    states = {
        "candidate.gate_0": "success",
        "candidate.decide_0": "success",
        "candidate.gate_1": "skipped",
        "candidate.decide_1": "skipped",
    }
    xcoms = {
        ("candidate.gate", 0, "return_value"): {"summary": {}},
        ("candidate.decide", 0, "return_value"): {"summary": decided},
        (
            "candidate.gate",
            1,
            "reason",
        ): "version 8 (inception_v2) of kitchen is refused\n  least_ap: mask AP is 0.0500, at least 0.1 is asked",
    }
    notifications.tell_of_success(context(states, xcoms, "promote"))
    assert told()["message"].splitlines()[:3] == [
        "version 7 (resnet50) is the champion of kitchen, before it version 3",
        "version 8 (inception_v2) of kitchen is refused",
        "  least_ap: mask AP is 0.0500, at least 0.1 is asked",
    ]


def test_late_run_is_told_of_as_airflow_knows_it(told: Told) -> None:
    run = {"dag_id": "retrain_weekly", "dag_run_id": "r", "start_date": "2026-01-02T03:04:05.678Z"}
    notifications.tell_of_late_run(context={"dag_run": run, "deadline": {"id": "1"}})
    assert told() == {
        "title": "Late: retrain_weekly r",
        "message": "It began at 2026-01-02 03:04:05 UTC, and runs for more than 30 minutes beyond the average of its last 10 runs.\n"
        "It goes on: nothing was stopped.\nRun: http://airflow.example/dags/retrain_weekly/runs/r",
        "type": "warning",
    }


def test_of_a_run_of_which_nothing_can_be_had_people_are_told_all_the_same(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    def gone(**_: Any) -> None:
        raise ConnectionError("gone")

    some = context({}, {}) | {"ti": SimpleNamespace(get_task_states=gone, xcom_pull=gone)}
    notifications.tell_of_failure(some)
    assert told()["message"] == f"task_failure\nRun: {RUN.format('mask_rcnn_zoo')}"
    assert "the message is short" in caplog.text


def test_long_message_is_cut() -> None:
    text = Message(SUCCESS, "t", ["x" * 1000, *map(str, range(30))], {"Run": "http://r"}).text().splitlines()
    assert (len(text[0]), text[-2:]) == (304, ["and 19 lines more", "Run: http://r"])
