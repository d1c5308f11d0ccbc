"""Messages to people: a run that ended, well or not, a model that waits for approval, a run that takes longer than it used to.

    MASKLINE_NOTIFY       where to, with spaces between; nobody is told where it is empty (the default)
                            apprise:CONNECTION             whatever Apprise knows, as the connection says
                            smtp:CONNECTION:TO[,TO...]     mail, from the connection's `from_email`
                            slack:CONNECTION:CHANNEL       Slack, by a bot
                            slack_webhook:CONNECTION       Slack, by an incoming webhook
    MASKLINE_NOTIFY_OF    of what: some of success, failure, approval, late; default: all
    MASKLINE_NOTIFY_LATE  minutes beyond the average of the last ten runs before a run is late; default 30

CONNECTION is the id of one of Airflow's connections, which keeps addresses and secrets. A message that cannot be sent is a line in the log,
and changes nothing else. The DAG processor tells of runs, workers of approvals and of runs that are late: all read these settings.
"""

from __future__ import annotations

import html
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.configuration import conf
from airflow.sdk import BaseNotifier, Connection, Context
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.log import redact  # type: ignore[attr-defined]

from maskline_airflow.concealment import hide_connection

log = logging.getLogger(__name__)

SUCCESS, FAILURE, APPROVAL, LATE = "success", "failure", "approval", "late"
_EVENTS = (SUCCESS, FAILURE, APPROVAL, LATE)
_WORDS = {SUCCESS: "Done", FAILURE: "Failed", APPROVAL: "Waits for you", LATE: "Late"}
_RUNS, _FEWEST_RUNS = 10, 3
_LATE_MINUTES = 30.0
_MOST_LINES, _LONGEST_LINE = 12, 300


class SettingError(Exception):
    """What is wrong in a setting, with the way out."""


@dataclass(frozen=True)
class Message:
    """What people are told. `lines` are what happened and its numbers; `links` are addresses by what they lead to."""

    event: str
    title: str
    lines: Sequence[str]
    links: Mapping[str, str]

    def text(self) -> str:
        return "\n".join([*self._short(), *(f"{name}: {address}" for name, address in self.links.items())])

    def as_html(self) -> str:
        lines = [html.escape(line) for line in self._short()]
        links = [f'<a href="{html.escape(address, quote=True)}">{html.escape(name)}</a>' for name, address in self.links.items()]
        return "<br>\n".join([*lines, *links])

    def _short(self) -> list[str]:
        lines = [line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} ..." for text in self.lines for line in text.splitlines()]
        return lines if len(lines) <= _MOST_LINES else [*lines[:_MOST_LINES], f"and {len(lines) - _MOST_LINES} lines more"]


def is_on() -> bool:
    """Whether anybody is told of anything."""
    return bool(_targets())


def dag_settings() -> dict[str, Any]:
    """Arguments of a DAG whose runs people are told of; none where nobody is. Read where DAG files are parsed.

    SettingError where a setting is wrong, which Airflow shows as an import error of the DAGs.
    """
    if not is_on():
        return {}
    for target in _targets():
        _parts(target)
    settings: dict[str, Any] = {"on_success_callback": tell_of_success, "on_failure_callback": tell_of_failure}
    if LATE in _told_of():
        settings["deadline"] = DeadlineAlert(
            reference=DeadlineReference.AVERAGE_RUNTIME(max_runs=_RUNS, min_runs=_FEWEST_RUNS),
            interval=timedelta(minutes=_late_minutes()),
            callback=SyncCallback(tell_of_late_run),
        )
    return settings


def tell_of_success(context: Context) -> None:
    """Of a run that ended well and did something."""
    found = _Told(context)
    if not found.idle:
        send(Message(SUCCESS, found.title(SUCCESS), found.lines, found.links))


def tell_of_failure(context: Context) -> None:
    """Of a run that failed: which tasks, the first words of why, and what there is all the same."""
    found = _Told(context)
    send(Message(FAILURE, found.title(FAILURE), [*found.failures(), *found.lines], found.links))


def tell_of_approval(subject: str, body: Sequence[str], link: str, hours: float) -> None:
    """Of a decision that a person has to take."""
    lines = [*body, f"Without an answer within {hours:g} hour{'s' * (hours != 1)} nothing changes."]
    send(Message(APPROVAL, f"{_WORDS[APPROVAL]}: {subject}", lines, {"Answer": link}))


def tell_of_late_run(context: Mapping[str, Any]) -> None:
    """Of a run that takes longer than the average of those before it and a while. It goes on."""
    run = context["dag_run"]
    dag_id, run_id = run["dag_id"], run["dag_run_id"]
    since = str(run.get("start_date") or run.get("queued_at") or "")[:19].replace("T", " ")
    lines = [
        f"It began at {since} UTC, and runs for more than {_late_minutes():g} minutes beyond the average of its last {_RUNS} runs.",
        "It goes on: nothing was stopped.",
    ]
    send(Message(LATE, f"{_WORDS[LATE]}: {dag_id} {run_id}", lines, {"Run": run_address(dag_id, run_id)}))


def send(message: Message) -> None:
    """Tells everybody who is to be told of this; whoever cannot be reached is a line in the log."""
    try:
        if message.event not in _told_of():
            return
    except SettingError as error:
        log.error("Nobody is told: %s", error)
        return
    for target in _targets():
        try:
            notifier = _notifier(target, message)
            hide_connection(Connection.get(_parts(target)[1]))
            # Not called, which would take braces in the text for a template.
            notifier.notify({})
            log.info("Told %s: %s", target, message.title)
        except Exception as error:
            log.warning("%s is not told of %r: %s: %s", target, message.title, type(error).__name__, redact(str(error)))


def run_address(dag_id: str, run_id: str) -> str:
    base_url = conf.get("api", "base_url", fallback="") or "http://localhost:8080"
    return f"{base_url.rstrip('/')}/dags/{dag_id}/runs/{quote(run_id)}"


def task_address(dag_id: str, run_id: str, task_id: str, map_index: int | None = None) -> str:
    mapped = "" if map_index is None or map_index < 0 else f"/mapped/{map_index}"
    return f"{run_address(dag_id, run_id)}/tasks/{task_id}{mapped}"


class _Told:
    """What a run's tasks have answered, as far as it can be had: a callback has less of a run than a task."""

    def __init__(self, context: Mapping[str, Any]) -> None:
        self._context = context
        self._ti = context.get("ti")
        self.dag_id: str = context["dag"].dag_id
        run = context.get("dag_run")
        self.run_id: str = str(context.get("run_id") or getattr(run, "run_id", ""))
        self._states = self._task_states()
        self.lines: list[str] = []
        self.links = {"Run": run_address(self.dag_id, self.run_id)}
        for name in sorted(self._states):
            self._add(*_split(name))

    @property
    def idle(self) -> bool:
        """Whether a schedule's run found nothing new: a person need not know."""
        return self._states.get("anything_new") == "skipped"

    def title(self, event: str) -> str:
        return f"{_WORDS[event]}: {self.dag_id} {self.run_id}"

    def failures(self) -> Iterator[str]:
        """A line for each task that failed, with the first words of why."""
        models = self._pulled("longest_first", -1, "return_value") or []
        for name in sorted(name for name, state in self._states.items() if state == "failed"):
            task_id, index = _split(name)
            shown = f"{task_id} of {models[index]}" if task_id.startswith("backbone.") and index < len(models) else name
            why = self._pulled(task_id, index, "error")
            yield f"{shown} failed" + (f": {why}" if why else "")
            self.links[shown] = task_address(self.dag_id, self.run_id, task_id, index)
        if not self._states:
            yield str(self._context.get("reason") or "see its tasks")

    def _add(self, task_id: str, index: int) -> None:
        if task_id not in _TELLS:
            return
        result, reason = self._pulled(task_id, index, "return_value"), self._pulled(task_id, index, "reason")
        if isinstance(result, dict):
            lines, links = _TELLS[task_id](result["summary"])
            self.lines += lines
            self.links |= {name: address for name, address in links.items() if address}
        elif reason:
            self.lines.append(reason)

    def _task_states(self) -> dict[str, str | None]:
        try:
            return dict(self._ti.get_task_states(dag_id=self.dag_id, run_ids=[self.run_id])[self.run_id]) if self._ti else {}
        except Exception as error:
            log.warning("the message is short: the states of the tasks are not to be had: %s: %s", type(error).__name__, error)
            return {}

    def _pulled(self, task_id: str, index: int, key: str) -> Any:
        try:
            return self._ti.xcom_pull(task_ids=task_id, map_indexes=index, key=key) if self._ti else None
        except Exception as error:
            log.warning("the message is short: %s of %s is not to be had: %s: %s", key, task_id, type(error).__name__, error)
            return None


def _split(name: str) -> tuple[str, int]:
    """Task and map index, -1 where it has none, of a name such as `backbone.train_1`."""
    task_id, _, index = name.rpartition("_")
    return (task_id, int(index)) if task_id and index.isdigit() else (name, -1)


Part = tuple[list[str], dict[str, str]]


def _of_data(summary: Mapping[str, Any]) -> Part:
    images = ", ".join(f"{count} {split}" for split, count in summary["images"].items())
    return [f"data set {summary['name']}: {'new records' if summary['changed'] else 'the same records as before'} ({images})"], {}


def _of_comparison(summary: Mapping[str, Any]) -> Part:
    best = f"best: {summary['best']}" if summary["best"] else "no model has found anything"
    figure = f", mask AP {summary['mask_ap']:.3f}" if summary.get("mask_ap") is not None else ""
    missing = [f"not evaluated: {', '.join(summary['not_evaluated'])}"] if summary.get("not_evaluated") else []
    links = {"Comparison": summary.get("page_url") or "", "MLflow": summary.get("mlflow_url") or ""}
    return [best + figure, *summary.get("verdicts", ()), *missing], links


def _of_champion(summary: Mapping[str, Any]) -> Part:
    which = f"version {summary['version']} ({summary['config']}) of {summary['name']}"
    drift = [f"the data has drifted: {line}" for line in summary.get("drift", ())]
    return [f"{which}: {summary['sentence']}", *drift], {"MLflow": summary.get("mlflow_url") or ""}


def _of_gate(_summary: Mapping[str, Any]) -> Part:
    """Whoever has passed it, is told of by what was decided."""
    return [], {}


def _of_promotion(summary: Mapping[str, Any]) -> Part:
    line = f"version {summary['version']} ({summary['config']}) is the champion of {summary['name']}"
    before = f", before it version {summary['champion_before']}" if summary["champion_before"] else ""
    return [line + before], {"MLflow": summary.get("mlflow_url") or ""}


_TELLS = {
    "materialize": _of_data,
    "compare": _of_comparison,
    "reassess": _of_champion,
    "candidate.gate": _of_gate,
    "candidate.decide": _of_promotion,
}
"""By task: the lines and links that its result's summary gives a message. A task that was skipped gives its reason."""


def _told_of() -> tuple[str, ...]:
    words = os.environ.get("MASKLINE_NOTIFY_OF", "").split() or list(_EVENTS)
    if wrong := [word for word in words if word not in _EVENTS]:
        raise SettingError(f"MASKLINE_NOTIFY_OF has {wrong[0]!r}\n  fix: name some of {', '.join(_EVENTS)}, with spaces between")
    return tuple(words)


def _late_minutes() -> float:
    text = os.environ.get("MASKLINE_NOTIFY_LATE") or _LATE_MINUTES
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise SettingError(f"MASKLINE_NOTIFY_LATE is {text!r}\n  fix: give minutes, above 0")
    return minutes


def _targets() -> list[str]:
    return os.environ.get("MASKLINE_NOTIFY", "").split()


def _parts(target: str) -> tuple[str, str, str]:
    """Kind, connection and what follows of a target."""
    kind, _, rest = target.partition(":")
    connection, _, where = rest.partition(":")
    if kind not in _NOTIFIERS or not connection or bool(where) != (kind in ("smtp", "slack")):
        raise SettingError(
            f"MASKLINE_NOTIFY has {target!r}\n  fix: write apprise:CONNECTION, smtp:CONNECTION:TO, slack:CONNECTION:CHANNEL or "
            "slack_webhook:CONNECTION"
        )
    return kind, connection, where


def _notifier(target: str, message: Message) -> BaseNotifier:
    kind, connection, where = _parts(target)
    try:
        return _NOTIFIERS[kind](connection, where, message)
    except ModuleNotFoundError as error:
        raise SettingError(
            f"{target} needs the package {error.name}, which is not installed\n  fix: uv sync --project dags --extra notifications"
        ) from error


def _apprise(connection: str, _where: str, message: Message) -> BaseNotifier:
    from airflow.providers.apprise.notifications.apprise import AppriseNotifier
    from apprise import NotifyType

    kinds = {SUCCESS: NotifyType.SUCCESS, FAILURE: NotifyType.FAILURE, APPROVAL: NotifyType.INFO, LATE: NotifyType.WARNING}
    return AppriseNotifier(body=message.text(), title=message.title, notify_type=kinds[message.event], apprise_conn_id=connection)


def _smtp(connection: str, where: str, message: Message) -> BaseNotifier:
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    return SmtpNotifier(to=where.split(","), subject=message.title, html_content=message.as_html(), smtp_conn_id=connection)


def _slack(connection: str, where: str, message: Message) -> BaseNotifier:
    from airflow.providers.slack.notifications.slack import SlackNotifier

    return SlackNotifier(slack_conn_id=connection, channel=where, text=f"*{message.title}*\n{message.text()}")


def _slack_webhook(connection: str, _where: str, message: Message) -> BaseNotifier:
    from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier

    return SlackWebhookNotifier(slack_webhook_conn_id=connection, text=f"*{message.title}*\n{message.text()}")


_NOTIFIERS = {"apprise": _apprise, "smtp": _smtp, "slack": _slack, "slack_webhook": _slack_webhook}
