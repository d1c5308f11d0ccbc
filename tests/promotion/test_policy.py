"""Policies in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.promotion.policy import read_policy, shipped_policy
from tasks.running.errors import UserError


def test_shipped_policy_is_read_with_its_digest() -> None:
    policy = read_policy(shipped_policy())
    assert (policy.split, policy.split_chose_nothing, policy.fewest_objects) == ("test", True, 30)
    assert len(policy.digest) == 64


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"least_app": 0.3}, "the unknown rule least_app"),
        ({"least_ap": 30}, "least_ap is 30"),
        ({"split": "train"}, "split is 'train'"),
        ({"fewest_objects": 0}, "fewest_objects is 0"),
        ({"fewest_objects": True}, "fewest_objects is True"),
        ({"most_memory_gb": "16"}, "most_memory_gb is '16'"),
        ({"data_known": None}, "data_known is None"),
    ],
)
def test_wrong_rules_are_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    values = yaml.safe_load(shipped_policy().read_text()) | changes
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=problem):
        read_policy(tmp_path / "policy.yaml")


def test_a_rule_is_not_forgotten_but_waived(tmp_path: Path) -> None:
    values = yaml.safe_load(shipped_policy().read_text())
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(values | {"least_ap": None}))
    assert read_policy(tmp_path / "policy.yaml").least_ap is None
    del values["least_ap"]
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match="says nothing of least_ap"):
        read_policy(tmp_path / "policy.yaml")
