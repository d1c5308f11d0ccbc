"""The way of a candidate to the champion's place, as tasks of whichever DAG is being defined. The form is `form.promotion_fields`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Context, Param, get_current_context, task, task_group
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from maskline_airflow import notifications
from maskline_airflow.assets import CANDIDATE
from maskline_airflow.form import template
from maskline_airflow.pipeline import ON_GPU, refuse_unknown_fields
from maskline_airflow.step_operator import StepOperator

PROMOTE, KEEP = "Promote", "Keep the champion"
_SHORTEST_REASON = 5
_HOURS = 72
_OF_THE_SAME = "ti.xcom_pull(task_ids='candidate.{}', map_indexes=ti.map_index)"


class Promote(StepOperator):
    """The step `promote`; skipped, with the reason in log and XCom, where the champion stays."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(step="promote", **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        result = super().execute(context)
        if result["status"] in ("refused", "skipped"):
            reason = _why_not(result)
            context["ti"].xcom_push(key="reason", value=reason)
            raise AirflowSkipException(reason)
        return result


def _why_not(result: Mapping[str, Any]) -> str:
    summary = result["summary"]
    which = f"version {summary['version']} ({summary['config']}) of {summary['name']}"
    if result["status"] == "skipped":
        return f"{which} is the champion already"
    failed = [f"{rule}: {found['evidence']}" for rule, found in summary["rules"].items() if not found["passed"]]
    if summary["decision"] == "refused":
        return "\n  ".join([f"{which} is refused", *failed])
    return f"{which} is declined"


class Approval(HITLOperator):
    """Asks a person whether a candidate that has passed its gate becomes the champion; no answer in time is a no.

    Answers with `promote`, `by` and `reason`. `gate` is the result of the gate; `hours` is how long the answer may take.
    """

    template_fields = (*HITLOperator.template_fields, "gate", "hours", "instance_name")

    def __init__(self, *, gate: Any, hours: Any, instance_name: Any, **kwargs: Any) -> None:
        super().__init__(
            subject="A model waits for approval",
            options=[PROMOTE, KEEP],
            defaults=[KEEP],
            response_timeout=timedelta(hours=_HOURS),
            **kwargs,
        )
        self.gate, self.hours, self.instance_name = gate, hours, instance_name

    def execute(self, context: Context) -> Any:
        summary = self.gate["summary"]
        self.response_timeout = timedelta(hours=float(self.hours or _HOURS))
        self.subject = f"{summary['config']} passes all rules: shall it be the champion of {summary['name']}?"
        self.body = _question(summary)
        # Not before: what has no value yet may be no parameter of a task that begins.
        self.params = ParamsDict({"reason": _reason_field()})
        evidence = [f"{rule}: {found['evidence']}" for rule, found in summary["rules"].items()]
        ti = context["ti"]
        # The provider's own link leads nowhere where the task is mapped.
        link = f"{notifications.task_address(ti.dag_id, ti.run_id, ti.task_id, ti.map_index)}/required_actions"
        notifications.tell_of_approval(self.subject, evidence, link, self.response_timeout.total_seconds() / 3600)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        answer = super().execute_complete(context, event)
        if event.get("timedout"):
            return _answered(False, "nobody", f"nobody has answered within {self.hours or _HOURS} hours")
        by = (answer["responded_by_user"] or {}).get("name") or "unknown"
        reason = " ".join(str(answer["params_input"].get("reason") or "").split())
        wants = answer["chosen_options"] == [PROMOTE]
        if not reason:
            # Airflow's form asks for one; its REST API does not.
            return _answered(False, by, f"{by} has given no reason to {'promote it' if wants else 'keep the champion'}")
        # The ledger takes no reason of a letter or two, which the form lets through.
        return _answered(wants, by, reason if len(reason) >= _SHORTEST_REASON else f"{by} says: {reason}")


def _answered(promote: bool, by: str, reason: str) -> dict[str, Any]:
    return {"promote": promote, "by": by, "reason": reason}


def _reason_field() -> Param:
    why = "Why; it is kept with the decision, and with your name."
    return Param(None, type="string", minLength=1, title="Reason", description=why)


def _question(summary: Mapping[str, Any]) -> str:
    """What a person needs to decide, as Markdown."""
    before = f"version {summary['champion_before']}" if summary["champion_before"] else "nobody yet"
    rows = [f"| {rule} | {found['evidence'].replace('|', '/')} |" for rule, found in summary["rules"].items()]
    return "\n".join(
        [
            f"Version {summary['version']} of **{summary['name']}** (`{summary['config']}`) passes all rules. The champion is {before}.",
            "",
            "| rule | evidence |",
            "|---|---|",
            *rows,
        ]
    )


def promotion() -> None:
    """Adds the tasks to the DAG that is being defined."""

    @task
    def check_request() -> list[str]:
        context = get_current_context()
        refuse_unknown_fields(context)
        named = [line.strip() for line in context["params"]["candidates"] or [] if line.strip()]
        events = [event.extra for event in context["triggering_asset_events"].get(CANDIDATE, ())]
        offered = [f"{extra['run']}/{extra['config']}" for extra in events if {"run", "config"} <= set(extra)]
        found = list(dict.fromkeys(named or offered))
        if not found:
            raise AirflowFailException(
                "there is no candidate\n  fix: give the folder of a model or of a run in the field Candidates, or let a schedule offer its "
                "runs: `offer_for_promotion: true`"
            )
        return found

    @task_group
    def candidate(folder: str) -> None:
        named: dict[str, Any] = {
            "instance_name": folder,
            "map_index_template": "{{ task.instance_name.rstrip('/').split('/')[-1] }}",
        }
        policy = {"--policy": template("policy")}
        nominate = StepOperator(
            task_id="nominate",
            step="nominate",
            arguments=["{{ task.instance_name }}"],
            options=policy,
            **named,
        )
        evaluate = StepOperator(
            task_id="evaluate",
            step="evaluate",
            arguments=[nominate.output["model"]],
            options={"--split": f"{{{{ {_OF_THE_SAME.format('nominate')}['summary']['split'] }}}}"},
            **ON_GPU,
            **named,
        )
        gate = Promote(
            task_id="gate",
            arguments=[evaluate.output["model"], "--gate"],
            options={**policy, "--approved-by": "the rules", "--reason": "the gate of the DAG promote"},
            **named,
        )
        approve = Approval(task_id="approve", gate=gate.output, hours=template("hours_to_answer"), **named)
        answer = _OF_THE_SAME.format("approve")
        decide = Promote(
            task_id="decide",
            arguments=[evaluate.output["model"], f"{{{{ '' if {answer}['promote'] else '--decline' }}}}"],
            options={**policy, "--approved-by": f"{{{{ {answer}['by'] }}}}", "--reason": f"{{{{ {answer}['reason'] }}}}"},
            **named,
        )
        approve >> decide

    candidate.expand(folder=check_request())
