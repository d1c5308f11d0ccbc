"""Secrets of the environment in texts that are shown and kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tasks import cli
from tasks.running.concealment import without_secrets

PLANTED = {
    "AWS_ACCESS_KEY_ID": "an-id-is-none",
    "AWS_SECRET_ACCESS_KEY": "planted/key+1",
    "AWS_SHARED_CREDENTIALS_FILE": "/run/secrets/aws",
    "GOOGLE_APPLICATION_CREDENTIALS": "/run/secrets/google.json",
    "MLFLOW_TRACKING_TOKEN": "planted-token",
    "MLFLOW_TRACKING_URI": "https://anna:planted%40address@mlflow.example:5000/path",
    "HTTPS_PROXY": "http://only-a-token@proxy.example",
    "SHORT_TOKEN": "true",
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key planted/key+1, token planted-token.", "key ***, token ***."),
        # As they are given, as they are meant, and without what was before them.
        ("https://anna:planted%40address@mlflow.example:5000/path/x", "https://***@mlflow.example:5000/path/x"),
        ("nonnumeric port: 'planted%40address@mlflow.example'", "nonnumeric port: '***@mlflow.example'"),
        ("user anna, password planted@address", "user anna, password ***"),
        ("proxy only-a-token", "proxy ***"),
        # Nobody's of this environment.
        ("s3://key:word@bucket/a and ssh://git@host/x", "s3://***@bucket/a and ssh://***@host/x"),
        # No secrets.
        ("an-id-is-none /run/secrets/aws /run/secrets/google.json true", "an-id-is-none /run/secrets/aws /run/secrets/google.json true"),
        ("http://mlflow.example/a?mail=x@y.example and anna@example.org", "http://mlflow.example/a?mail=x@y.example and anna@example.org"),
    ],
)
def test_what_stays_of_a_text(text: str, shown: str) -> None:
    assert without_secrets(text, PLANTED) == shown


def test_neither_an_error_nor_its_traceback_tells_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "planted-" + "x" * 40

    def broken(*_: object) -> None:
        # Cut where messages are cut, half of it would not be known for one.
        raise ValueError("a" * 480 + secret)

    monkeypatch.setattr("tasks.compare.compare", broken)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("MASKLINE_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setattr(sys, "argv", ["maskline", "compare", str(tmp_path)])
    with pytest.raises(SystemExit):
        cli.main()
    told = capsys.readouterr().err
    assert "aaa***" in told
    assert "planted" not in told
    (traceback,) = (tmp_path / "workspace" / "tracebacks").iterdir()
    assert "in broken" in traceback.read_text()
    assert "planted" not in traceback.read_text()
