"""The loader: what reaches a step is the plan, whatever the world, the executor, the start."""

import os
import pickle
import subprocess
import sys
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_shards import made_dataset

from xray_det.data.annotations import Selection
from xray_det.data.assemble import Recipe
from xray_det.data.augmentation import Augmentation
from xray_det.data.batch import Batch
from xray_det.data.geometry import LEAST_SIDE
from xray_det.data.loader import Executor, Loader, RayData, TorchWorkers
from xray_det.data.sampling import Natural, SoftBalance
from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError
from xray_det.labels.supervision import Supervision

#: Six unified classes; 5 lies above 0, which lies above 1. Dataset b names its own four otherwise.
MAPS = (np.array([0, 1, 2, 3], np.int32), np.array([5, 1, 4, 2], np.int32))
ABOVE = {1: {0, 5}, 0: {5}}
EVERYTHING = Augmentation(
    short_side=(32, 48), max_side=80, scale_jitter=(0.5, 2), iou_crop=0.7, zoom_out=0.4, photometric=0.5, multiple=8
)
PLAIN = Augmentation(short_side=(48,), max_side=80, flip=0, multiple=8)


def supervision(learned: tuple[int, ...] | None = None) -> Supervision:
    ancestors = np.zeros((6, 6), bool)
    for child, parents in ABOVE.items():
        ancestors[child, list(parents)] = True
    labelled = np.zeros((2, 6), bool)
    labelled[0, :4] = True  # a is labelled exhaustively; of b only verified labels tell what is absent
    rows = None if learned is None else np.array(learned)
    return Supervision(labelled=labelled, ancestors=ancestors, learned=rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Loader, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("made")
    rows = made_dataset(folder / "a", "a", 19) + made_dataset(folder / "b", "b", 9, seed=1, exhaustive=False)
    loader = Loader(
        selections=(Selection(folder=str(folder / "a")), Selection(folder=str(folder / "b"))),
        maps=MAPS,
        supervision=supervision(),
        augmentation=EVERYTHING,
        batch=8,
        seed=3,
    )
    return loader, rows


def run(loader: Loader, plan: np.ndarray, **how: Any) -> list[Batch]:
    return list(loader.batches(plan, 1, 2, **how))


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    found = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name not in ("targets", "image_ids")}
    return found | {name: value for name, value in vars(batch.targets).items() if isinstance(value, torch.Tensor)}


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.image_ids == other.image_ids
        assert (one.targets.counts, one.targets.regions) == (other.targets.counts, other.targets.regions)
        for (name, a), (_, b) in zip(tensors(one).items(), tensors(other).items(), strict=True):
            assert a.dtype == b.dtype, name
            assert torch.equal(a, b), name


def joined(parts: list[Batch]) -> Batch:
    """The global batch of the ranks' parts."""
    first, starts = parts[0], np.cumsum([0, *(len(part) for part in parts)])
    targets = type(first.targets)(
        **{
            name: torch.cat([getattr(part.targets, name) for part in parts])
            for name in first.targets.__dataclass_fields__
            if name not in ("box_image", "counts", "regions", "inside_unknown")
        },
        box_image=torch.cat([part.targets.box_image + int(start) for part, start in zip(parts, starts, strict=False)]),
    )
    return Batch(
        targets=targets,
        image_ids=[name for part in parts for name in part.image_ids],
        **{
            name: torch.cat([getattr(part, name) for part in parts])
            for name in ("images", "sizes", "positions", "scales", "original_sizes")
        },
    )


@pytest.mark.parametrize("sampling", [Natural(), SoftBalance(lam=1.0)])
def test_every_world_sees_the_same_global_batches(made: tuple[Loader, list[dict[str, Any]]], sampling: Any) -> None:
    loader, rows = made
    plan = loader.plan(sampling, None, 1, 2)
    assert len(plan) == loader.steps_per_epoch * loader.batch
    alone = run(loader, plan)
    assert [name for batch in alone for name in batch.image_ids] == [rows[row]["image_id"] for row in plan]
    assert torch.cat([batch.positions for batch in alone]).tolist() == list(range(len(plan)))
    for world in (2, 4):
        ranks = [run(loader, plan, rank=rank, world=world) for rank in range(world)]
        assert_same([joined(list(parts)) for parts in zip(*ranks, strict=True)], alone)


def test_a_start_in_the_middle_goes_on_as_if_never_stopped(made: tuple[Loader, list[dict[str, Any]]]) -> None:
    loader, _ = made
    plan = loader.plan(Natural(), [1, 1], 1, 2)
    whole = run(loader, plan)
    assert_same(run(loader, plan, start=1, stop=3), whole[1:3])
    assert run(loader, plan, start=2, stop=2) == []
    assert not torch.equal(whole[0].images, next(loader.batches(plan, 1, 3)).images)


def test_torch_workers_give_the_same_bits(made: tuple[Loader, list[dict[str, Any]]]) -> None:
    loader, _ = made
    plan = loader.plan(Natural(), None, 1, 2)
    assert_same(run(loader, plan, executor=TorchWorkers(workers=2)), run(loader, plan))


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_ray_gives_the_same_bits(made: tuple[Loader, list[dict[str, Any]]]) -> None:
    loader, _ = made
    plan = np.tile(loader.plan(Natural(), None, 1, 2), 4)
    expected = run(loader, plan, rank=1, world=2)
    # many small tasks on several CPUs finish in any order; half a CPU runs them one at a time
    for executor in (RayData(cpus=4, task_images=1), RayData(cpus=0.5)):
        assert_same(run(loader, plan, rank=1, world=2, executor=executor), expected)
    batches = loader.batches(plan, 1, 2, executor=RayData(cpus=1))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(run(loader, plan, start=3, stop=4, executor=RayData(cpus=1))) == 1


@pytest.mark.medium
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("ray_cluster")
def test_what_training_workers_leave_of_the_cpus_is_enough(made: tuple[Loader, list[dict[str, Any]]]) -> None:
    """A task of a whole CPU would wait for ever: on two cores two workers leave a fifth of one."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    held = placement_group([{"CPU": 3.8}])
    ray.get(held.ready())
    try:
        loader, _ = made
        plan = loader.plan(Natural(), None, 1, 2)
        assert_same(run(loader, plan, executor=RayData(cpus=0.1)), run(loader, plan))
    finally:
        remove_placement_group(held)


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_ray_says_which_image_is_gone(made: tuple[Loader, list[dict[str, Any]]], tmp_path: Path) -> None:
    check_broken(made, tmp_path, RayData(cpus=1))


@pytest.mark.parametrize("executor", [None, TorchWorkers(workers=1)])
def test_a_broken_image_is_named(
    made: tuple[Loader, list[dict[str, Any]]], tmp_path: Path, executor: Executor | None
) -> None:
    check_broken(made, tmp_path, executor)


def check_broken(made: tuple[Loader, list[dict[str, Any]]], tmp_path: Path, executor: Executor | None) -> None:
    loader, _ = made
    rows = made_dataset(tmp_path / "a", "a", 9)
    broken = replace(
        loader,
        selections=(Selection(folder=str(tmp_path / "a")),),
        maps=MAPS[:1],
        supervision=replace(supervision(), labelled=supervision().labelled[:1]),
        augmentation=PLAIN,
        batch=3,
    )
    path = Path(rows[4]["image"]["path"])
    data, other = path.read_bytes(), Path(rows[5]["image"]["path"]).read_bytes()
    for damage, says in ((data[: len(data) // 2], "not what was ingested"), (other, "wrong_size"), (None, "cannot be")):
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        batches = broken.batches(np.arange(9), 0, 0, executor=executor)
        assert next(batches).image_ids == ["a-0", "a-1", "a-2"]
        with pytest.raises(InputError, match=says) as raised:
            next(batches)
        assert raised.value.where == str(path)
        path.write_bytes(b"")


#: A leaf and a class apart; the middle of the chain; its ends, around a class that is not learned; nothing of a chain.
SUBSETS = [(1, 2), (0,), (1, 5), (2, 3, 4)]


@pytest.mark.parametrize("learned", [None, *SUBSETS])
def test_targets_against_a_plain_reading_of_the_rows(
    made: tuple[Loader, list[dict[str, Any]]], learned: tuple[int, ...] | None
) -> None:
    loader = replace(made[0], augmentation=PLAIN, batch=7, supervision=supervision(learned))
    rows = made[1]
    columns = learned or tuple(range(6))

    def names(row: torch.Tensor) -> set[int]:
        return {columns[column] for column in np.flatnonzero(row)}

    below = {c: {child for child, parents in ABOVE.items() if c in parents} for c in range(6)}
    for batch in run(loader, np.arange(28)):
        image_boxes = batch.targets.box_image.tolist()
        expected_image: list[int] = []
        number = 0
        for image, position in enumerate(batch.positions.tolist()):
            row, table = rows[position], MAPS[position >= 19]
            height, width = row["height"], row["width"]
            assert batch.original_sizes[image].tolist() == [height, width]
            scale_y, scale_x = batch.scales[image].tolist()
            assert batch.sizes[image].tolist() == [round(height * scale_y), round(width * scale_x)]
            own: set[int] = set()
            for box, flags, labels in zip(row["boxes"], row["flags"], row["labels"], strict=True):
                if flags & (BoxFlag.REPEAT | BoxFlag.NO_AREA):
                    continue
                classes = {int(table[label]) for label in labels}
                own |= classes
                x1, x2 = (min(max(v, 0), width) * scale_x for v in (box[0], box[2]))
                y1, y2 = (min(max(v, 0), height) * scale_y for v in (box[1], box[3]))
                region = bool(flags & BoxFlag.CROWD)
                if not region and min(x2 - x1, y2 - y1) < LEAST_SIDE:
                    continue
                up = set().union(*(ABOVE.get(c, set()) for c in classes))
                specific = classes - up
                down = set().union(*(below[c] for c in specific))
                positive = classes | up
                region |= not positive & set(columns)  # no object of a learned class: perhaps one below its own
                unknown = (positive | down if region else down - positive) & set(columns)
                if region and not unknown:
                    continue
                expected_image.append(image)
                assert batch.targets.boxes[number].tolist() == pytest.approx([x1, y1, x2, y2], abs=1e-3)
                assert bool(batch.targets.region[number]) == region
                assert names(batch.targets.classes[number]) == positive & set(columns)
                assert names(~batch.targets.classes_known[number]) == unknown
                number += 1
            if position < 19:
                known = {0, 1, 2, 3}
            else:
                present = own | {int(table[label]) for label in row["verified_positive"]}
                absent = {int(table[label]) for label in row["verified_negative"]}
                unclear = {int(table[label]) for label in row["not_exhaustive"]}
                present -= unclear
                known = set().union(*(ABOVE.get(c, set()) for c in present))
                known -= set().union(*(ABOVE.get(c, set()) for c in unclear))
                known |= present | absent | set().union(*(below[c] for c in absent))
                known -= unclear
            assert names(batch.targets.absence_known[image]) == known & set(columns)
        assert image_boxes == expected_image
        assert batch.targets.counts == tuple(expected_image.count(image) for image in range(7))
        assert batch.targets.regions == int(batch.targets.region.sum())


@pytest.mark.parametrize("learned", SUBSETS)
def test_only_images_with_a_learned_class_are_drawn(
    made: tuple[Loader, list[dict[str, Any]]], learned: tuple[int, ...]
) -> None:
    loader = replace(made[0], batch=4, supervision=supervision(learned))
    expected: dict[int, list[int]] = {}
    for number, row in enumerate(made[1]):
        held = set()
        for flags, labels in zip(row["flags"], row["labels"], strict=True):
            if not flags & (BoxFlag.REPEAT | BoxFlag.NO_AREA | BoxFlag.CROWD):
                for c in (int(MAPS[number >= 19][label]) for label in labels):
                    above = ABOVE.get(c, set()) & set(learned)
                    nearest = {a for a in above if not any(a in ABOVE.get(b, set()) for b in above)}
                    held |= {c} if c in learned else nearest
        if held:
            expected[number] = sorted(learned.index(c) for c in held)
    assert 4 < len(expected) < 28
    classes, rows = loader.drawn
    assert rows.tolist() == list(expected)
    assert [len(part) for part in classes] == [sum(n < 19 for n in expected), sum(n >= 19 for n in expected)]
    found = [part.classes[a:b].tolist() for part in classes for a, b in pairwise(part.offsets)]
    assert found == list(expected.values())
    natural = loader.plan(Natural(), None, 0, 0)
    assert sorted(natural[: len(expected)]) == list(expected)
    assert len(natural) == -(-len(expected) // 4) * 4 == loader.steps_per_epoch * 4
    assert set(loader.plan(SoftBalance(lam=1.0), None, 0, 0)) <= set(expected)
    assert {name for batch in run(loader, natural) for name in batch.image_ids} == {
        made[1][n]["image_id"] for n in expected
    }


def test_classes_that_no_image_holds_cannot_be_learned_alone(
    made: tuple[Loader, list[dict[str, Any]]], tmp_path: Path
) -> None:
    made_dataset(tmp_path / "empty", "empty", 5)
    table = np.arange(4, dtype=np.int32)
    one = Supervision(labelled=np.ones((1, 5), bool), ancestors=np.zeros((5, 5), bool), learned=np.array([4]))
    loader = replace(made[0], selections=(Selection(folder=str(tmp_path / "empty")),), maps=(table,), supervision=one)
    with pytest.raises(InputError, match="no training image holds one of them") as raised:
        loader.plan(Natural(), None, 0, 0)
    assert raised.value.where == "data.classes"


def test_parts_inside_a_box_are_unknown_where_nobody_verified_them(made: tuple[Loader, list[dict[str, Any]]]) -> None:
    """Class 3 is a part of class 2; neither has ancestors or descendants."""
    parts = np.zeros((6, 6), bool)
    parts[3, 2] = True
    loader = replace(made[0], augmentation=PLAIN, batch=7, supervision=replace(supervision(), parts=parts))
    found = []
    for batch in run(loader, np.arange(28)):
        assert batch.targets.inside_unknown is not None
        for n, image in enumerate(batch.targets.box_image.tolist()):
            position = int(batch.positions[image])
            row, table = made[1][position], MAPS[position >= 19]
            taught = [f & (BoxFlag.REPEAT | BoxFlag.NO_AREA) == 0 for f in row["flags"]]
            held = {int(table[c]) for labels, ok in zip(row["labels"], taught, strict=True) if ok for c in labels}
            held |= {int(table[c]) for c in [*row["verified_positive"], *row["verified_negative"]]}
            found.append(bool(batch.targets.classes[n, 2]) and 3 not in held)
            assert batch.targets.inside_unknown[n].tolist() == [False] * 3 + [found[-1], False, False]
    assert 0 < sum(found) < len(found)


def test_the_canvas_is_padded_with_fill(made: tuple[Loader, list[dict[str, Any]]]) -> None:
    loader = replace(made[0], augmentation=PLAIN)
    batch = run(loader, np.arange(8))[0]
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images.shape[2] % 8 == batch.images.shape[3] % 8 == 0
    assert batch.images.shape[2] - 8 < batch.sizes[:, 0].max() <= batch.images.shape[2]
    for image, (height, width) in zip(batch.images, batch.sizes.tolist(), strict=True):
        outside = torch.ones(image.shape[1:], dtype=torch.bool)
        outside[:height, :width] = False
        assert (image[:, outside] == torch.tensor(PLAIN.fill)[:, None]).all()


def test_images_without_boxes_are_ordinary(made: tuple[Loader, list[dict[str, Any]]]) -> None:
    loader = replace(made[0], batch=2)
    empty = [number for number, row in enumerate(made[1]) if not row["boxes"]][:2]
    batch = run(loader, np.array(empty))[0]
    assert batch.targets.boxes.shape == (0, 4)
    assert batch.targets.classes.shape == batch.targets.classes_known.shape == (0, 6)
    assert batch.targets.absence_known.shape == (2, 6)
    assert batch.to("cpu").targets.counts == (0, 0)


def test_a_batch_that_is_not_the_plans_is_noticed(
    made: tuple[Loader, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader, _ = made
    assemble = Recipe.assemble

    def swapped(self: Recipe, rows: np.ndarray, first: int, part: slice) -> Any:
        for arrays, ids in assemble(self, rows, first, part):
            yield arrays, ids[::-1]

    monkeypatch.setattr(Recipe, "assemble", swapped)
    with pytest.raises(RuntimeError, match="order was not kept"):
        run(loader, np.arange(8))


def test_what_cannot_be_loaded_is_refused(made: tuple[Loader, list[dict[str, Any]]]) -> None:
    loader, _ = made
    plan = np.arange(16)
    with pytest.raises(InputError, match=r"3 workers.*batch of 8.*1, 2, 4, 8 workers"):
        run(loader, plan, world=3)
    with pytest.raises(InputError, match="plan has 2 batches"):
        run(loader, plan, start=1, stop=3)
    with pytest.raises(InputError, match="plan of 15 images"):
        run(loader, plan[:15])
    with pytest.raises(InputError, match="rank: 2 in a world of 2"):
        run(loader, plan, rank=2, world=2)
    with pytest.raises(InputError, match="3 classes, the dataset 4"):
        run(replace(loader, maps=(MAPS[0][:3], MAPS[1])), plan)
    with pytest.raises(InputError, match="2, 1 and 2"):
        replace(loader, maps=MAPS[:1])
    with pytest.raises(InputError, match="CPUs are left"):
        RayData(cpus=0)


def test_a_loader_travels_light(made: tuple[Loader, list[dict[str, Any]]]) -> None:
    loader, _ = made
    plan = loader.plan(Natural(), None, 1, 2)
    sent = pickle.dumps(loader)
    assert len(sent) < 4000
    assert_same(run(pickle.loads(sent), plan, stop=1), run(loader, plan, stop=1))


def test_data_tasks_do_not_import_torch() -> None:
    code = "import sys, xray_det.data.tasks; sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
