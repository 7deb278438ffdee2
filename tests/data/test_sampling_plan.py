"""The plan against equations 6-8 on real labels, and the rules of order: pure, whole batches, repeats apart."""

import csv
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.data.plan import before, drawings, in_order, plan
from xray_det.data.sampling import (
    Cap,
    ImageClasses,
    Natural,
    RepeatFactor,
    Sampling,
    SoftBalance,
    class_probability,
    expected_multiplicity,
    exposure,
)
from xray_det.errors import InputError

RULES: list[Sampling] = [
    Natural(),
    SoftBalance(lam=0.0),
    SoftBalance(lam=0.7),
    SoftBalance(lam=1.0),
    SoftBalance(lam=1.5),
    RepeatFactor(threshold=0.05),
    Cap(max_images=3),
]


def images(*held: set[int]) -> ImageClasses:
    classes = [c for one in held for c in sorted(one)]
    return ImageClasses(classes=np.array(classes, np.int32), offsets=np.cumsum([0, *map(len, held)]).astype(np.int64))


def lists(dataset: ImageClasses) -> list[list[int]]:
    return [part.tolist() for part in np.split(dataset.classes, dataset.offsets[1:-1])]


@pytest.fixture(scope="module")
def open_images(shared_data: Path) -> ImageClasses:
    """The classes of 3,519 real images with their real skew: 497 classes, in up to 2,000 images and down to 1."""
    held: dict[str, set[str]] = {}
    with (shared_data / "open_images/gt_sample/annotations.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            held.setdefault(row["ImageID"], set()).update({row["LabelName"]} - {""})  # one image has no box
    names = sorted({name for one in held.values() for name in one})
    return images(*({names.index(name) for name in one} for one in held.values()))


def by_the_book(datasets: list[ImageClasses], rule: Sampling, ratio: list[float] | None, draws: int) -> list[float]:
    """E[m(x)] image by image, from the papers' words: the oracle. Shares of the draws are whole numbers."""
    out = []
    sizes = [len(d) for d in datasets]
    weights = sizes if ratio is None else ratio
    exact = [draws * Fraction(w) / sum(map(Fraction, weights)) for w in weights]
    shares = [int(x) for x in exact]
    remainders = [round(float(x - share), 9) for x, share in zip(exact, shares, strict=True)]
    for d in sorted(range(len(exact)), key=lambda d: -remainders[d])[: draws - sum(shares)]:
        shares[d] += 1
    for dataset, share in zip(datasets, shares, strict=True):
        held = lists(dataset)
        n: dict[int, int] = {}
        for classes in held:
            for c in classes:
                n[c] = n.get(c, 0) + 1
        factors = []
        if isinstance(rule, SoftBalance):
            labels = sum(n.values())
            p_s = {c: (1 / len(n)) ** rule.lam * (n[c] / labels) ** (1 - rule.lam) for c in n}
            p_star = {c: p / sum(p_s.values()) for c, p in p_s.items()}
        for classes in held:
            if isinstance(rule, SoftBalance):
                factors.append(sum(p_star[c] / n[c] for c in classes))
            elif isinstance(rule, RepeatFactor):
                factors.append(max([1.0] + [(rule.threshold / (n[c] / len(held))) ** 0.5 for c in classes]))
            elif isinstance(rule, Cap):
                above = bool(classes) and all(n[c] > rule.max_images for c in classes)
                factors.append(rule.max_images / min(n[c] for c in classes) if above else 1.0)
            else:
                factors.append(1.0)
        out += [share * f / sum(factors) for f in factors]
    if isinstance(rule, Natural) and ratio is None:
        return [draws / sum(sizes)] * sum(sizes)
    return out


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[ImageClasses], Sampling, list[float] | None, int, int]:
    held = st.lists(st.sets(st.integers(0, 5), max_size=3), min_size=1, max_size=12)
    datasets = [images(*draw(held), {draw(st.integers(0, 5))}) for _ in range(draw(st.integers(1, 3)))]
    ratio = draw(st.none() | st.lists(st.floats(0.1, 5), min_size=len(datasets), max_size=len(datasets)))
    return datasets, draw(st.sampled_from(RULES)), ratio, draw(st.integers(1, 9)), draw(st.integers(0, 99))


@given(cases())
@settings(max_examples=200, deadline=None)
def test_every_image_is_drawn_floor_or_ceil_of_its_expectation(
    case: tuple[list[ImageClasses], Sampling, list[float] | None, int, int],
) -> None:
    datasets, rule, ratio, batch, seed = case
    total = sum(map(len, datasets))
    draws = -(-total // batch) * batch
    wanted = np.array(by_the_book(datasets, rule, ratio, draws))
    expected = expected_multiplicity(datasets, rule, draws=draws, ratio=ratio)
    np.testing.assert_allclose(expected, wanted, atol=1e-9)
    drawn = plan(datasets, rule, ratio=ratio, batch=batch, seed=seed, phase=1, epoch=2)
    assert drawn.dtype == np.int64
    assert len(drawn) == draws
    times = np.bincount(drawn, minlength=total)
    assert (abs(times - wanted) < 1).all(), "that is floor or ceil"
    held = [set(x) for d in datasets for x in lists(d)]
    for c in range(6):
        assert exposure(datasets, times, 6)[c] == sum(c in held[x] for x in drawn)


@given(cases(), st.data())
@settings(max_examples=100, deadline=None)
def test_parts_that_know_only_the_counts_make_the_same_plan_however_they_are_cut(
    case: tuple[list[ImageClasses], Sampling, list[float] | None, int, int], data: st.DataObject
) -> None:
    datasets, rule, ratio, batch, seed = case
    key = {"ratio": ratio, "batch": batch, "seed": seed, "phase": 1, "epoch": data.draw(st.integers(0, 5))}
    cuts = [sorted(data.draw(st.lists(st.integers(0, len(d)), max_size=4))) for d in datasets]  # parts may be empty
    shards = [
        [(a, d.part(a, b)) for a, b in zip([0, *cut], [*cut, len(d)], strict=True)]
        for d, cut in zip(datasets, cuts, strict=True)
    ]
    counts = [np.sum([shard.counts(6) for _, shard in one], axis=0) for one in shards]
    drawn, first = [], 0
    for drawing, one in zip(drawings(counts, [len(d) for d in datasets], rule, **key), shards, strict=True):
        rows = [drawing.row(shard, first + start) for start, shard in one]
        begins = before([row.tally for row in rows])
        drawn += [drawing.draws(row, begin) for row, begin in zip(rows, begins, strict=True)]
        first += sum(len(shard) for _, shard in one)
    order = data.draw(st.permutations(drawn))
    np.testing.assert_array_equal(in_order(order), plan(datasets, rule, **key))


def test_blocks_that_bound_the_memory_do_not_show(open_images: ImageClasses, monkeypatch: pytest.MonkeyPatch) -> None:
    for rule in RULES:
        whole = plan([open_images], rule, batch=16, seed=0, phase=0, epoch=1)
        monkeypatch.setattr("xray_det.data.plan.BLOCK", 1000)
        np.testing.assert_array_equal(plan([open_images], rule, batch=16, seed=0, phase=0, epoch=1), whole)
        monkeypatch.undo()


def test_images_of_one_rarest_class_together_get_floor_or_ceil_too(open_images: ImageClasses) -> None:
    counts = open_images.counts()
    rarest = np.array([min(classes, key=lambda c: (counts[c], c), default=-1) for classes in lists(open_images)])
    for rule in (SoftBalance(lam=0.7), SoftBalance(lam=1.0), RepeatFactor(threshold=0.05), Cap(max_images=100)):
        draws = -(-len(open_images) // 16) * 16
        expected = expected_multiplicity([open_images], rule, draws=draws)
        drawn = plan([open_images], rule, batch=16, seed=0, phase=0, epoch=0)
        times = np.bincount(drawn, minlength=len(open_images))
        for c in np.unique(rarest):
            assert abs(times[rarest == c].sum() - expected[rarest == c].sum()) < 1 + 1e-6


def test_over_the_epochs_of_a_phase_images_take_turns(open_images: ImageClasses) -> None:
    epochs, rule = 32, SoftBalance(lam=1.0)
    draws = -(-len(open_images) // 16) * 16
    expected = epochs * expected_multiplicity([open_images], rule, draws=draws)
    times = np.zeros(len(open_images))
    for epoch in range(epochs):
        drawn = plan([open_images], rule, batch=16, seed=0, phase=0, epoch=epoch)
        times += np.bincount(drawn, minlength=len(open_images))
    off = np.abs(times - expected)
    assert off.max() < 3, "with rows and combs of their own the epochs were off by up to 9"
    assert off.mean() < 0.75


def test_equations_6_to_8_on_a_hand_made_case() -> None:
    counts = np.array([80, 16, 0, 4])
    np.testing.assert_allclose(class_probability(counts, 0.0), [0.8, 0.16, 0, 0.04])
    np.testing.assert_allclose(class_probability(counts, 1.0), [1 / 3, 1 / 3, 0, 1 / 3])
    root = np.sqrt([0.8, 0.16, 0, 0.04])
    np.testing.assert_allclose(class_probability(counts, 0.5), root / root.sum())
    assert class_probability(counts, 1.5).argmax() == 3
    assert np.isfinite(class_probability(np.array([10**9, 1]), 200.0)).all()


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_mean_exposure_of_every_class_agrees_over_seeds(
    open_images: ImageClasses, lam: float, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds, batch, rule = 200, 16, SoftBalance(lam=lam)
    total = len(open_images)
    draws = -(-total // batch) * batch
    multiplicity = expected_multiplicity([open_images], rule, draws=draws)
    expected = exposure([open_images], multiplicity, 497)
    wanted = np.zeros(497)
    for x, classes in zip(by_the_book([open_images], rule, None, draws), lists(open_images), strict=True):
        wanted[classes] += x
    np.testing.assert_allclose(expected, wanted, rtol=1e-9)
    seen = np.empty((seeds, 497))
    for seed in range(seeds):
        drawn = plan([open_images], rule, batch=batch, seed=seed, phase=0, epoch=0)
        times = np.bincount(drawn, minlength=total)
        assert abs(times - multiplicity).max() < 1
        seen[seed] = exposure([open_images], times, 497)
    # An integer with mean a + f has at least the variance f (1 - f): the sample's can miss a rare difference.
    fraction = expected % 1
    variance = np.maximum(seen.var(axis=0, ddof=1), fraction * (1 - fraction))
    error = np.abs(seen.mean(axis=0) - expected)
    assert (error <= 4.5 * np.sqrt(variance / seeds) + 1e-6).all(), np.flatnonzero(
        error > 4.5 * np.sqrt(variance / seeds)
    )
    off = np.abs(seen[0] - expected)
    with capsys.disabled():
        print(
            f"\nlambda {lam}: one epoch's exposure is off by {np.median(off / expected):.2%} at the median class, "
            f"{(off / expected).max():.1%} at most; by more than 2 % and one image in "
            f"{((off / expected > 0.02) & (off > 1)).mean():.1%} of the classes"
        )


def test_co_occurrence_gives_a_class_more_than_its_probability(open_images: ImageClasses) -> None:
    draws = len(open_images)
    own = draws * class_probability(open_images.counts(), 1.0)
    shown = exposure([open_images], expected_multiplicity([open_images], SoftBalance(lam=1.0), draws=draws), 497)
    assert (shown >= own - 1e-9).all()
    assert 1.05 < np.median(shown / own) < 3
    assert (shown / own).max() > 10


def test_the_natural_order_wraps_into_the_next_permutation() -> None:
    datasets = [images(*[{0}] * 70), images(*[set()] * 31)]
    for epoch in range(4):
        drawn = plan(datasets, Natural(), batch=16, seed=3, phase=0, epoch=epoch)
        assert len(drawn) == 112
        assert sorted(drawn[:101]) == list(range(101))
        assert len(set(drawn[101:])) == 11
        assert not set(drawn[101:]) & set(drawn[80:101]), "no image is shown twice within a few batches"
    turns = [plan(datasets, Natural(), batch=16, seed=3, phase=0, epoch=e)[101:] for e in range(101)]
    assert np.bincount(np.concatenate(turns)).tolist() == [11] * 101, "over the epochs each image has its turn"


def test_a_small_dataset_goes_round_and_a_large_one_is_cut_in_turns() -> None:
    datasets = [images(*[{0}] * 5), images(*[{1}] * 95)]
    times = np.zeros(100, int)
    for epoch in range(19):
        drawn = plan(datasets, Natural(), ratio=[1, 1], batch=10, seed=0, phase=0, epoch=epoch)
        assert np.bincount(drawn, minlength=100)[:5].tolist() == [10] * 5
        times += np.bincount(drawn, minlength=100)
        for image in range(5):
            assert np.diff(np.flatnonzero(drawn == image)).min() >= 2, "a round apart, at least by half"
    assert times[5:].tolist() == [10] * 95


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_plan_is_a_function_of_its_arguments_and_each_of_them_matters(rule: Sampling) -> None:
    rng = np.random.default_rng(0)
    dataset = images(*(set(rng.integers(0, 9, 2).tolist()) for _ in range(200)))
    base = {"batch": 8, "seed": 1, "phase": 2, "epoch": 3}
    drawn = plan([dataset], rule, **base)
    np.random.default_rng(99).random(1000)
    np.testing.assert_array_equal(drawn, plan([dataset], rule, **base))
    for name in ("seed", "phase", "epoch"):
        other = plan([dataset], rule, **{**base, name: base[name] + 1})
        assert len(other) == len(drawn)
        assert (other != drawn).mean() > 0.9


def test_repeats_are_spread_over_the_epoch(open_images: ImageClasses) -> None:
    drawn = plan([open_images], SoftBalance(lam=1.0), batch=16, seed=0, phase=0, epoch=0)
    times = np.bincount(drawn, minlength=len(open_images))
    for image in np.flatnonzero(times >= 2):
        gaps = np.diff(np.flatnonzero(drawn == image))
        # Copies are evenly spaced on a scale on which places have a density of 1 up to a random deviation.
        assert gaps.min() > len(drawn) / times[image] - 4.5 * np.sqrt(len(drawn) / times[image]) - 16
    halves = np.stack([np.bincount(part, minlength=len(open_images)) for part in np.array_split(drawn, 2)])
    assert abs(halves[0] - halves[1])[times >= 2].max() <= 2


@pytest.mark.parametrize("rule", [Natural(), SoftBalance(lam=0.7)], ids=repr)
def test_the_mixing_ratio_holds_all_through_the_epoch(rule: Sampling) -> None:
    datasets = [images(*[{0}, {1}] * 50), images(*[{1}, {2}] * 450)]
    drawn = plan(datasets, rule, ratio=[3, 1], batch=10, seed=0, phase=0, epoch=0)
    assert (drawn < 100).sum() == 750
    shares = (drawn.reshape(10, 100) < 100).mean(axis=1)
    assert abs(shares - 0.75).max() < 4.5 * np.sqrt(0.75 * 0.25 / 100)
    assert not (plan(datasets, rule, ratio=[0, 1], batch=10, seed=0, phase=0, epoch=0) < 100).any()
    by_size = plan(datasets, SoftBalance(lam=0.7), batch=10, seed=0, phase=0, epoch=0)
    assert (by_size < 100).sum() == 100


def test_balance_lies_inside_each_dataset() -> None:
    """The same class, rare in one dataset and frequent in the other: each dataset balances it by its own count."""
    datasets = [images(*[{0}] * 90, *[{1}] * 10), images(*[{0}] * 10, *[{1}] * 90)]
    expected = expected_multiplicity(datasets, SoftBalance(lam=1.0), draws=200)
    assert expected[[0, 99, 100, 199]] == pytest.approx([50 / 90, 5, 5, 50 / 90])


def test_an_image_without_objects_is_natural_but_never_class_balanced() -> None:
    dataset = images({0}, set(), {0, 1}, set())
    assert set(plan([dataset], SoftBalance(lam=0.0), batch=4, seed=0, phase=0, epoch=0).tolist()) <= {0, 2}
    assert sorted(plan([dataset], Natural(), batch=4, seed=0, phase=0, epoch=0)) == [0, 1, 2, 3]
    one = images({0}, {0})
    assert sorted(plan([one], SoftBalance(lam=1.0), batch=2, seed=0, phase=0, epoch=0)) == [0, 1], "one class only"


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: SoftBalance(lam=-0.1), ["lam", "-0.1"]),
        (lambda: SoftBalance(lam=float("nan")), ["lam", "nan"]),
        (lambda: SoftBalance(lam=(0.5, -0.1)), ["lam", "-0.1"]),
        (lambda: plan([images({0})], SoftBalance(lam=(0, 1)), batch=1, seed=0, phase=0, epoch=0), ["0 to 1", "at"]),
        (lambda: RepeatFactor(threshold=0), ["threshold"]),
        (lambda: Cap(max_images=0), ["max_images", "0"]),
        (lambda: plan([], Natural(), batch=1, seed=0, phase=0, epoch=0), ["no images"]),
        (lambda: plan([images({0})], Natural(), batch=0, seed=0, phase=0, epoch=0), ["batch 0"]),
        (lambda: plan([images({0})], Natural(), batch=1, seed=-1, phase=0, epoch=0), ["seed -1"]),
        (lambda: plan([images(set())], SoftBalance(), batch=1, seed=0, phase=0, epoch=0), ["no image", "Natural"]),
        (lambda: plan([images({0})], Natural(), ratio=[1, 1], batch=1, seed=0, phase=0, epoch=0), ["ratio", "1 data"]),
        (lambda: plan([images({0})], Natural(), ratio=[0], batch=1, seed=0, phase=0, epoch=0), ["ratio", "not all 0"]),
        (
            lambda: plan([images({0}), images()], Natural(), ratio=[1, 1], batch=1, seed=0, phase=0, epoch=0),
            ["ratio", "number 1"],
        ),
    ],
)
def test_impossible_requests_are_refused(build: object, names: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build()  # type: ignore[operator]
    for name in names:
        assert name in str(caught.value)
