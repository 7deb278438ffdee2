"""rungs.py and orchestrate/rank.py: hand-computed cases, scipy, and a study of made outcomes."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripts import load

from xray_det.data.annotations import Selection
from xray_det.errors import InputError
from xray_det.evaluation.over_seeds import OverSeeds
from xray_det.orchestrate.experiment import Data, Experiment
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
from xray_det.orchestrate.study import Arm, Training
from xray_det.orchestrate.study_record import Identity, Outcome, write_record
from xray_det.train.phase import Phase

sys.path.insert(0, str(Path(__file__).parents[1] / "orchestrate"))
from made_dataset import write_dataset

script = load("rungs")


def test_rank_correlations_by_hand() -> None:
    assert ranks([10, 30, 20, 30]).tolist() == [1, 3.5, 2, 3.5]
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)  # 5 pairs alike, 1 not
    assert spearman([1, 2, 3], [5, 4, 1]) == kendall([1, 2, 3], [5, 4, 1]) == -1
    assert np.isnan([spearman([1, 1, 1], [1, 2, 3]), kendall([1, 2, 3], [2, 2, 2])]).all()


def test_rank_correlations_equal_scipys() -> None:
    from scipy import stats

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
    assert script.ends_table(grid).splitlines()[0] == (
        "| lambda | cut 0.25 | cut 0.5 | epoch 5 | end | own 0.25 | own 0.5 | head | tail |"
    )
    assert "| 0.7 | 18.5 | 22.5 | 24.5 | 47.5 | 28.5 | 38.0 | 47.5 | 47.5 |" in script.ends_table(grid)
    assert "| AP | 0.25 | cut | -0.40 | -0.40 | -0.40 | -0.33 |" in script.correlations_table(correlated)
    assert script.climbs_table(climbed).count("whole rungs") == 6
    figure = script.draw(grid)
    assert len(figure.axes) == 6
    assert {line.get_linestyle() for line in figure.axes[0].lines} == {"-", "--", ":"}
    assert figure.axes[1].get_title() == "rung 0.25: Spearman cut -0.40, complete 1.00"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0", "0.7", "1.5", "3", "cut rung", "complete rung"]


def test_a_rung_must_end_with_an_epoch() -> None:
    with pytest.raises(InputError, match=r"0\.3 of 8 epochs"):
        script.Args(rungs=(0.3,))


ARGS = script.Args(lam=(0.0, 3.0), rungs=(0.5,), epochs=(1, 2), seeds=2, tracking="off")


@pytest.fixture
def arms(tmp_path: Path) -> dict[str, Arm]:
    data = write_dataset(tmp_path / "squares", images=4)
    trunk = Experiment(
        name="trunk",
        data=Data(train=(Selection(folder=data),), val=(Selection(folder=data),)),
        phases=(Phase(epochs=1, drops=(2 / 3,)),),
    )
    made: dict[str, Arm] = script.arms(ARGS, trunk)
    return made


def test_short_schedules_have_a_drop_of_their_own_and_all_begin_at_the_trunk(arms: dict[str, Arm]) -> None:
    schedules = {name: arm(1) for name, arm in arms.items()}
    assert {name: [(p.epochs, *p.drops) for p in e.phases] for name, e in schedules.items()} == {
        "trunk": [(1, pytest.approx(2 / 3))],
        **{f"lambda {lam}": [(1, pytest.approx(2 / 3)), (2, pytest.approx(4 / 3))] for lam in (0, 3)},
        **{
            f"lambda {lam}, 0.5 of the schedule": [(1, pytest.approx(2 / 3)), (1, pytest.approx(2 / 3))]
            for lam in (0, 3)
        },
    }
    assert {e.validation.every for name, e in schedules.items() if name in ("lambda 0", "lambda 3")} == {1}
    trainings = {name: Training.of(name, experiment, "out") for name, experiment in schedules.items()}
    assert {t.begin.key for t in trainings.values() if t.begin} == {trainings["trunk"].key}
    assert len({t.key for t in trainings.values()}) == 5


def test_the_study_from_its_record(arms: dict[str, Arm], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What has been measured is told again without a training, curves and all."""
    numbers, patched = iter(np.linspace(0.1, 0.6, 10)), pytest.MonkeyPatch()
    patched.setattr(script, "natural", lambda _: None)
    patched.setattr(script, "arms", lambda *_: arms)
    args = replace(ARGS, out=str(tmp_path / "runs"), results=str(tmp_path / "results"))

    def outcome(experiment: Experiment) -> Outcome:
        end = float(next(numbers))
        metrics, halfway = (dict.fromkeys(script.METRICS.values(), value) for value in (end, end / 2))
        curve = (halfway, metrics) if experiment.validation.every else ()
        return Outcome(metrics=metrics, minutes=1.0, commit="abc", curve=curve)

    identities = {name: [Identity.of(arm(seed)) for seed in (0, 1)] for name, arm in arms.items()}
    known = {one.key: outcome(one.experiment) for of in identities.values() for one in of}
    write_record(args.results, "rungs", identities, known)
    with patched.context():
        script.main(args)
        said = capsys.readouterr().out
        assert "rungs: 10 trainings, 0 to be made" in said
        # of lambda 3 the seeds have 0.1 + 0.5 / 9 * 4 and 5; half of it halfway
        assert "| 3 | 17.5 | 17.5 | 35.0 | 57.2 | 35.0 | 35.0 |" in said
        assert "Complete rungs, whole rungs, find it for half:" in said
        assert said.splitlines()[-1] == f"figure: {tmp_path}/runs/rungs/rungs.png"
        assert (tmp_path / "runs" / "rungs" / "rungs.png").read_bytes().startswith(b"\x89PNG")
        assert "Spearman" in (tmp_path / "results" / "rungs.md").read_text()

        # a validation that failed is named, and what is to be done about it; so is a training that is missing
        gap = identities["lambda 3"][1].key
        write_record(args.results, "rungs", identities, known | {gap: replace(known[gap], curve=({}, {"val/AP": 1}))})
        with pytest.raises(InputError, match=r"lambda 3: was not measured after epoch 1 with seed 1: .* alone"):
            script.main(args)
    patched.undo()
    found = OverSeeds(arms=tuple(arms), metrics=tuple(script.METRICS), values=np.full((5, 2, 3), np.nan))
    with pytest.raises(InputError, match="trunk: has no result"):
        script.grid_of(ARGS, found)
