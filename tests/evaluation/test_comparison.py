"""Runs side by side: every number here is computed by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xray_det.errors import InputError
from xray_det.evaluation.bands import by_band
from xray_det.evaluation.comparison import Comparison, Spread, compare
from xray_det.evaluation.measured import ClassRow, Measured, class_rows
from xray_det.evaluation.result import Result
from xray_det.evaluation.variants import Cost, Run, short_names, variants_of
from xray_det.labels.frequency import bands
from xray_det.labels.space import Class, LabelSpace

KEY = "fod/voc"
#: Six classes, not in order of their counts: head b d, middle f c, tail e a.
NAMES, COUNTS = "abcdef", (1, 60, 10, 50, 5, 40)
Values = Sequence[float | None]
BASE: Values = (0.0, 0.8, 0.4, 0.6, None, 0.5)


def rows(ap: Values, counts: Sequence[int] = COUNTS, names: Sequence[str] = NAMES) -> tuple[ClassRow, ...]:
    return tuple(ClassRow(name=n, count=c, ap=a) for n, c, a in zip(names, counts, ap, strict=True))


def run(name: str, ap: Values = BASE, *, seed: int = 0, step: int = 100, lam: float = 0.0, **rest: Any) -> Run:
    classes = rest.pop("classes", {KEY: rows(ap)})
    parameters = {"seed": seed, "phases.1.sampling.lam": lam}
    return Run(name=name, measured=Measured(metrics={}, classes=classes), step=step, parameters=parameters, **rest)


OTHER: Values = (0.3, 0.7, 0.4, 0.6, None, 0.8)


@pytest.fixture
def two() -> Comparison:
    return compare([run("base"), run("balanced", OTHER, lam=0.7)])


def test_classes_stand_by_falling_training_count(two: Comparison) -> None:
    table = two.tables[KEY]
    assert "".join(table.names) == "bdfcea"
    assert table.counts.tolist() == [60, 50, 40, 10, 5, 1]
    assert [table.band_of(row) for row in range(6)] == ["head", "head", "middle", "middle", "tail", "tail"]
    np.testing.assert_array_equal(table.mean, [[0.8, 0.6, 0.5, 0.4, np.nan, 0.0], [0.7, 0.6, 0.8, 0.4, np.nan, 0.3]])


def test_differences_count_what_rose_and_fell(two: Comparison) -> None:
    against = two.tables[KEY].against(1)
    np.testing.assert_allclose(against.difference, [-0.1, 0, 0.3, 0, np.nan, 0.3], atol=1e-12)
    assert (against.rose, against.fell, against.beyond) == (2, 1, None)
    gains, losses = against.largest(5)
    assert sorted(gains) == [2, 5]
    assert losses == [0]
    assert against.largest(1)[1] == [0]


def test_bands_leave_out_what_has_no_truth(two: Comparison) -> None:
    assert {name: spread.mean for name, spread in two.spreads(0).items()} == pytest.approx(
        {"AP": 2.3 / 5, "head": 0.7, "middle": 0.45, "tail": 0.0}
    )
    assert {name: spread.mean for name, spread in two.spreads(1).items()} == pytest.approx(
        {"AP": 2.8 / 5, "head": 0.65, "middle": 0.6, "tail": 0.3}
    )
    assert [str(spread) for spread in two.spreads(1).values()] == ["56.0", "65.0", "60.0", "30.0"]


def test_a_band_without_truth_is_not_defined() -> None:
    empty = compare([run("base", (None, 0.8, 0.4, 0.6, None, 0.5)), run("other", (None, 0.7, 0.4, 0.6, None, 0.8))])
    assert str(empty.spreads(1)["tail"]) == "-"
    assert str(empty.spreads(1)["AP"]) == "62.5"


def test_classes_that_were_never_trained_are_in_no_band() -> None:
    never = {KEY: rows((0.1, 0.2, 0.3), (0, 9, 7), "abc")}
    table = compare([run("base", classes=never), run("other", classes=never)]).tables[KEY]
    assert table.names == ("b", "c", "a")
    assert table.band_of(2) == "untrained"


@given(st.lists(st.tuples(st.integers(0, 50), st.none() | st.floats(0, 1)), min_size=1, max_size=30))
def test_bands_are_those_of_an_evaluation(classes: list[tuple[int, float | None]]) -> None:
    counts = np.array([count for count, _ in classes])
    ap = np.array([np.nan if ap is None else ap for _, ap in classes])
    space = LabelSpace(name="d", classes=tuple(Class(name=f"c{n}", source_id=str(n)) for n in range(len(ap))))
    result = Result(protocol="voc", metrics={}, space=space, ap=ap, boxes=np.ones(len(ap), np.int64))
    found = run("one", classes={KEY: class_rows(result, counts)})
    spreads = compare([found, found]).spreads(1)
    for name, value in by_band(result, bands(counts)).items():
        assert spreads[name.removeprefix("AP_")].mean == pytest.approx(value, nan_ok=True)


@given(st.lists(st.lists(st.floats(0, 1), min_size=6, max_size=6), min_size=2, max_size=5))
def test_a_run_against_itself_moved_nothing_and_signs_add_up(values: list[list[float]]) -> None:
    runs = [run(f"r{n}", ap, lam=float(n)) for n, ap in enumerate(values)]
    table = compare([*runs, runs[0]]).tables[KEY]
    for number in range(len(runs) + 1):
        against = table.against(number)
        equal = int(np.sum(np.abs(against.difference) <= 1e-9))
        assert against.rose + against.fell + equal == 6
        gains, losses = against.largest(6)
        assert len(gains) == against.rose
        assert len(losses) == against.fell
        assert not set(gains) & set(losses)
    assert (against.rose, against.fell) == (0, 0)  # the last is the baseline again


# Seeds


def test_runs_that_differ_in_the_seed_alone_are_one_variant() -> None:
    found = compare(
        [
            run("base-s0", (0.0, 0.8, 0.4, 0.6, None, 0.5), seed=0),
            run("balanced-s0", (0.3, 0.7, 0.4, 0.6, None, 0.8), seed=0, lam=0.7),
            run("base-s1", (0.2, 0.6, 0.4, 0.6, None, 0.7), seed=1),
            run("balanced-s1", (0.5, 0.7, 0.4, 0.4, None, 0.9), seed=1, lam=0.7),
        ]
    )
    assert [(v.label, v.changes) for v in found.variants] == [
        ("base (2 seeds)", {"phases.1.sampling.lam": "0.0"}),
        ("balanced (2 seeds)", {"phases.1.sampling.lam": "0.7"}),
    ]
    assert found.spreads(0)["tail"] == Spread(mean=pytest.approx(0.1), low=0.0, high=0.2)
    assert str(found.spreads(0)["tail"]) == "10.0 (0.0-20.0)"
    against = found.tables[KEY].against(1)
    np.testing.assert_allclose(against.difference, [0, -0.1, 0.25, 0, np.nan, 0.3], atol=1e-12)
    # b: 0.7 lies in 0.6 to 0.8; d: 0.6 is in both; f: 0.8, 0.9 above 0.5, 0.7; a: 0.3, 0.5 above 0, 0.2
    assert (against.rose, against.fell, against.beyond) == (2, 1, 2)
    assert not any("one seed" in note for note in found.notes)
    assert any("Beyond seeds" in note for note in found.notes)


def test_one_seed_is_said_to_say_nothing_of_chance() -> None:
    notes = compare([run("base"), run("other", lam=0.7)]).notes
    assert notes == ("Every variant has one seed: how much of a difference is chance is not known.",)
    mixed = compare([run("a0"), run("a1", seed=1), run("b", lam=0.5), run("c", lam=0.6)])
    assert "b, c have one seed: how much of a difference is chance is not known." in mixed.notes


def test_a_seed_twice_is_a_repeat_and_names_become_unique() -> None:
    found = variants_of([run("same"), run("same"), run("same", seed=1)])
    assert [(v.label, len(v.runs), v.changes) for v in found] == [
        ("same (2 seeds)", 2, {"seed": "0,1"}),
        ("same", 1, {"seed": "0"}),
    ]
    assert [v.label for v in variants_of([run("x", lam=n) for n in range(3)])] == ["x", "x (2)", "x (3)"]


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (("lam=0.7 seed=10 4f2a", "lam=0.7 seed=11 4f9b"), "lam=0.7 (2 seeds)"),
        (("a/b-0", "a/b-1"), "a/b (2 seeds)"),
        (("first", "second"), "first (2 seeds)"),
        (("", ""), " (2 seeds)"),
    ],
)
def test_a_variant_is_called_by_what_its_names_begin_with(names: tuple[str, str], label: str) -> None:
    (variant,) = variants_of([run(name, seed=seed) for seed, name in enumerate(names)])
    assert variant.label == label


def test_a_seed_that_differs_between_variants_is_a_change() -> None:
    found = variants_of([run("a", seed=0), run("b", seed=1, lam=0.7)])
    assert [v.changes for v in found] == [
        {"seed": "0", "phases.1.sampling.lam": "0.0"},
        {"seed": "1", "phases.1.sampling.lam": "0.7"},
    ]


def test_the_cost_of_a_variant_is_that_of_one_run() -> None:
    costs = [Cost(cpu_hours=2, gpu_hours=0), None, Cost(cpu_hours=4, gpu_hours=0)]
    (variant,) = variants_of([run(f"s{n}", seed=n, cost=cost) for n, cost in enumerate(costs)])
    assert variant.cost == Cost(cpu_hours=3, gpu_hours=0)
    assert str(variant.cost) == "3 CPU-h"
    assert str(Cost(cpu_hours=9, gpu_hours=1.2345)) == "1.23 GPU-h"
    assert variants_of([run("a")])[0].cost is None


def test_parameters_are_named_by_their_shortest_own_end() -> None:
    assert short_names(["phases.0.lr", "phases.1.lr", "phases.1.sampling.lam", "lam", "seed"]) == {
        "phases.0.lr": "0.lr",
        "phases.1.lr": "1.lr",
        "phases.1.sampling.lam": "sampling.lam",
        "lam": "lam",
        "seed": "seed",
    }


# What the runs have in common


def test_the_overall_numbers_are_of_each_dataset_by_its_own_protocol() -> None:
    low, high = rows([0.2] * 6), rows([0.6] * 6)
    classes = {"a/coco": low, "a/voc": high, "b/coco": low}
    found = compare([run("base", classes=classes), run("other", classes=classes)])
    assert found.headline == ("a/voc", "b/coco")
    assert found.spreads(0)["AP"].mean == pytest.approx(0.4)
    assert found.spreads(0, ("a/coco",))["AP"].mean == pytest.approx(0.2)


def test_sets_that_not_all_have_are_left_out_and_named() -> None:
    both = {KEY: rows(BASE), "x/coco": rows(BASE)}
    found = compare([run("base", classes=both), run("other", lam=0.7), run("third", classes=both, lam=1.0)])
    assert list(found.tables) == [KEY]
    assert "x/coco is left out: other was not measured on it." in found.notes
    with pytest.raises(InputError, match=r"--set x/coco: other was not measured on it\. Give one of: fod/voc, x/coco"):
        compare([run("base", classes=both), run("other")], ["x/coco"])
    with pytest.raises(InputError, match="--set y/coco: base, other were not measured on it"):
        compare([run("base"), run("other")], ["y/coco"])


def test_nothing_in_common_says_what_each_lacks() -> None:
    with pytest.raises(InputError) as caught:
        compare([run("base"), run("other", classes={"x/coco": rows(BASE)})])
    assert caught.value.problem == (
        "have no validation set in common (fod/voc: other was not measured on it; x/coco: base was not measured on it)"
    )
    with pytest.raises(InputError, match="none has classes"):
        compare([run("base", classes={}), run("other", classes={})])


def test_other_classes_or_other_images_under_one_name_are_refused() -> None:
    renamed = {KEY: rows(BASE, names="abcdeg")}
    with pytest.raises(InputError, match=r"other and base do not have the same classes there \(f, g\)"):
        compare([run("base"), run("other", classes=renamed)])
    elsewhere = {KEY: rows((None, 0.8, 0.4, 0.6, 0.1, 0.5))}
    with pytest.raises(InputError, match=r"other and base were measured on other images \(truth of a, e\)"):
        compare([run("base"), run("other", classes=elsewhere)])


def test_runs_of_other_training_data_are_ordered_by_the_baseline_and_that_is_said() -> None:
    more = {KEY: rows(OTHER, counts=(100, 60, 10, 50, 5, 40))}
    found = compare([run("base"), run("more", classes=more, lam=0.7)])
    assert "".join(found.tables[KEY].names) == "bdfcea"
    assert "fod/voc: the training counts of more differ; bands and order are the baseline's." in found.notes
    np.testing.assert_allclose(found.tables[KEY].mean[1][-1], 0.3)  # of a, wherever it stands


def test_what_is_not_finished_or_trained_longer_is_said() -> None:
    notes = compare([run("base"), run("going", step=50, finished=False, lam=0.7)]).notes
    assert "Not finished: going; the newest validation counts." in notes
    assert "The runs were measured after different numbers of steps." in notes


@pytest.mark.parametrize("count", [0, 1])
def test_one_run_has_nothing_to_be_compared_with(count: int) -> None:
    with pytest.raises(InputError, match="Give two runs or more"):
        compare([run("base")] * count)
