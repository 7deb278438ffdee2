"""A sweep's figures, drawn from folders of runs as trainings leave them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xray_det import storage
from xray_det.evaluation.measured import ClassRow, Measured
from xray_det.orchestrate.results import Row
from xray_det.orchestrate.run_folder import Result, RunFolder
from xray_det.orchestrate.sweep_figures import by_value, course, curves, figures

LAM = "phases.1.sampling.lam"
PHASES = [{"epochs": 2, "drops": []}, {"epochs": 3, "drops": [2.0]}]


def trained(
    folder: Path,
    lam: float,
    *,
    measured: tuple[float, ...] = (1, 2, 3),
    rung: int = 0,
    phases: list[dict[str, Any]] = PHASES,
    **row: Any,
) -> Row:
    """An arm whose second phase was measured after some epochs, at lam + epoch / 10; the first phase is the trunk's."""
    run = RunFolder(uri=str(folder), fingerprint="")
    storage.write_json(run.path("experiment.json"), {"experiment": {"phases": phases}})
    metrics: dict[str, float] = {}
    for epoch in measured:
        metrics = {"val/AP": (lam + epoch) / 10, "val/AP_head": 0.5, "val/AP_tail": math.nan}
        ap = (ClassRow(name="rare", count=1, ap=lam / 10), ClassRow(name="often", count=9, ap=0.5))
        found = Measured(metrics=metrics, classes={"set/coco": ap, "set/voc": ap})
        at = None if epoch == measured[-1] else int(epoch)
        storage.write_json(run.validation(1, at), {"epoch": epoch, **found.to_json()})
    end = Result(
        folder=run.uri, weights="", phases=("", ""), steps=9, metrics={}, validations=({"val/AP": 0.05}, metrics)
    )
    run.finish(end)
    share = row.pop("share", 1.0)
    values = {"values": {LAM: lam}, "score": metrics["val/AP"], "metrics": metrics} | row
    return Row(arm=f"lam={lam}", rung=rung, share=share, reason="", cost={}, folder=run.uri, weights="", **values)


def test_a_course_begins_with_what_the_trunk_was_measured_at(tmp_path: Path) -> None:
    points = course(trained(tmp_path, 0.7))
    assert {at: found["val/AP"] for at, found in points.items()} == pytest.approx({2: 0.05, 3: 0.17, 4: 0.27, 5: 0.37})


def test_a_course_of_phases_that_end_within_an_epoch(tmp_path: Path) -> None:
    """The trunk's iterations are no number of epochs here: a course then begins at its end."""
    half = {"epochs": 2.5, "drops": [2.0]}
    points = course(trained(tmp_path / "a", 0.7, measured=(1, 2, 2.5), phases=[PHASES[0], half]))
    assert list(points) == [2, 3, 4, 4.5]
    counted = {"epochs": None, "iterations": 90, "drops": [60.0]}
    rows = {
        f"{lam}": trained(tmp_path / f"{lam}", lam, measured=(1, 2.25), phases=[counted, counted]) for lam in (0.0, 1.0)
    }
    assert list(course(rows["0.0"])) == [0, 1, 2.25]
    figure = curves(rows, "val/AP")
    assert figure is not None
    drops = [line.get_xdata()[0] for line in figure.axes[0].lines[2:]]
    assert drops == [1.5]


def test_a_sweep_of_one_number_has_all_figures(tmp_path: Path) -> None:
    rows = [trained(tmp_path / str(lam), lam) for lam in (1.0, 0.0, 0.7)]
    drawn = figures(rows, "val/AP")
    assert set(drawn) == {f"by_{LAM}", "curves", "classes_set_voc"}  # each dataset by its own protocol
    overall, head, tail = drawn[f"by_{LAM}"].axes
    assert [axes.get_title() for axes in (overall, head, tail)] == ["AP", "AP_head", "AP_tail"]
    np.testing.assert_allclose(overall.lines[0].get_xydata(), [[0, 0.3], [0.7, 0.37], [1, 0.4]])
    curves = drawn["curves"].axes[0]
    *lines, drop = curves.lines
    assert [line.get_label() for line in lines] == ["lam 0.0", "lam 0.7", "lam 1.0"]
    np.testing.assert_allclose(lines[1].get_xydata(), [[2, 0.05], [3, 0.17], [4, 0.27], [5, 0.37]])
    assert drop.get_xdata() == [4.0, 4.0]  # two epochs of the trunk, and two
    classes = drawn["classes_set_voc"].axes[1]
    assert classes.lines[0].get_ydata().tolist() == [0.5, 0.0]  # by falling count
    assert [text.get_text() for text in classes.get_legend().get_texts()][2] == "lam 1.0, mean 0.300"


def test_what_cannot_be_drawn_is_left_out(tmp_path: Path) -> None:
    ends = [trained(tmp_path / f"ends-{lam}", lam, measured=(3,)) for lam in (0.0, 1.0)]
    assert set(figures(ends, "val/AP")) == {f"by_{LAM}", "classes_set_voc"}  # two ends are no curve
    failed = [trained(tmp_path / "good", 0.0), trained(tmp_path / "bad", 1.0, score=-math.inf, metrics={})]
    assert figures(failed, "val/AP") == {}
    assert by_value(failed, LAM, "val/AP") is None
    both = [trained(tmp_path / f"both-{n}", 0.5, values={LAM: float(n), "seed": n}) for n in range(2)]
    assert set(figures(both, "val/AP")) == {f"by_{LAM}", "by_seed"}


def test_every_rung_of_two_values_has_figures_of_its_own(tmp_path: Path) -> None:
    short = [trained(tmp_path / f"short-{n}", float(n), share=0.25) for n in range(6)]
    full = [trained(tmp_path / f"full-{n}", float(n), rung=1) for n in range(2)]
    drawn = figures([*short, *full], "val/AP")
    of_rungs = {"curves", "classes_set_voc", "curves_0.25", "classes_set_voc_0.25"}
    assert set(drawn) == {f"by_{LAM}", *of_rungs}
    lines = {name: [line.get_label() for line in drawn[name].axes[0].lines][:-1] for name in ("curves", "curves_0.25")}
    assert lines == {"curves": ["lam 0.0", "lam 1.0"], "curves_0.25": [f"lam {n}.0" for n in range(6)]}
    # one that reached the end is no comparison
    assert set(figures([*short, *full[:1]], "val/AP")) == {f"by_{LAM}", "curves_0.25", "classes_set_voc_0.25"}


def test_values_that_look_alike_are_told_apart_and_a_population_has_its_last_generation_alone(tmp_path: Path) -> None:
    rows = [trained(tmp_path / f"m{n}", lam) for n, lam in enumerate((0.00012, 0.00014, 0.00014))]
    lines = figures(rows, "val/AP")["curves"].axes[0].lines
    assert [line.get_label() for line in lines][:-1] == ["lam 0.00012", "lam 0.00014", "lam 0.00014 (lam=0.00014)"]
    younger = [trained(tmp_path / f"y{n}", n / 10, share=0.5) for n in range(2)]
    for row in younger:  # a generation is a phase
        storage.write_json(storage.join(row.folder, "experiment.json"), {"experiment": {"phases": PHASES[:1]}})
    assert set(figures([*younger, *rows], "val/AP")) == {f"by_{LAM}", "curves", "classes_set_voc"}


def test_of_many_drawn_values_some_are_shown_from_the_least_to_the_greatest(tmp_path: Path) -> None:
    rows = [trained(tmp_path / str(n), n / 30) for n in reversed(range(31))]
    labels = [line.get_label() for line in figures(rows, "val/AP")["curves"].axes[0].lines][:-1]
    assert len(labels) == 10
    assert (labels[0], labels[1], labels[-1]) == ("lam 0.0", "lam 0.1", "lam 1.0")
