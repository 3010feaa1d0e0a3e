"""The report's charts, read back from their SVG, and its numbers as people read them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from screen.report.charts import Axis, Mark, Series, histogram, line_chart, short, tick_labels
from screen.report.words import seconds, share, shown


def test_lines_pass_through_their_points() -> None:
    """Against the chart's own grid: a value that stands at a grid line is drawn at that line."""
    svg = line_chart("loss", "d", [Series("a", [0, 50, 100], [0.0, 1.0, 0.5])], x_label="samples")
    rows = {float(t): float(y) - 4 for y, t in re.findall(r'y="([0-9.]+)" text-anchor="end">([0-9.]+)<', svg)}
    points = [tuple(map(float, p.split())) for p in re.findall(r"[ML]([0-9.]+ [0-9.]+)", svg)]
    assert points[0][1] == pytest.approx(rows[0.0], abs=0.2)
    assert points[1][1] == pytest.approx(rows[1.0], abs=0.2)
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)
    assert points[2][1] == pytest.approx((points[0][1] + points[1][1]) / 2, abs=0.2)


def test_points_that_cannot_be_drawn_break_a_line() -> None:
    nan = float("nan")
    broken = line_chart("l", "d", [Series("a", [0, 1, 2, 3], [1.0, nan, 2.0, 3.0])], x_label="x")
    assert re.findall("[ML]", re.search(r'd="([^"]*)"', broken)[1]) == ["M", "M", "L"]
    assert "nan" not in broken.lower() and "inf" not in broken.lower()
    with pytest.raises(ValueError, match="at most"):
        line_chart("l", "d", [Series(str(i), [0], [1.0]) for i in range(9)], x_label="x")


def test_bars_are_as_tall_as_their_counts() -> None:
    svg = histogram("n", "d", [0, 1, 2, 3], {"kept": [4, 0, 2], "fails": [4, 1, 0]}, Mark(1.0, "≥ 1", "high"))
    heights = {
        css: [float(h) for h in re.findall(rf'<rect class="{css}"[^>]*height="([0-9.]+)"', svg)]
        for css in ("kept", "fails")
    }
    assert heights["kept"][0] == heights["fails"][0] == pytest.approx(2 * heights["kept"][1], abs=0.2)
    assert heights["fails"][1] == pytest.approx(heights["kept"][1] / 2, abs=0.2)
    assert len(heights["kept"]) == 2
    shade = re.search(r'class="shade" x="([0-9.]+)"[^>]*width="([0-9.]+)"', svg)
    mark = float(re.search(r'class="mark" x1="([0-9.]+)"', svg)[1])
    assert float(shade[1]) + float(shade[2]) == pytest.approx(mark, abs=0.2)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3, 17), (0.961, 1.013), (0, 100_000), (50_000, 50_010), (3.2e-7, 4e-7)]
)
def test_ticks_are_round_inside_and_told_apart(low: float, high: float) -> None:
    ticks = Axis(low, high).ticks()
    assert 2 <= len(ticks) <= 11 and all(low - 1e-9 <= t <= high + 1e-9 for t in ticks)
    assert np.diff(ticks) == pytest.approx(ticks[1] - ticks[0])
    assert len(set(tick_labels(ticks))) == len(ticks)


def test_numbers_as_people_read_them() -> None:
    assert [seconds(s) for s in (None, 0.04, 59.94, 60, 250, 3600, 7500)] == [
        "–", "0.0 s", "59.9 s", "1 min", "4 min 10 s", "1 h", "2 h 5 min",
    ]  # fmt: skip
    assert [share(*p) for p in ((0, 9), (9, 9), (1, 1000), (999, 1000), (1, 3), (0, 0))] == [
        "0%", "100%", "<1%", ">99%", "33%", "0%",
    ]  # fmt: skip
    assert [short(v) for v in (0, 0.0005, 0.05, 1234, 2.5e6)] == ["0", "5e-4", "0.05", "1.23k", "2.5M"]
    assert shown(3, 3, "clips") == "all 3 clips"
