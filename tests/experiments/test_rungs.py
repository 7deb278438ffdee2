"""rungs.py and orchestrate/rank.py: hand-computed cases, scipy, and a smoke run."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scripts import load

from xray_det.errors import InputError
from xray_det.orchestrate.rank import (
    Climb,
    Grid,
    Kept,
    Ladder,
    Odds,
    asha,
    climbs,
    correlations,
    halving,
    kendall,
    odds,
    orders,
    ranks,
    spearman,
)

script = load("rungs")


def test_rank_correlations_by_hand() -> None:
    assert ranks([10, 30, 20, 30]).tolist() == [1, 3.5, 2, 3.5]
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)  # 5 pairs alike, 1 not
    assert spearman([1, 2, 3], [5, 4, 1]) == kendall([1, 2, 3], [5, 4, 1]) == -1
    assert np.isnan([spearman([1, 1, 1], [1, 2, 3]), kendall([1, 2, 3], [2, 2, 2])]).all()


def test_rank_correlations_equal_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for arms in (2, 5, 8, 30):
        for levels in (3, 1000):  # with many ties, and with few
            a, b = rng.integers(0, levels, (2, arms))
            if min(np.ptp(a), np.ptp(b)) == 0:
                continue
            assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
            assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)


def test_asha_by_hand() -> None:
    complete, cut = (Ladder(shares=(0.25, 1.0), reduction=3, anew=anew) for anew in (True, False))
    scores = [[3.0, 2.0, 1.0], [0.3, 0.2, 0.4]]
    # the best first: the first always climbs, the others are below it
    assert asha(scores, complete, (0, 1, 2), concurrent=1) == Kept(arm=0, cost=3 * 0.25 + 1)
    assert asha(scores, cut, (0, 1, 2), concurrent=1) == Kept(arm=0, cost=3 * 0.25 + 0.75)
    # the worst first: each one is the best so far and climbs; of the full schedules arm 2 is the best
    assert asha(scores, complete, (2, 1, 0), concurrent=1) == Kept(arm=2, cost=3 * 1.25)
    assert asha(scores, cut, (2, 1, 0), concurrent=1) == Kept(arm=2, cost=3)
    # three rungs side by side: arm 0 leads each rung; arm 1 reports the first one after it and ends there
    three = Ladder(shares=(0.25, 0.5, 1.0), reduction=2)
    assert asha([[2.0, 1.0]] * 3, three, (0, 1)) == Kept(arm=0, cost=0.25 + 0.5 + 1 + 0.25)
    with pytest.raises(InputError, match="undefined for 2 rungs"):
        asha([[1.0, float("nan")]] * 2, complete, (0, 1))


def test_whole_rungs_by_hand() -> None:
    first, half, full = [5.0, 9, 1, 8, 7, 2], [0.0, 1, 0, 2, 0, 0], [9.0, 0.1, 9, 0.2, 9, 9]
    # 6 arms: the two best of a quarter climb
    assert halving([first, full], Ladder(shares=(0.25, 1.0))) == Kept(arm=3, cost=6 * 0.25 + 2)
    assert halving([first, full], Ladder(shares=(0.25, 1.0), anew=False)) == Kept(arm=3, cost=6 * 0.25 + 2 * 0.75)
    # and of those at least one
    assert halving([first, half, full], Ladder(shares=(0.25, 0.5, 1.0))) == Kept(arm=3, cost=6 * 0.25 + 2 * 0.5 + 1)
    for shares, message in (((0.5,), "do not rise to 1"), ((0.5, 0.5, 1.0), "do not rise to 1")):
        with pytest.raises(InputError, match=message):
            Ladder(shares=shares)
    with pytest.raises(InputError, match="1 is less than 2"):
        Ladder(shares=(1.0,), reduction=1)


def test_orders() -> None:
    assert sorted(orders(3, 6)) == [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    drawn = list(orders(8, 50))
    assert len(drawn) == 50
    assert all(sorted(order) == list(range(8)) for order in drawn)
    assert drawn == list(orders(8, 50)) != list(orders(8, 50, seed=1))


def test_odds_judge_a_seed_by_its_own_end() -> None:
    ladder = Ladder(shares=(0.5, 1.0))
    kept = iter(([Kept(arm=0, cost=2), Kept(arm=1, cost=1)], [Kept(arm=0, cost=1), Kept(arm=2, cost=1)]))
    scores = [[[0, 0, 0], [0.5, 0.4, 0.1]], [[0, 0, 0], [0.2, 0.6, 0.4]]]
    found = odds(scores, ladder, lambda *_: next(kept), spread=0.25)
    assert (found.best, found.within, found.cost) == (0.25, 0.75, pytest.approx(5 / 4 / 3))


def as_in_the_paper() -> Grid:
    """Lambda 3 leads until the drop after 8 * 2/3 epochs and is the worst at the end; 0.7 is the best, as the short
    schedules say."""
    lam, end = (0.0, 0.7, 1.5, 3.0), np.array([0.30, 0.45, 0.40, 0.20])
    before = np.linspace(0.1, 0.2, 6)[:, None] + np.array([0.0, 0.02, 0.04, 0.06])
    curve = np.concatenate([before, (end / 2 + before[-1] / 2)[None], [end], [end]]).T
    curves = np.stack([curve, curve + 0.05 + np.array([0.001, 0, 0.001, 0])[:, None]])
    complete = np.stack([curves[..., -1] * 0.6, curves[..., -1] * 0.8], axis=-1)
    metrics = (script.AP, script.HEAD, script.TAIL)
    grid = Grid(lam=lam, epochs=8, rungs=(0.25, 0.5), curves=dict.fromkeys(metrics, curves), complete={})
    return Grid(**{**vars(grid), "complete": dict.fromkeys(metrics, complete)})


def test_cut_rungs_keep_the_wrong_arm_where_the_paper_is_right() -> None:
    grid = as_in_the_paper()
    correlated = correlations(grid, (script.AP, script.TAIL))
    by = {(c.metric, c.rung, c.kind): c for c in correlated}
    assert len(correlated) == len(by) == 8
    assert by[script.AP, 0.25, "complete"].spearman == by[script.AP, 0.5, "complete"].kendall == (1, 1)
    assert by[script.AP, 0.25, "cut"].spearman == pytest.approx((-0.4, -0.4))  # ranks 1 2 3 4 against 2 4 3 1
    climbed = climbs(grid, script.AP, reduction=3, most=24, concurrent=1)
    found = {(c.ladder.shares, c.kind, c.rule): c.odds for c in climbed}
    assert len(climbed) == len(found) == 12
    # of four arms one climbs: by complete rungs the right one, by cut ones the worst
    assert found[(0.25, 1.0), "complete", "whole rungs"] == Odds(best=1, within=1, cost=0.25 + 1 / 4)
    assert found[(0.25, 1.0), "cut", "whole rungs"] == Odds(best=0, within=0, cost=0.25 + 0.75 / 4)
    # ASHA never leaves out the leader, but lets others climb before it has seen it
    told = found[(0.25, 1.0), "complete", "ASHA"]
    assert told.best == 1
    assert told.cost > 0.25 + 1 / 4
    lines = script.verdicts(grid, correlated, climbed)
    assert len(lines) == 5
    assert lines[0].startswith("Leads, then falls behind: holds. Before the drop lambda 3 leads")
    assert "at the end 0.7 does (47.5), 25.0 above it. The seeds' spread is 0.1" in lines[0]
    assert lines[0].endswith("of a seed's 4 arms 1.0 lie within it of the best.")
    assert lines[1].startswith("Complete rungs rank better, AP: holds. Spearman 1.00 against -0.40 at 0.25")
    assert lines[3].startswith("Complete rungs, ASHA, find it for half: does not hold here. 0.25, 1: 100 % for 0.")
    assert lines[4].startswith("Complete rungs, whole rungs, find it for half: holds. 0.25, 1: 100 % for 0.50")


def test_what_is_shown() -> None:
    grid = as_in_the_paper()
    correlated = correlations(grid, (script.AP, script.TAIL))
    climbed: list[Climb] = climbs(grid, script.AP, reduction=3, most=5, concurrent=2)
    console = Console(width=100)
    with console.capture() as capture:
        for table in (script.ends_table(grid), script.correlations_table(correlated), script.climbs_table(climbed)):
            console.print(table)
    lines = [" ".join(line.split()) for line in capture.get().splitlines()]
    assert "lambda cut 0.25 cut 0.5 epoch 5 end own 0.25 own 0.5 head tail" in lines
    assert "0.7 18.5 22.5 24.5 47.5 28.5 38.0 47.5 47.5" in lines
    assert "all 0.25 cut -0.40 -0.40 -0.40 -0.33" in lines
    assert sum("whole rungs" in line for line in lines) == 6
    figure = script.draw(grid, correlated)
    assert len(figure.axes) == 6
    assert {line.get_linestyle() for line in figure.axes[0].lines} == {"-", "--", ":"}
    assert figure.axes[1].get_title() == "rung 0.25: Spearman cut -0.40, complete 1.00"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0", "0.7", "1.5", "3", "cut rung", "complete rung"]


def test_a_rung_must_end_with_an_epoch() -> None:
    with pytest.raises(InputError, match=r"0\.3 of 8 epochs"):
        script.Args(rungs=(0.3,))
    with pytest.raises(InputError, match="0 is less than one"):
        script.Args(seeds=0)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("ray_cluster")
def test_the_smoke_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    args = script.Args(smoke=True, out=str(tmp_path), tracking="off")
    script.main(args)
    first = capsys.readouterr().out
    assert first.startswith("5 trainings x minutes (trunk ")
    assert "1 of 5: seed 0, trunk: AP" in first
    assert "5 of 5: seed 0, 0.5 of the schedule, lambda" in first
    assert "Complete rungs, whole rungs, find it for half:" in first
    folder = tmp_path / "rungs-smoke"
    assert (folder / "rungs.png").read_bytes().startswith(b"\x89PNG")
    # the short schedule has a drop of its own; both begin at the trunk
    full, short = (
        json.loads((folder / name / "experiment.json").read_text()) for name in ("seed-0-full", "seed-0-0.5")
    )
    phases = [document["experiment"]["phases"] for document in (full, short)]
    assert [(len(p), p[0]["epochs"], p[0]["drops"]) for p in phases] == [
        (1, 2, [pytest.approx(4 / 3)]),
        (1, 1, [pytest.approx(2 / 3)]),
    ]
    assert {d["experiment"]["start_from"] for d in (full, short)} == {str(folder / "seed-0-trunk/phases/0/weights")}
    grid = json.loads((folder / "rungs.json").read_text())
    assert np.shape(grid["curves"][script.AP]) == (1, 2, 3)
    assert np.shape(grid["complete"][script.TAIL]) == (1, 2, 1)
    # again: nothing is trained, and the same is told
    script.main(args)
    again = capsys.readouterr().out
    assert again.split("Rank correlation")[1] == first.split("Rank correlation")[1]
    # a validation that failed is named, and what is to be done about it
    (arm,) = (folder / "seed-0-full").glob("lam=3*/rung-0")
    (arm / "validations" / "phase-0-epoch-1.json").unlink()
    with pytest.raises(InputError, match="was not measured after epoch 1") as error:
        script.main(args)
    assert str(arm) in str(error.value)
    assert "tune/ and results.json" in str(error.value)
