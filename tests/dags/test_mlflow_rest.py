"""The pages that `make up` prints, asked of a server that answers as MLflow does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from mlflow_rest import experiment_pages

VIEW = {"key": "mlflow.sharedViewState.backbones", "value": "{}"}
EXPERIMENTS = [
    {"experiment_id": "3", "name": "nuts", "tags": [VIEW]},
    {"experiment_id": "0", "name": "Default"},
    {"experiment_id": "2", "name": "another's", "tags": [{"key": "mlflow.sharedViewState.mine", "value": "{}"}]},
    {
        "experiment_id": "1",
        "name": "shapes",
        "tags": [{"key": "x", "value": ""}, {"key": "mlflow.sharedViewState.backbones", "value": "{}"}],
    },
]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            right = self.path == "/api/2.0/mlflow/experiments/search" and asked["order_by"] == ["last_update_time DESC"]
            self.send_response(200 if right else 404)
            self.end_headers()
            self.wfile.write(request.param)

        def log_message(self, *_: object) -> None:
            pass

    listener = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}"
    listener.shutdown()
    listener.server_close()


@pytest.mark.parametrize("server", [json.dumps({"experiments": EXPERIMENTS}).encode()], indirect=True)
def test_experiments_with_our_view_are_named_with_its_page(server: str) -> None:
    view = "runs?viewStateShareKey=backbones&workflowType=machine_learning"
    assert experiment_pages(server) == {"nuts": f"{server}/#/experiments/3/{view}", "shapes": f"{server}/#/experiments/1/{view}"}


@pytest.mark.parametrize("server", [b"{}", b"<html>"], indirect=True)
def test_an_empty_mlflow_and_one_that_answers_nonsense_have_none(server: str) -> None:
    assert experiment_pages(server) == {}


def test_no_server_has_none() -> None:
    assert experiment_pages("http://127.0.0.1:9") == {}
