"""The page that explains the codes, against the codes themselves."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from tasks.records.checks import BadImageError, Check, DataError, Outcome

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checks.md"


def test_the_page_explains_every_code_once_in_order_and_with_its_outcome():
    rows = re.findall(r"^\| `([a-z-]+)` \| [^|]+ \| ([a-z ]+) \| [^|]+ \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(check.value, check.outcome.value) for check in Check]


def test_checks_stand_by_outcome():
    """Each outcome is one run of them, the mildest first; what is printed follows this order."""
    assert list(dict.fromkeys(check.outcome for check in Check)) == list(Outcome)
    assert [check.outcome for check in Check] == sorted((check.outcome for check in Check), key=list(Outcome).index)


@pytest.mark.parametrize("kind", [DataError, BadImageError])
def test_an_error_tells_its_code_and_comes_back_from_a_worker(kind):
    error = pickle.loads(pickle.dumps(kind(Check.IMAGE_EMPTY, "a.jpg: empty", "bring it")))
    assert type(error) is kind
    assert str(error) == "a.jpg: empty\n  fix: bring it\n  code: image-empty"
