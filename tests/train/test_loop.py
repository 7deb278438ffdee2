"""The loop: what is trained when, and that a stopped training ends as an unbroken one."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, load_model
from toy_training import ToyData, ToyDetector, recipe, save_weights

from xray_det.data.batch import Targets
from xray_det.errors import InputError
from xray_det.losses.targets import DataLoss
from xray_det.models.predictions import Losses, Predictions
from xray_det.models.sampling import SampleKey
from xray_det.train.context import Position
from xray_det.train.evidence import Diverged, replay
from xray_det.train.loop import Recipe, run
from xray_det.train.phase import SGD, AdamW, ClassRows, Everything, Head, Phase
from xray_det.train.plain import PlainContext


class Stopped(Exception):
    pass


def stop_after(step: int | None) -> Callable[[Position, int], None]:
    def on_step(position: Position, total: int) -> None:
        if position.step == step:
            raise Stopped

    return on_step


def train(folder: Path, recipe: Recipe, *, stop_at: int | None = None, data: ToyData | None = None, **detector: float):
    """Train in ``folder``; ``stop_at``: die right after this step, counted over the whole run."""

    context = PlainContext(data or ToyData(), folder, on_step=stop_after(stop_at))
    return run(context, recipe, ToyDetector(**detector), save_weights)  # type: ignore[arg-type]


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


TWO_PHASES = (
    Phase(epochs=2, lr=0.05, warmup_steps=3, drops=(1.5,), clip=1.0),
    Phase(epochs=1, lr=0.01, optimizer=AdamW(), trainable=Head()),
)


#: 7 steps and 3 of epochs of 5: both end within an epoch.
BROKEN = (
    Phase(epochs=1.4, lr=0.05, warmup_epochs=0.5, drops=(1.2,), clip=1.0),
    Phase(iterations=3, lr=0.01, drops=(2,), keep_optimizer=True),
)


@pytest.mark.parametrize("phases", [TWO_PHASES, (TWO_PHASES[0], Phase(epochs=1, keep_optimizer=True)), BROKEN])
def test_resume_is_bit_identical_wherever_it_was_stopped(tmp_path: Path, phases: tuple[Phase, ...]) -> None:
    plan = recipe(*phases, ema=0.9)
    whole = train(tmp_path / "whole", plan, dropout=0.2)
    steps = sum(phase.steps(5) for phase in phases)
    for stop in range(1, steps + 1):
        folder = tmp_path / str(stop)
        with pytest.raises(Stopped):
            train(folder, plan, stop_at=stop, dropout=0.2)
        assert same(train(folder, plan, dropout=0.2), whole), f"stopped after step {stop}"


def test_resume_continues_at_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(tmp_path, recipe(), stop_at=4)
    data = ToyData()
    train(tmp_path, recipe(), data=data)
    assert data.served == [(0, 0, 2), (0, 0, 3), (0, 0, 4), *itertools.product([0], [1], range(5))]


@pytest.mark.parametrize("phases", [TWO_PHASES, BROKEN])
def test_chunk_length_has_no_influence(tmp_path: Path, phases: tuple[Phase, ...]) -> None:
    models = [train(tmp_path / str(every), recipe(*phases, checkpoint_every=every)) for every in (1, 3, 5, None)]
    assert all(same(model, models[0]) for model in models)


def test_a_phase_may_end_within_an_epoch(tmp_path: Path) -> None:
    data = ToyData()
    told: list[tuple[Position, int]] = []
    ended: list[int] = []
    context = PlainContext(
        data,
        tmp_path,
        on_step=lambda position, total: told.append((position, total)),
        on_phase_end=lambda phase, folder: ended.append(told[-1][0].step),
    )
    run(context, recipe(*BROKEN, Phase(epochs=1)), ToyDetector(), save_weights)
    shown = [(0, 0, b) for b in range(5)] + [(0, 1, b) for b in range(2)] + [(1, 0, b) for b in range(3)]
    assert data.served == [*shown, *((2, 0, b) for b in range(5))]
    assert ended == [7, 10, 15]
    assert {total for _, total in told} == {15}


def test_a_fraction_is_the_beginning_of_the_whole(tmp_path: Path) -> None:
    """The plan and all random draws of an epoch are the same however early it ends."""
    common = {"lr": 0.05, "warmup_steps": 0}
    with pytest.raises(Stopped):
        train(tmp_path / "whole", recipe(Phase(epochs=2, **common), checkpoint_every=1), stop_at=8, dropout=0.2)
    train(tmp_path / "part", recipe(Phase(iterations=7, **common)), dropout=0.2)
    whole = load_file(tmp_path / "whole" / "checkpoints" / "00000007" / "weights" / "model.safetensors")
    part = load_file(tmp_path / "part" / "phases" / "0" / "weights" / "model.safetensors")
    assert all(torch.equal(part[name], value) for name, value in whole.items())


def test_a_finished_training_makes_no_step(tmp_path: Path) -> None:
    first = train(tmp_path, recipe())
    data = ToyData()
    assert same(train(tmp_path, recipe(), data=data), first)
    assert data.served == []


def test_every_phase_ends_with_a_kept_checkpoint(tmp_path: Path) -> None:
    ended: list[tuple[int, Path]] = []
    context = PlainContext(ToyData(), tmp_path, on_phase_end=lambda phase, folder: ended.append((phase, folder)))
    run(context, recipe(*TWO_PHASES), ToyDetector(), save_weights)
    assert [phase for phase, _ in ended] == [0, 1]
    assert all((folder / "weights" / "model.safetensors").exists() for _, folder in ended)
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_nothing_is_pickled(tmp_path: Path) -> None:
    train(tmp_path, recipe(ema=0.5))
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}


def test_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(tmp_path, recipe(), stop_at=4)
    with pytest.raises(InputError, match="another configuration"):
        train(tmp_path, recipe(fingerprints=("a", "b")))


@pytest.mark.parametrize(
    ("trainable", "moved"),
    [
        (Everything(), {"pyramid.0", "pyramid.1", "pyramid.3", "classifier", "boxes"}),
        (Head(), {"classifier", "boxes"}),
        (ClassRows(names=("b", "d")), {"classifier"}),
    ],
)
def test_only_what_the_phase_trains_moves(
    tmp_path: Path, trainable: Everything | Head | ClassRows, moved: set[str]
) -> None:
    # a decay and a momentum from a phase before would move rows whose gradient is zero
    first = Phase(epochs=1, optimizer=SGD(weight_decay=0.1))
    second = Phase(epochs=1, optimizer=SGD(weight_decay=0.1), trainable=trainable, keep_optimizer=True)
    train(tmp_path, recipe(first, second))
    middle = ToyDetector()
    load_model(middle, tmp_path / "phases" / "0" / "weights" / "model.safetensors")
    after = ToyDetector()
    load_model(after, tmp_path / "phases" / "1" / "weights" / "model.safetensors")
    assert not same(middle, ToyDetector())
    changed = {n for n, v in after.state_dict().items() if not torch.equal(v, middle.state_dict()[n])}
    assert {name.rpartition(".")[0] for name in changed} == moved
    if isinstance(trainable, ClassRows):
        rows = (after.classifier.weight != middle.classifier.weight).any(1)
        assert rows.tolist() == [False, True, False, True, False]


def test_a_new_phase_thaws_what_the_one_before_froze(tmp_path: Path) -> None:
    train(tmp_path, recipe(Phase(epochs=1, trainable=Head()), Phase(epochs=1)))
    start = ToyDetector().state_dict()["pyramid.0.weight"]
    ends = [load_file(tmp_path / "phases" / str(n) / "weights" / "model.safetensors") for n in (0, 1)]
    assert torch.equal(ends[0]["pyramid.0.weight"], start)
    assert not torch.equal(ends[1]["pyramid.0.weight"], start)


def test_averaged_weights_follow_their_recursion(tmp_path: Path) -> None:
    history: list[torch.Tensor] = []
    detector = ToyDetector()
    context = PlainContext(
        ToyData(), tmp_path, on_step=lambda position, total: history.append(detector.classifier.weight.detach().clone())
    )
    averaged = run(context, recipe(ema=0.4), detector, save_weights)
    expected = history[0]  # the average starts at the weights after the first step
    for updates, weight in enumerate(history[1:], 1):
        decay = min(0.4, (1 + updates) / (10 + updates))  # 0.4 from the fifth on
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(averaged.classifier.weight, expected, rtol=1e-6, atol=1e-7)
    assert not torch.equal(averaged.classifier.weight, detector.classifier.weight)


def test_the_update_is_sgd_on_the_loss_of_the_whole_batch(tmp_path: Path) -> None:
    """One step against a gradient taken here, by other means: losses divided by the batch's boxes."""
    model = train(
        tmp_path, recipe(Phase(epochs=1, lr=0.3, optimizer=SGD(momentum=0.0, weight_decay=0.0))), data=ToyData(steps=1)
    )
    own = ToyDetector()
    batch = next(ToyData(steps=1).batches(0, 0, 0, 1))
    key = SampleKey(seed=3, phase=0, epoch=0, positions=batch.positions)
    out = own(batch.images, batch.sizes, batch.targets, key)
    rows = batch.targets.box_image
    loss = (
        -(
            batch.targets.classes * out.logits[rows, 0].sigmoid().log()
            + (1 - batch.targets.classes) * (1 - out.logits[rows, 0].sigmoid()).log()
        ).sum()
        + (out.deltas[rows, 0] - batch.targets.boxes / 16).abs().sum()
    )
    (loss / len(rows)).backward()
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter - 0.3 * parameter.grad, rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_update(tmp_path: Path) -> None:
    phase = Phase(epochs=1, lr=1.0, clip=0.01, optimizer=SGD(momentum=0.0, weight_decay=0.0))
    model = train(tmp_path, recipe(phase), data=ToyData(steps=1))
    moved = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), ToyDetector().parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_curves_are_the_same_after_a_restart(tmp_path: Path) -> None:
    def logged(folder: Path, stop_at: int | None) -> dict[int, float]:
        points: dict[int, float] = {}
        for last in [stop_at, None] if stop_at else [None]:
            context = PlainContext(
                ToyData(),
                folder,
                on_step=stop_after(last),
                on_log=lambda metrics, step: points.__setitem__(step, metrics["train/loss"]),
            )
            try:
                run(context, recipe(log_every=3), ToyDetector(), save_weights)
            except Stopped:
                assert last is not None
        return points

    whole = logged(tmp_path / "a", None)
    assert set(whole) == {2, 3, 4, 5, 6, 7, 9, 10}  # every third, and each chunk's end
    assert logged(tmp_path / "b", 6) == whole


class Counting(DataLoss):
    """What it has seen is a buffer, which is unknown at first."""

    seen: torch.Tensor

    def __init__(self, start: float) -> None:
        super().__init__()
        self.register_buffer("seen", torch.tensor(start))


class CountingDetector(ToyDetector):
    """Its loss grows with the boxes it has seen before."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.counting = Counting(start)

    def losses(self, predictions: Predictions, targets: Targets) -> Losses:
        losses = super().losses(predictions, targets)
        self.counting.see(seen=torch.tensor(float(len(targets.boxes))))
        losses.sums["classes"] = losses.sums["classes"] * (1 + 0.01 * self.counting.seen)
        return losses


def test_what_a_loss_has_seen_grows_once_a_step_and_survives_a_restart(tmp_path: Path) -> None:
    whole = run(PlainContext(ToyData(), tmp_path / "a"), recipe(ema=0.5), CountingDetector(), save_weights)
    boxes = sum(len(batch.targets.boxes) for epoch in range(2) for batch in ToyData().batches(0, epoch, 0, 5))
    assert whole.counting.seen == boxes
    for stop in (3, 8):
        context = PlainContext(ToyData(), tmp_path / f"{stop}", on_step=stop_after(stop))
        with pytest.raises(Stopped):
            run(context, recipe(ema=0.5), CountingDetector(), save_weights)
        again = run(PlainContext(ToyData(), tmp_path / f"{stop}"), recipe(ema=0.5), CountingDetector(), save_weights)
        assert same(again, whole)


def test_a_loss_without_its_statistics_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="built without"):
        run(PlainContext(ToyData(), tmp_path), recipe(), CountingDetector(float("nan")), save_weights)


class BrokenGradient(ToyDetector):
    """A loss of 0 whose gradient is 0 * infinity."""

    def losses(self, predictions: Predictions, targets: Targets) -> Losses:
        losses = super().losses(predictions, targets)
        losses.sums["boxes"] = (
            losses.sums["boxes"] + (predictions.deltas - predictions.deltas.detach()).abs().sqrt().sum()
        )
        return losses


def load(weights: Path) -> ToyDetector:
    detector = ToyDetector()
    load_model(detector, weights / "model.safetensors")
    return detector


def test_a_loss_that_is_not_finite_stops_and_can_be_made_again(tmp_path: Path) -> None:
    data = ToyData()
    data.poisoned = (0, 1, 3)  # step 9
    with pytest.raises(Diverged, match="boxes of rank 0 at phase 0, epoch 1, batch 3") as caught:
        train(tmp_path / "run", recipe(), data=data)
    folder = caught.value.folder
    assert f"--replay {folder}" in str(caught.value)
    (rank,) = replay(folder, load, torch.device("cpu"))
    assert rank.image_ids == ["12", "13", "14", "15"]
    assert rank.losses["boxes"] == float("inf") == rank.recorded["boxes"]
    assert rank.losses["classes"] == rank.recorded["classes"]
    assert rank.first is None  # the network was sound, the target was not
    detector = ToyDetector()
    context = PlainContext(ToyData(), tmp_path / "sound", on_step=stop_after(8))
    with pytest.raises(Stopped):
        run(context, recipe(), detector, save_weights)
    assert same(load(Path(folder) / "weights"), detector)


def test_a_gradient_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="the gradient") as caught:
        run(PlainContext(ToyData(), tmp_path), recipe(), BrokenGradient(), save_weights)

    def broken(weights: Path) -> BrokenGradient:
        detector = BrokenGradient()
        load_model(detector, weights / "model.safetensors")
        return detector

    (rank,) = replay(caught.value.folder, broken, torch.device("cpu"))
    assert set(rank.gradients) >= {"boxes.weight", "boxes.bias", "pyramid.0.weight"}
    assert "classifier.weight" not in rank.gradients


def test_replay_names_the_first_module_that_breaks(tmp_path: Path) -> None:
    detector = ToyDetector()
    with torch.no_grad():
        detector.pyramid[3].weight[0] = float("nan")
    with pytest.raises(Diverged) as caught:
        run(PlainContext(ToyData(), tmp_path), recipe(), detector, save_weights)
    assert replay(caught.value.folder, load, torch.device("cpu"))[0].first == "pyramid.3"
