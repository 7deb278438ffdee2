"""The loader: a plan and annotations in, padded batches on every rank out, the same bits whoever executes it.

The plan is the dataset. A rank takes its slice of each global batch, so which images reach a step depends neither on
the number of ranks nor on what executes the plan: Ray Data (each rank runs its own small execution, with its share of
the CPUs), or torch's DataLoader where there is no Ray. Both call data/assemble.py. Every batch's image ids are checked
against the plan before it is handed out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from torch.utils.data import DataLoader, Dataset

from xray_det.data import wire
from xray_det.data.annotations import Annotations, Selection
from xray_det.data.assemble import Recipe
from xray_det.data.augmentation import Augmentation
from xray_det.data.batch import Batch
from xray_det.data.plan import plan as epoch_plan
from xray_det.data.randomness import Key
from xray_det.data.sampling import ImageClasses, Sampling
from xray_det.data.tasks import assemble_block
from xray_det.errors import InputError
from xray_det.labels.supervision import Supervision


@dataclass(frozen=True, kw_only=True)
class RayData:
    """Execute the plan by Ray Data.

    Attributes:
        cpus: this rank's share of the cluster's CPUs for data tasks: what the training workers leave, over the world.
            None: no limit. A share below 1 is used by one task at a time.
        task_images: images a task decodes, if they are many enough; a task costs 10-20 ms whatever it does.
        task_bytes: a task stops taking further batches where its output would exceed this.
        prefetch: blocks fetched ahead into this process.
        ahead_bytes: memory of finished batches that may wait for this rank in the object store. Ray's own limit is half
            of the store for each execution, and every rank has one.
    """

    cpus: float | None = None
    task_images: int = 256
    task_bytes: int = 2**26
    prefetch: int = 2
    ahead_bytes: int = 2**30

    def __post_init__(self) -> None:
        if self.cpus is not None and self.cpus <= 0:
            raise InputError(
                "cpus", f"{self.cpus} CPUs are left for decoding images", "Give the training workers fewer CPUs"
            )


@dataclass(frozen=True, kw_only=True)
class TorchWorkers:
    """Execute the plan by torch's DataLoader: ``workers`` processes of this machine, 0 for none, each ``prefetch``
    batches ahead."""

    workers: int = 0
    prefetch: int = 2


Executor: TypeAlias = RayData | TorchWorkers


@dataclass(frozen=True, kw_only=True, eq=False)
class Loader:
    """All that decides what a training sees. Small and picklable: annotations are mapped where they are needed.

    Attributes:
        selections: the datasets.
        maps: for each selection int32 [C_d], the unified row of each class of its dataset (labels/unify.py).
        supervision: row d of its ``labelled`` is selection d. Where it learns some classes alone, only images that hold
            one of them are drawn.
        augmentation: sizes and random changes.
        batch: images of a global batch, all ranks together.
        seed: of the plan and of every random change.
    """

    selections: tuple[Selection, ...]
    maps: tuple[np.ndarray, ...]
    supervision: Supervision
    augmentation: Augmentation
    batch: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError("batch", f"{self.batch} images", "Give at least 1")
        if not len(self.selections) == len(self.maps) == len(self.supervision.labelled):
            counts = f"{len(self.selections)}, {len(self.maps)} and {len(self.supervision.labelled)}"
            raise InputError("loader", f"selections, maps and rows of supervision number {counts}", "Give one of each")

    def __getstate__(self) -> dict[str, object]:
        cached = {"annotations", "drawn"}
        return {name: value for name, value in self.__dict__.items() if name not in cached}

    @cached_property
    def annotations(self) -> Annotations:
        """Mapped on first use; see Annotations.open for errors."""
        annotations = Annotations.open(self.selections)
        for selection, manifest, table in zip(self.selections, annotations.manifests, self.maps, strict=True):
            if len(table) != len(manifest.space):
                raise InputError(
                    selection.folder,
                    f"its map has {len(table)} classes, the dataset {len(manifest.space)}",
                    "Unify the label spaces of the datasets that are trained on",
                )
        return annotations

    @cached_property
    def drawn(self) -> tuple[list[ImageClasses], np.ndarray]:
        """The images that a plan may hold: their learned classes, an entry a selection, and their row numbers.

        Raises:
            InputError: no image holds a class that is learned.
        """
        found = self.annotations.image_classes(self.maps)
        if self.supervision.learned is None:
            return found, np.arange(len(self.annotations))
        parts = [classes.restricted(self.supervision.stands_for) for classes in found]
        starts = self.annotations.starts[:-1]
        rows = np.concatenate([start + images for start, (_, images) in zip(starts, parts, strict=True)])
        if not len(rows):
            problem, remedy = "no training image holds one of them", "Name classes that the training data have"
            raise InputError("data.classes", problem, remedy)
        return [classes for classes, _ in parts], rows

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of a plan: of all images that it may hold, rounded up, however often it draws each."""
        return -(-len(self.drawn[1]) // self.batch)

    def plan(self, sampling: Sampling, ratio: Sequence[float] | None, phase: int, epoch: int) -> np.ndarray:
        """int64 [M], row numbers of the annotations in the order of an epoch; M is a multiple of the global batch."""
        classes, rows = self.drawn
        order = epoch_plan(classes, sampling, ratio=ratio, batch=self.batch, seed=self.seed, phase=phase, epoch=epoch)
        return rows[order]

    def batches(
        self,
        plan: np.ndarray,
        phase: int,
        epoch: int,
        start: int = 0,
        stop: int | None = None,
        rank: int = 0,
        world: int = 1,
        executor: Executor | None = None,
        *,
        pin: bool = False,
    ) -> Iterator[Batch]:
        """This rank's part of the global batches ``start`` .. ``stop`` - 1 of an epoch, in order.

        One call is one execution, which costs from a tenth of a second to a few seconds with Ray Data: ask for many
        batches at once. Closing the iterator early ends it.

        Args:
            plan: of this phase and epoch, from ``plan``.
            phase, epoch: key of the random changes.
            stop: None: to the end of the plan.
            executor: None: in this process.
            pin: batches in page-locked memory, for a CUDA device.

        Raises:
            InputError: the world does not divide the batch, the range lies outside the plan, an image cannot be read.
        """
        if world < 1 or self.batch % world:
            allowed = ", ".join(str(n) for n in range(1, self.batch + 1) if self.batch % n == 0)
            raise InputError(
                "workers",
                f"{world} workers cannot share a global batch of {self.batch} images alike",
                f"Use one of {allowed} workers, or another batch",
            )
        if not 0 <= rank < world:
            raise InputError("rank", f"{rank} in a world of {world}", f"Give 0 to {world - 1}")
        steps = len(plan) // self.batch
        stop = steps if stop is None else stop
        if len(plan) % self.batch or not 0 <= start <= stop <= steps:
            raise InputError(
                "batches", f"{start} to {stop} of a plan of {len(plan)} images", f"The plan has {steps} batches"
            )
        numbers = np.arange(start, stop)
        share = self.batch // world
        part = slice(rank * share, (rank + 1) * share)
        recipe = Recipe(
            annotations=self.annotations.source,
            maps=self.maps,
            supervision=self.supervision,
            augmentation=self.augmentation,
            key=Key(seed=self.seed, phase=phase, epoch=epoch),
        )
        rows = plan.reshape(-1, self.batch)
        if isinstance(executor, RayData):
            found = _by_ray(recipe, rows, numbers, part, executor, pin)
        else:
            found = _by_torch(recipe, rows, numbers, part, executor or TorchWorkers(), pin)
        for expected, (number, batch) in zip(numbers.tolist(), found, strict=True):
            ids = self.annotations.image_ids.take(pa.array(rows[expected, part])).to_pylist()
            if number != expected or batch.image_ids != ids:
                raise RuntimeError(f"batch {number} arrived where {expected} was due: the plan's order was not kept")
            yield batch


def _by_ray(
    recipe: Recipe, rows: np.ndarray, numbers: np.ndarray, part: slice, executor: RayData, pin: bool
) -> Iterator[tuple[int, Batch]]:
    import ray.data

    # The canvas is at most this large; one task makes several batches while they are small.
    side = recipe.augmentation.max_side
    batch_bytes = (part.stop - part.start) * 3 * min(side, max(recipe.augmentation.short_side)) * side
    images = part.stop - part.start
    together = max(1, min(-(-executor.task_images // images), executor.task_bytes // batch_bytes))
    together = min(together, max(1, len(numbers) // 4))  # not so few tasks that some CPUs have none
    ends = [0]
    while ends[-1] < len(numbers):  # the first tasks are small: a training waits for them
        ends.append(min(len(numbers), ends[-1] + min(together, 2 ** (len(ends) - 1))))
    blocks = [
        pa.table({"batch": numbers[first:end], "rows": list(rows[numbers[first:end]])}) for first, end in pairwise(ends)
    ]
    if not blocks:
        return
    # from_arrow would look at the blocks in tasks of a whole CPU each, which training workers may have left nobody.
    dataset = ray.data.from_blocks(blocks)
    options = dataset.context.execution_options
    options.preserve_order = True
    options.resource_limits = options.resource_limits.copy(
        cpu=executor.cpus, object_store_memory=float(executor.ahead_bytes)
    )
    dataset = dataset.map_batches(
        partial(assemble_block, recipe=recipe, part=part),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=1 if executor.cpus is None else min(1, executor.cpus),
    )
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=executor.prefetch):
        for number, arrays, image_ids in wire.from_rows(block):
            yield number, Batch.from_arrays(arrays, image_ids, pin=pin)


def _by_torch(
    recipe: Recipe, rows: np.ndarray, numbers: np.ndarray, part: slice, executor: TorchWorkers, pin: bool
) -> Iterator[tuple[int, Batch]]:
    loader: DataLoader[tuple[int, Batch] | InputError] = DataLoader(
        _Batches(recipe=recipe, rows=rows, numbers=numbers, part=part),
        batch_size=None,
        num_workers=executor.workers,
        prefetch_factor=executor.prefetch if executor.workers else None,
        pin_memory=pin,
    )
    for found in loader:
        if isinstance(found, InputError):
            raise found
        yield found


@dataclass(kw_only=True)
class _Batches(Dataset[tuple[int, Batch] | InputError]):
    """A map-style dataset whose items are whole batches."""

    recipe: Recipe
    rows: np.ndarray
    numbers: np.ndarray
    part: slice

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[int, Batch] | InputError:
        number = int(self.numbers[index])
        try:
            rows = self.rows[number : number + 1]
            ((arrays, ids),) = self.recipe.assemble(rows, number * rows.shape[1], self.part)
        except InputError as error:
            return error  # raised here, torch would raise another exception that holds its traceback as text
        return number, Batch.from_arrays(arrays, ids)
