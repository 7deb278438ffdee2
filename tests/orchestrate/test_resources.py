"""What a training gets of a cluster: never more than there is, whatever nodes Ray takes, and an error at once."""

import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from xray_det.errors import InputError
from xray_det.orchestrate.resources import WORKER_CPUS, Cluster, Share, concurrent_trials, named_types, share

WORKER = Fraction(9, 10)
tenths = st.integers(0, 60).map(lambda n: n / 10)
clusters = st.lists(tenths, min_size=1, max_size=3)


def of(cpus: Sequence[float], gpus: Sequence[float] = ()) -> Cluster:
    padded = [*gpus, *[0.0] * (len(cpus) - len(gpus))]
    return Cluster(nodes=tuple({"CPU": c, "GPU": g} for c, g in zip(cpus, padded, strict=True)))


def placed(nodes: Sequence[Fraction], workers: int) -> Iterator[list[Fraction]]:
    """What is left of each node, for every way to put the workers on nodes."""
    for counts in itertools.product(*(range(int(node / WORKER) + 1) for node in nodes)):
        if sum(counts) == workers:
            yield [node - count * WORKER for node, count in zip(nodes, counts, strict=True)]


def by_brute_force(cpus: Sequence[float], workers: int) -> Fraction:
    """The largest share of a thousandth's steps whose tasks fit beside the workers wherever these lie; 0: none."""
    nodes = [Fraction(round(c * 10), 10) for c in cpus]
    left = [*placed(nodes, workers)]
    most = math.floor((sum(nodes) - workers * WORKER) / workers * 1000)
    if not left or most < 10:
        return Fraction(0)

    def fits(thousandths: int) -> bool:
        each = Fraction(thousandths, 1000)
        task, tasks = min(each, Fraction(1)), max(1, math.floor(each)) * workers
        return all(sum(math.floor(rest / task) for rest in way) >= tasks for way in left)

    return Fraction(next((t for t in range(most, 9, -1) if fits(t)), 0), 1000)


@given(cpus=clusters, workers=st.integers(1, 4))
def test_the_share_is_that_of_trying_every_placement(cpus: list[float], workers: int) -> None:
    expected = by_brute_force(cpus, workers)
    if expected:
        assert share(workers, None, "cpu", of(cpus)).data_cpus == pytest.approx(float(expected))
    else:
        with pytest.raises(InputError, match="would wait for ever"):
            share(workers, None, "cpu", of(cpus))


def allotted(workers: int, cluster: Cluster, **options: float) -> Share | None:
    try:
        return share(workers, None, "cpu", cluster, **options)
    except InputError:
        return None


@given(
    cpus=st.lists(tenths, min_size=1, max_size=6),
    workers=st.integers(1, 12),
    trials=st.integers(1, 3),
    limit=st.none() | tenths,
    validation=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_never_more_than_there_is(
    cpus: list[float], workers: int, trials: int, limit: float | None, validation: float
) -> None:
    found = allotted(workers, of(cpus), trials=trials, cpus=limit, validation_cpus=validation)
    assume(found is not None)
    used = trials * (workers * (WORKER_CPUS + found.data_cpus) + found.validation_cpus)
    assert used <= min(sum(cpus), math.inf if limit is None else limit) + 1e-9
    assert found.data_cpus >= 0.01
    assert found.validation_cpus in (0.0, validation)
    assert concurrent_trials(workers, "cpu", of(cpus), cpus=limit) >= trials


@given(cpus=clusters, more=tenths, node=st.integers(0, 2), workers=st.integers(1, 6))
def test_a_larger_cluster_and_fewer_workers_never_get_less(
    cpus: list[float], more: float, node: int, workers: int
) -> None:
    def data(cpus: list[float], workers: int) -> float:
        found = allotted(workers, of(cpus))
        return 0.0 if found is None else found.data_cpus

    base = data(cpus, workers)
    grown = [c + more if k == node % len(cpus) else c for k, c in enumerate(cpus)]
    assert data(grown, workers) >= base
    assert data([*cpus, more], workers) >= base
    if workers > 1:
        assert data(cpus, workers - 1) >= base


@given(cpus=clusters, workers=st.integers(1, 4))
def test_as_many_trials_as_fit_run_side_by_side(cpus: list[float], workers: int) -> None:
    count = concurrent_trials(workers, "cpu", of(cpus))
    fitting = [n for n in range(1, 25) if by_brute_force(cpus, n * workers)]
    assert count == max([1, *fitting])


@pytest.mark.parametrize(
    ("cluster", "workers", "data_cpus"),
    [
        ({"CPU": 2.0}, 1, 1.1),
        ({"CPU": 4.0, "GPU": 2.0}, 2, 1.1),
        ({"CPU": 2.0}, 2, 0.1),
        ({"CPU": 64.0}, 3, 20.433),
        (of([0, 2, 2]), 2, 1.1),  # a head that runs no tasks is ordinary
        (of([1, 1, 1]), 3, 0.1),
        (of([1, 1.9]), 2, 0.5),  # both on the second leave 0.1 and a whole one: 0.55 each; apart: 0.1 and 1.0
        (of([1] * 200), 100, 1.1),
        (
            of([1.4, 1.4, 1.4]),
            2,
            0.7,
        ),  # 1.2 a worker would be one task each; the node without one has room for two of 0.7
    ],
)
def test_shares_of_some_clusters(cluster: Cluster, workers: int, data_cpus: float) -> None:
    assert share(workers, None, "cpu", cluster).data_cpus == pytest.approx(data_cpus)


def test_after_a_node_is_lost_data_tasks_ask_for_no_more_than_is_left() -> None:
    alone = share(2, None, "cpu", of([2, 2]))
    assert alone.data_cpus_on(of([2, 2]), 2) == alone.data_cpus == pytest.approx(1.1)
    assert alone.data_cpus_on(of([2]), 2) == pytest.approx(0.1)
    assert alone.data_cpus_on(of([2]), 1) == pytest.approx(1.1)  # an elastic training that has become smaller
    assert alone.data_cpus_on(of([1]), 2) == alone.data_cpus  # the workers themselves wait for a node
    assert alone.data_cpus_on(of([8, 8]), 2) == alone.data_cpus
    beside = share(2, None, "cpu", of([4, 4, 4]), trials=4)
    assert beside.data_cpus_on(of([4, 4]), 2) == pytest.approx(0.1)  # all four have room for their workers
    assert beside.data_cpus_on(of([4]), 2) == pytest.approx(0.1)  # two have
    shared = share(2, None, "cuda", Cluster(nodes=({"CPU": 4.0, "GPU": 1.0},) * 2), gpus_per_worker=0.5, trials=2)
    assert shared.data_cpus_on(Cluster(nodes=({"CPU": 4.0, "GPU": 1.0},)), 2) == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"workers": 64, "cluster": {"CPU": 4.0}},
            r"64 and their data tasks need more than 4 CPUs .* at most 4 workers",
        ),
        ({"workers": 2, "cluster": {"CPU": 4.0}, "cpus": 1.5}, r"more than 1\.5 CPUs .* at most 1 workers"),
        (
            {"workers": 1, "cluster": {"CPU": 0.5}},
            r"more than 0\.5 CPUs and would wait for ever\. Use a larger",
        ),
        ({"workers": 1, "cluster": of([0.5] * 3)}, r"do not fit on 3 x \(0\.5 CPUs\) and would wait for ever"),
        ({"workers": 1, "cluster": Cluster(nodes=())}, r"more than 0 CPUs and would wait for ever"),
        ({"workers": 2, "device": "cuda", "cluster": {"CPU": 4.0}}, r"2 GPU workers on a cluster of 0 GPUs would wait"),
        (
            {"workers": 2, "device": "cuda", "cluster": of([8, 0], [1, 1])},
            r"2 workers of 0\.9 CPUs and 1 GPUs, each on one node, .* fit on 1 x \(8 CPUs and 1 GPUs\), 1 x \(0 CPUs",
        ),
        (
            {"workers": 3, "device": "cuda", "cluster": {"CPU": 8.0, "GPU": 2.0}, "gpus_per_worker": 0.7},
            r"3 workers with 0\.7 GPUs each on a cluster of 2 GPUs",
        ),
        ({"workers": 2, "cluster": {"CPU": 3.0}, "trials": 2}, r"4 of 2 trials at once and their data .* at most 1 w"),
        ({"workers": 1, "cluster": {"CPU": 3.0}, "gpus_per_worker": 1.5}, r"1\.5 GPUs are none that Ray hands out"),
        ({"workers": 2, "min_workers": 3, "cluster": {"CPU": 3.0}}, r"3 is not in 1 to 2"),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_what_does(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        share(**{"min_workers": None, "device": "cpu", **options})


def test_where_an_autoscaler_runs_too_few_is_no_error() -> None:
    empty = Cluster(nodes=({},), grows=True)
    found = share(2, None, "cuda", empty)
    assert (found.device, found.gpus_per_worker, found.data_cpus) == ("cuda", 1.0, 1.0)
    waits = "2 GPU workers on a cluster of 0 GPUs; an autoscaler has to bring what is missing"
    assert found.waits == waits
    found = share(2, None, "cpu", empty)
    assert found.waits.startswith("2 and their data tasks need more than 0 CPUs; an autoscaler")
    assert share(1, None, "cpu", Cluster(nodes=({"CPU": 2.0},), grows=True)).waits == ""


def test_device_auto_takes_gpus_where_there_is_one_for_each_worker() -> None:
    assert share(2, None, "auto", of([8, 8], [1, 1])).device == "cuda"
    assert share(3, None, "auto", of([8, 8], [1, 1])).device == "cpu"
    assert share(3, 1, "auto", of([8, 8], [1, 1])).device == "cuda"  # elastic: for the least
    assert share(2, None, "auto", of([8, 0], [1, 1])).device == "cpu"  # a GPU on a node without CPUs
    found = share(2, None, "auto", of([8], [1]), gpus_per_worker=0.5)
    assert (found.device, found.gpus_per_worker) == ("cuda", 0.5)
    assert share(2, None, "cpu", of([8], [2])).gpus_per_worker == 0


def test_a_part_of_a_gpu_is_of_one_gpu() -> None:
    assert concurrent_trials(1, "cuda", of([16], [2]), gpus_per_worker=0.6) == 2
    assert concurrent_trials(1, "cuda", of([16], [2]), gpus_per_worker=0.25) == 8
    assert concurrent_trials(1, "cuda", of([16], [4]), gpus_per_worker=2) == 2
    assert concurrent_trials(1, "auto", of([16])) == 17
    assert concurrent_trials(64, "auto", of([16])) == 1  # share() says that it does not fit


def test_an_elastic_world_starts_with_what_there_is() -> None:
    found = share(4, 1, "cpu", {"CPU": 2.0})
    assert (found.workers, found.min_workers, found.data_cpus) == (4, 1, pytest.approx(0.1))
    # Ray would start ten workers on nine CPUs, and leave nothing for their data
    assert share(10, 1, "cpu", {"CPU": 9.0}).workers == 9
    assert share(4, 1, "cpu", {"CPU": 8.0}, cpus=2.0).workers == 2
    assert share(4, 2, "cuda", of([8, 8], [1, 1])).workers == 4
    with pytest.raises(InputError, match="3 and their data tasks"):
        share(4, 3, "cpu", {"CPU": 2.0})


def test_a_validation_gets_its_cpus_where_there_is_room() -> None:
    found = share(2, None, "cpu", {"CPU": 4.0}, validation_cpus=1.0)
    assert (found.validation_cpus, found.data_cpus) == (1.0, pytest.approx(0.6))
    found = share(2, None, "cpu", {"CPU": 2.0}, validation_cpus=1.0)
    assert (found.validation_cpus, found.data_cpus) == (0.0, pytest.approx(0.1))
    # half a CPU on either node is no whole one
    found = share(2, None, "cpu", of([1.4, 1.4]), validation_cpus=1.0)
    assert (found.validation_cpus, found.data_cpus) == (0.0, pytest.approx(0.5))


def test_only_an_autoscaler_names_the_types_of_nodes() -> None:
    """Seen on Ray 2.60: a cluster started by hand, and one with the first version of the autoscaler."""
    by_hand = {"9894e658": "node_9894e658", "1f2e": ""}
    assert not named_types(by_hand)
    assert not named_types({})
    assert named_types({**by_hand, "ffff": "ray.head.default"})
