"""Arms over seeds: every number here is computed by hand, or by a loop."""

from itertools import combinations

import numpy as np
import pytest

from xray_det.errors import InputError
from xray_det.evaluation.over_seeds import OverSeeds, seed_spread
from xray_det.evaluation.over_seeds_figure import sheet

NAN = float("nan")


@pytest.fixture
def found() -> OverSeeds:
    """Differences of b from a: 0.1, 0.3; of c: 0, -0.2. What the second seed adds to all is not in them."""
    measured = {
        "a": [{"val/AP": 0.2, "val/AP_tail": 0.1}, {"val/AP": 0.4, "val/AP_tail": NAN}],
        "b": [{"val/AP": 0.3, "val/AP_tail": 0.2}, {"val/AP": 0.7, "val/AP_tail": 0.2}],
        "c": [{"val/AP": 0.2, "val/AP_tail": 0.4}, {"val/AP": 0.2, "val/AP_tail": 0.4}],
    }
    return OverSeeds.of(measured, {"AP": "val/AP", "tail": "val/AP_tail"})


def test_differences_are_taken_inside_a_seed(found: OverSeeds) -> None:
    assert found.values.shape == (3, 2, 2)
    assert found.mean("AP", "b") == pytest.approx(0.5)
    assert found.difference("AP", "b") == pytest.approx((0.2, np.sqrt(0.02)))  # of 0.1 and 0.3
    assert found.difference("AP", "a", "b") == pytest.approx((-0.2, np.sqrt(0.02)))
    assert found.difference("AP", "a") == (0, 0)
    # pairs: b - a 0.1 0.3, c - a 0 -0.2, c - b -0.1 -0.5, with variances 0.02, 0.02, 0.08
    assert found.spread("AP") == pytest.approx(np.sqrt(0.04))
    assert found.best("AP") == "b"
    assert found.best("AP", ["a", "c"]) == "a"


def test_a_missing_number_is_not_made_up(found: OverSeeds) -> None:
    assert np.isnan(found.mean("tail", "a"))
    assert np.isnan(found.difference("tail", "b")).all()
    assert found.best("tail") == "c"
    assert found.spread("tail") == 0  # of b and c alone, whose difference is the same in both seeds
    with pytest.raises(InputError, match="none of a has a number"):
        found.best("tail", ["a"])
    with pytest.raises(InputError, match=r"d: is not in this study\. Give one of a, b, c"):
        found.mean("AP", "d")


def test_the_table(found: OverSeeds) -> None:
    assert found.markdown().splitlines() == [
        "| arm | AP | tail |",
        "| --- | ---: | ---: |",
        "| a | 30.0 | - |",
        "| b | 50.0 (+20.0 ± 14.1) | 20.0 |",
        "| c | 20.0 (-10.0 ± 14.1) | 40.0 |",
        "| spread of a difference | 20.0 | 0.0 |",
    ]


def test_curves_are_of_arms_that_have_them_in_every_seed() -> None:
    measured = {"a": [{"m": 0.2}, {"m": 0.4}], "b": [{"m": 0.3}, {}], "c": [{"m": 0.1}, {"m": 0.1}]}
    curves = {"a": [[{"m": 0.1}, {"m": 0.2}], [{}, {"m": 0.4}]], "b": [[{"m": 0.1}], []], "c": [[], []]}
    found = OverSeeds.of(measured, {"AP": "m"}, curves)
    assert list(found.curves) == ["a"]
    np.testing.assert_array_equal(found.curves["a"], [[[0.1], [0.2]], [[NAN], [0.4]]])


def test_one_seed_has_no_spread() -> None:
    found = OverSeeds.of({"a": [{"m": 0.1}], "b": [{"m": 0.3}], "failed": [{}]}, {"AP": "m"})
    assert found.difference("AP", "b")[0] == pytest.approx(0.2)
    assert np.isnan([found.difference("AP", "b")[1], found.spread("AP"), found.mean("AP", "failed")]).all()
    assert found.markdown().splitlines()[2:] == ["| a | 10.0 |", "| b | 30.0 (+20.0) |", "| failed | - |"]


def test_the_spread_is_that_of_differences_inside_a_seed() -> None:
    # differences 1 and 3, whose standard deviation is sqrt(2); what a seed adds to both arms is not in it
    assert seed_spread([[1, 2], [1, 4]]) == pytest.approx(np.sqrt(2))
    assert seed_spread([[1, 2], [11, 14]]) == pytest.approx(np.sqrt(2))
    scores = np.random.default_rng(1).normal(size=(3, 5))
    pairs = [np.var(scores[:, a] - scores[:, b], ddof=1) for a, b in combinations(range(5), 2)]
    assert seed_spread(scores) == pytest.approx(np.sqrt(np.mean(pairs)))
    assert np.isnan(seed_spread([[1, 2]]))


@pytest.mark.filterwarnings("error")
def test_the_figure_shows_every_seed_and_the_means(found: OverSeeds) -> None:
    first, second = sheet(found).axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b", "c"]
    assert (first.get_title(), second.get_title()) == ("AP", "tail")
    line, *seeds, means = first.lines
    assert line.get_xdata()[0] == pytest.approx(30), "the first arm's mean"
    assert [dots.get_xdata().tolist() for dots in seeds] == [pytest.approx(x) for x in ([20, 40], [30, 70], [20, 20])]
    assert means.get_xdata().tolist() == pytest.approx([30, 50, 20])
    (ground,) = first.patches
    assert ground.get_bbox().intervalx.tolist() == pytest.approx([10, 50]), "20 points to either side"
    assert second.lines[-1].get_xdata().tolist() == pytest.approx([NAN, 20, 40], nan_ok=True)
    # one seed has no spread; five metrics need a second line
    values = np.full((2, 1, 5), 0.5)
    few = OverSeeds(arms=("a", "b"), metrics=tuple("vwxyz"), values=values)
    panels = sheet(few).axes
    assert [panel.get_visible() for panel in panels] == [True] * 5 + [False] * 3
    assert not any(panel.patches for panel in panels)
