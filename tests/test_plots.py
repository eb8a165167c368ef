"""Plots of the page are read back: ticks, places of points, curves."""

from xml.etree import ElementTree

import numpy as np
import pytest

from utils.report.plots import Point, curves_svg, scatter_svg, scientific, tick_text


def places(svg: str, tag: str = "circle") -> list[dict]:
    return [element.attrib for element in ElementTree.fromstring(svg).iter(tag)]


def labels(svg: str, kind: str) -> list[str]:
    return [text.text for text in ElementTree.fromstring(svg).iter("text") if text.get("class") == kind]


def test_points_lie_by_their_numbers_x_on_a_logarithmic_axis():
    points = [Point(x, y, i, f"<{i}>") for i, (x, y) in enumerate([(1, 0.0), (10, 5.0), (100, 10.0)])]
    svg = scatter_svg({3: points}, x_label="cost", y_label="quality")
    circles = places(svg)
    x, y = ([float(circle[name]) for circle in circles] for name in ("cx", "cy"))
    assert np.diff(x) == pytest.approx([np.diff(x)[0]] * 2, abs=0.2) and np.diff(x)[0] > 50
    assert np.diff(y) == pytest.approx([np.diff(y)[0]] * 2, abs=0.2) and np.diff(y)[0] < -50  # up is more
    assert [circle["data-clip"] for circle in circles] == ["0", "1", "2"]
    assert [title.text for title in ElementTree.fromstring(svg).iter("title")] == ["<0>", "<1>", "<2>"]
    assert {circle["class"] for circle in circles} == {"s3"} and {"1", "10", "100", "cost"} <= {*labels(svg, "x")}


def test_a_level_is_part_of_the_axis():
    svg = scatter_svg({0: [Point(1, 1.0, 0, "")]}, x_label="", y_label="", level=(50.0, "silence"))
    (line,) = [path for path in places(svg, "path") if path["class"] == "level"]
    at = float(line["d"].split()[1].partition("H")[0])
    assert 10 < at < float(places(svg)[0]["cy"]) - 50 and "silence" in svg


def test_no_point_no_plot():
    assert scatter_svg({}, x_label="", y_label="") == "" == curves_svg({0: np.zeros(3)}, x_label="", y_label="")


def test_a_curve_keeps_its_ends_and_one_value_is_a_dot():
    curves = {0: np.geomspace(100, 0.1, 5000), 1: np.array([3.0]), 2: np.array([np.nan, 5.0, 0.0])}
    svg = curves_svg(curves, x_label="evaluations", y_label="objective")
    (line,) = places(svg, "polyline")
    points = [tuple(map(float, point.split(","))) for point in line["points"].split()]
    assert line["class"] == "s0" and 50 < len(points) <= 100
    assert points[0][0] < points[-1][0] and points[0][1] < points[-1][1]
    assert [circle["class"] for circle in places(svg)] == ["s1", "s2"]


@pytest.mark.parametrize("value, text", [(0, "0"), (0.002, "0.002"), (1000, "1,000"), (1e-5, "10⁻⁵"), (-2e5, "−2×10⁵")])
def test_ticks(value, text):
    assert tick_text(value) == text
    assert scientific(3.14e-5, 1) == "3.1×10⁻⁵"
