"""The little that the local stack asks of Airflow's REST API."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

_TIMEOUT_SECONDS = 60.0
_FAILURES = (OSError, http.client.HTTPException)  # urllib's errors are OSErrors


# This machine itself is never behind a proxy.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers_ok(url: str) -> bool:
    try:
        with _DIRECT.open(url, timeout=_TIMEOUT_SECONDS) as response:
            return bool(response.status == http.client.OK)
    except _FAILURES:
        return False


class AirflowRest:
    """Answers of one api-server, as decoded JSON. Logs in at the first request that needs it."""

    def __init__(self, url: str, login: tuple[str, str]) -> None:
        self._url = url
        self._login = login
        self._token: str | None = None

    def scheduler_is_healthy(self) -> bool:
        try:
            return bool(self._request("GET", "/api/v2/monitor/health")["scheduler"]["status"] == "healthy")
        except _FAILURES:
            return False

    def has_dag(self, dag_id: str) -> bool:
        try:
            self._request("GET", f"/api/v2/dags/{dag_id}")
        except _FAILURES:
            return False
        return True

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Creates the pool where it is missing; one that exists keeps the slots that somebody gave it."""
        pool = {"name": name, "slots": slots, "description": description}
        try:
            self._request("POST", "/api/v2/pools", pool)
        except urllib.error.HTTPError as error:
            if error.code != http.client.CONFLICT:
                raise

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Starts a run and returns its id."""
        run = self._request("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})
        return str(run["dag_run_id"])

    def runs(self, dag_id: str) -> list[str]:
        """The ids of the DAG's runs, the latest first."""
        path = f"/api/v2/dags/{dag_id}/dagRuns?order_by=-run_after&limit=100"
        return [str(run["dag_run_id"]) for run in self._request("GET", path)["dag_runs"]]

    def run_state(self, dag_id: str, run_id: str) -> str:
        return str(self._request("GET", self._run(dag_id, run_id))["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return list(self._request("GET", f"{self._run(dag_id, run_id)}/taskInstances?limit=100")["task_instances"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> Any:
        path = f"{self._run(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/{key}"
        return self._request("GET", path)["value"]

    def _run(self, dag_id: str, run_id: str) -> str:
        return f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}"

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        if self._token is None:
            user, password = self._login
            self._token = self._send("POST", "/auth/token", {"username": user, "password": password}, {})["access_token"]
        return self._send(method, path, body, {"Authorization": f"Bearer {self._token}"})

    def _send(self, method: str, path: str, body: dict[str, Any] | None, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(
            self._url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **headers},
            method=method,
        )
        with _DIRECT.open(request, timeout=_TIMEOUT_SECONDS) as response:
            return json.load(response)
