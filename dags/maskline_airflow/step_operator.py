"""The one operator of ours: it runs a step of maskline as a command in the trainer environment.

Deployment settings, read from the worker's environment when a task runs (never while a DAG file is parsed):

    MASKLINE_RUNNER      where the command runs, step_runner.py
    MASKLINE_WORKSPACE   where runs, data sets and step logs are written to, storage.py
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.configuration import conf
from airflow.sdk import (
    BaseOperator,
    BaseOperatorLink,
    Context,
    ExceptionRetryPolicy,
    ResumableJobMixin,
    RetryRule,
)
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from maskline_airflow import step_runner, storage
from maskline_airflow.concealment import hide_environment
from maskline_airflow.step_log import as_file_name, new_try, task_folder
from maskline_airflow.step_runner import (
    FAILED,
    LOST,
    OUT_OF_MEMORY,
    PREEMPTED,
    RUNNING,
    SUCCEEDED,
    Outcome,
    StartedStep,
    Step,
    UnreachableError,
)

USER_ERROR = 2
"""Exit code of a step whose input a person has to mend; trying again would end the same way."""

GPU_POOL = "gpu"
"""A task of this pool gets as many GPUs as it takes slots."""

GPUS_PER_TRAINING = "MASKLINE_GPUS_PER_TRAINING"
"""Variable of the deployment that the DAGs are read with: a task's slots have to be known before it runs."""

_TAIL_LINES = 15
_LONGEST_ERROR = 280
_SILENT_SECONDS = 600.0
"""An engine or cluster may be restarted; one that is silent for longer fails the task, and its next try looks again."""


_MEMORY_FIX = (
    "ask for less at a time: fewer images per step, a smaller image size, fewer processes; or give it more: a machine with more memory, "
    "a higher limit, fewer slots of the pool. `maskline plan` tells what a training needs. Then clear this task: it goes on from its "
    "checkpoint"
)


class PreemptedError(AirflowException):
    """A step that was ended because its place was needed, or went away with its machine; it goes on wherever it is started next."""


# Whoever takes a machine away does not give it back sooner for waiting.
AT_ONCE_AFTER_PREEMPTION = ExceptionRetryPolicy(
    [RetryRule(PreemptedError, retry_delay=timedelta(0), reason="preempted: tried again at once")]
)


def gpus_per_training() -> int:
    text = os.environ.get(GPUS_PER_TRAINING) or "1"
    if not (text.isdecimal() and int(text)):
        raise ValueError(f"{GPUS_PER_TRAINING} is {text!r}; give a whole number above zero, no more than the pool `{GPU_POOL}` has slots")
    return int(text)


def run_dir(run_name: str | None, run_id: str) -> str:
    """The folder of a pipeline run: the name that was asked for, else one made of the DAG run's id."""
    return f"{storage.workspace()}/runs/{run_name.strip() if run_name else as_file_name(run_id)}"


def _in_short(text: str) -> str:
    """Of a step's last words those that say what is wrong and how to mend it, else the first and the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    told = lines[errors[-1] :] if errors else list(dict.fromkeys([*lines[:1], *lines[-1:]]))
    return " ".join(told)[:_LONGEST_ERROR]


class MlflowRunLink(BaseOperatorLink):
    """The button of a task that opens what it wrote to MLflow."""

    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:  # noqa: ARG002
        """The address as far as it is known; Airflow stores it when the task ends, the operator when it starts."""
        return getattr(operator, "mlflow_url", None) or ""


class ComparisonLink(BaseOperatorLink):
    """The button of the comparison that opens its page, kept by MLflow."""

    name = "Comparison"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:  # noqa: ARG002
        return getattr(operator, "page_url", None) or ""


class StepOperator(ResumableJobMixin, BaseOperator):
    """Runs `<trainer> <step> <arguments> <options> --result FILE` and answers with the step's result.

    The result's JSON (names, paths, small numbers) is the task's XCom, and each of its `outputs` one more under its
    own name, so that `materialize.output["dataset"]` is the path that `materialize` wrote and orders the two tasks.

    Where the step runs is the deployment's to say; it outlives the task everywhere. When the task is killed, the next try re-attaches to
    the running step, or takes the result that it has left meanwhile. Marking the task failed or clearing it stops the
    step: SIGTERM, time to write a checkpoint, then SIGKILL.

    A step that ends with code 2 has told a person what to mend, and one that ran out of memory would do so again: the task fails at once.
    One that was preempted is tried again at once, and after any other code after a while. Code 3 is an answer, with a result: no.

    :param step: name of the step, a sub-command of the trainer's command line.
    :param arguments: positional arguments and flags, without those that are empty. (templated)
    :param options: options by name, such as `--steps`. One whose value is None or empty is left out; one of several lines is given once
        for each line. (templated)
    :param instance_name: shown in place of the map index when the task is mapped. (templated)
    :param mlflow_url: where the link leads until the step's own result has an `mlflow_url`. (templated)
    """

    # In the order of rendering: arguments and options may say `task.instance_name`.
    template_fields: Sequence[str] = ("instance_name", "arguments", "options", "mlflow_url")
    operator_extra_links: tuple[BaseOperatorLink, ...] = (MlflowRunLink(),)
    external_id_key = "step_process"
    ui_color = "#e8f1f8"

    def __init__(
        self,
        *,
        step: str,
        arguments: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
        instance_name: Any = None,
        mlflow_url: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"retry_policy": AT_ONCE_AFTER_PREEMPTION, **kwargs})
        self.step = step
        self.arguments = list(arguments)
        self.options = dict(options or {})
        self.instance_name = instance_name
        self.mlflow_url = mlflow_url
        self._started: StartedStep | None = None
        self._killed = False

    def execute(self, context: Context) -> dict[str, Any]:
        # What a step prints is shown here, and a library may quote what it was given.
        hide_environment()
        self._publish_link(context)
        try:
            self.execute_resumable(context)
        except Exception as error:
            # For whoever tells people of the run; what failed stays what it is where that cannot be kept.
            with contextlib.suppress(Exception):
                context["ti"].xcom_push(key="error", value=_in_short(str(error)))
            raise
        result = self._result()
        # Forgotten once it is done, so that clearing the task runs the step again; what is done, the step knows itself.
        context["task_state_store"].delete(self.external_id_key)
        if self._started is not None:
            self._started.clear()
        self.mlflow_url = result["summary"].get("mlflow_url") or self.mlflow_url
        for name, path in result["outputs"].items():
            context["ti"].xcom_push(key=name, value=path)
        return result

    def command(self) -> list[str]:
        """The step's name, arguments and given options, as the trainer's parser gets them (but for `--result`)."""
        command = [self.step, *filter(None, (str(argument).strip() for argument in self.arguments))]
        for name, value in self.options.items():
            lines = "" if value is None else str(value)
            command += [word for line in lines.splitlines() if line.strip() for word in (name, line.strip())]
        return command

    def submit_job(self, context: Context) -> dict[str, Any]:
        ti = context["ti"]
        folder = new_try(task_folder(storage.local_folder(), ti.run_id, ti.task_id, ti.map_index), ti.try_number)
        command = [*self.command(), "--result", str(folder / "result.json")]
        task = {name: str(getattr(ti, name)) for name in ("dag_id", "run_id", "task_id", "try_number")}
        task["map_index"] = str(-1 if ti.map_index is None else ti.map_index)
        self.log.info("The step: %s", shlex.join(command))
        self.log.info("The step's log is %s", folder / "log.txt")
        gpus = self.pool_slots if self.pool == GPU_POOL else 0
        self._started, identity = step_runner.start(Step(command, folder, self._environment(context), task, gpus))
        return identity

    def get_job_status(self, external_id: Any, context: Context) -> str:  # noqa: ARG002
        self._started = step_runner.attach(external_id)
        status = self._started.outcome().status
        if status in (FAILED, LOST):
            self._started.clear()
        return status

    def is_job_active(self, status: str) -> bool:
        return status == RUNNING

    def is_job_succeeded(self, status: str) -> bool:
        return status == SUCCEEDED

    def poll_until_complete(self, external_id: Any, context: Context) -> None:  # noqa: ARG002
        """Shows the step's output as it comes, and returns when the step has ended well."""
        started = self._started = self._started or step_runner.attach(external_id)
        if self._killed:
            started.stop()
        tail: deque[str] = deque(maxlen=_TAIL_LINES)
        told, answered = "", time.monotonic()
        outcome = Outcome(RUNNING)
        while outcome.status == RUNNING:
            try:
                outcome = started.outcome()
                self._print(started.new_lines(whole=outcome.status != RUNNING), tail)
                answered = time.monotonic()
            except UnreachableError as error:
                if time.monotonic() - answered > _SILENT_SECONDS:
                    raise
                outcome = Outcome(RUNNING, reason=str(error))
            if outcome.status == RUNNING:
                if outcome.reason and outcome.reason != told:
                    self.log.info("Waiting: %s", outcome.reason)
                told = outcome.reason
                time.sleep(started.poll_seconds)
        if outcome.status == SUCCEEDED:
            return
        started.clear()
        words = "\n".join(tail)
        reason = f" ({outcome.reason})" if outcome.reason else ""
        if outcome.status == LOST:
            raise PreemptedError(f"{self.step} vanished without an exit code; its last words:\n{words}")
        if outcome.exit_code == USER_ERROR:
            raise AirflowFailException(f"{self.step} needs a person:\n{words}")
        if outcome.cause == OUT_OF_MEMORY:
            raise AirflowFailException(f"{self.step} ran out of memory{reason}; its last words:\n{words}\n  fix: {_MEMORY_FIX}")
        how = "was ended" if outcome.exit_code is None else f"ended with code {outcome.exit_code}"
        kind = PreemptedError if outcome.cause == PREEMPTED else AirflowException
        raise kind(f"{self.step} {how}{reason}; its last words:\n{words}")

    def get_job_result(self, external_id: Any, context: Context) -> dict[str, Any]:  # noqa: ARG002
        return self._result()

    def on_kill(self) -> None:
        # Airflow calls this wherever the task stands: a step that is just being started is stopped as soon as its identity is known.
        self._killed = True
        if self._started is not None:
            self._started.stop()

    def _result(self) -> dict[str, Any]:
        assert self._started is not None, "only a started step has a result"
        try:
            result: dict[str, Any] = json.loads(self._started.result.read_text())
        except FileNotFoundError:
            raise AirflowException(
                f"{self.step} ended well, and there is no {self._started.result}\n"
                "  fix: mount for the step the same workspace as the worker's, where MASKLINE_WORKSPACE says"
            ) from None
        return result

    def _publish_link(self, context: Context) -> None:
        if self.mlflow_url:
            context["ti"].xcom_push(key=MlflowRunLink().xcom_key, value=self.mlflow_url)

    def _print(self, lines: list[str], tail: deque[str]) -> None:
        tail.extend(lines)
        for line in lines:
            self.log.info(line)

    def _environment(self, context: Context) -> dict[str, str]:
        ti = context["ti"]
        base_url = conf.get("api", "base_url", fallback="") or "http://localhost:8080"
        return {
            "PYTHONUNBUFFERED": "1",
            **storage.environment(),
            "MASKLINE_AIRFLOW_DAG_ID": ti.dag_id,
            "MASKLINE_AIRFLOW_RUN_ID": ti.run_id,
            "MASKLINE_AIRFLOW_TASK_ID": ti.task_id,
            "MASKLINE_AIRFLOW_TRY_NUMBER": str(ti.try_number),
            "MASKLINE_AIRFLOW_URL": f"{base_url.rstrip('/')}/dags/{ti.dag_id}/runs/{quote(ti.run_id)}",
        }
