"""Where the lines of a chart lie."""

from __future__ import annotations

import pytest

from tasks.comparison.charts import Axis, Chart, Series, axis


def test_points_lie_between_the_axes_ends():
    chart = Chart("", Axis("", 0.0, 10.0), Axis("", 0.0, 1.0), [])
    assert (chart.x(0), chart.x(5), chart.x(10)) == (chart.left, (chart.left + chart.right) / 2, chart.right)
    assert (chart.y(0), chart.y(1)) == (chart.bottom, chart.top)
    # What is beyond does not leave the picture.
    assert (chart.x(-3), chart.y(7)) == (chart.left, chart.top)
    assert chart.path(Series("", 0, [(0, 0), (10, 1)])) == f"{chart.left}.0,{chart.bottom}.0 {chart.right}.0,{chart.top}.0"


def test_a_tenfold_is_as_far_everywhere_on_an_axis_of_powers():
    powers = Axis("", 0.1, 1000.0, by_powers=True)
    assert [powers.share(value) for value in (0.1, 1, 10, 100, 1000)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert powers.ticks == pytest.approx([0.1, 1, 10, 100, 1000])
    assert Axis("", 0.9, 11.0, by_powers=True).ticks == pytest.approx([1, 2, 5, 10])


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 0.31, [0, 0.1, 0.2, 0.3]), (100, 400, [100, 200, 300, 400]), (0.42, 0.42, [])],
)
def test_ticks_are_round(low, high, ticks):
    assert Axis("", low, high).ticks == pytest.approx(ticks)


def test_an_axis_holds_its_values():
    assert axis("", [3.0, 8.0]).low == 0
    assert axis("", [3.0, 8.0]).high > 8
    assert not axis("", [3.0, 8.0], by_powers=True).by_powers
    assert axis("", [0.0, 800.0], by_powers=True).by_powers is False
    found = axis("", [0.01, 8.0], by_powers=True)
    assert (found.by_powers, found.low < 0.01, found.high > 8) == (True, True, True)
    for values in ([], [5.0], [0.0]):
        flat = axis("", values)
        assert flat.low < flat.high
        assert flat.ticks
