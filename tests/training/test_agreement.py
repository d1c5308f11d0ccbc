"""How far two lists of losses agree, by hand."""

from __future__ import annotations

import math

import pytest

from tasks.training.agreement import loss_agreement, metric_differences


def rows(*totals: float, mask: float = 1.0) -> list[dict[str, float]]:
    return [{"step": step, "Loss/total_loss": total, "Loss/mask": mask, "step_seconds": step} for step, total in enumerate(totals, start=1)]


def test_how_long_they_agree_at_each_level() -> None:
    # Relative differences 0, 1e-6, 1e-3, 1e-6: later ones do not count for a level that was left.
    found = loss_agreement(rows(2, 2, 2, 2), rows(2, 2 + 2e-6, 2 + 2e-3, 2 + 2e-6))
    assert found.steps == 4
    assert found.agrees_until[0.0] == 1
    assert found.agrees_until[1e-7] == 1
    assert found.agrees_until[1e-5] == found.agrees_until[1e-4] == 2
    assert found.agrees_until[1e-2] == 4
    assert found.largest == pytest.approx(1e-3)
    assert found.at_step == 3
    assert not found.within(9e-4)
    assert found.within(1.1e-3)


def test_a_small_loss_counts_by_the_total() -> None:
    found = loss_agreement(rows(10, mask=0.001), rows(10, mask=0.002))
    assert found.largest == pytest.approx(1e-4)


def test_only_steps_that_both_have_count_and_none_is_no_agreement() -> None:
    assert loss_agreement(rows(1, 2, 3), rows(1, 2)).steps == 2
    assert loss_agreement(rows(1, 2), rows(1, 2, 7)).largest == 0
    nothing = loss_agreement(rows(1), [])
    assert nothing.steps == 0
    assert not nothing.within(1.0)


def test_what_is_no_number_agrees_with_its_like_alone() -> None:
    assert loss_agreement(rows(1, math.nan), rows(1, math.nan)).largest == 0
    assert loss_agreement(rows(1, math.nan), rows(1, 2)).largest == math.inf
    assert loss_agreement(rows(1), [{"step": 1, "Loss/total_loss": 1.0}]).largest == math.inf


def test_metrics() -> None:
    assert metric_differences({"ap": 0.5, "ar": 0.1}, {"ap": 0.25, "f": 1.0}) == {"ap": -0.25, "ar": None, "f": None}
