"""Checkpoint + ingested datasets -> detections in Parquet, by Ray Data, streamed and restartable.

Layout of the folder it leaves:

    prediction.json      what was predicted with what: another detector, data or size is refused in this folder, and
                         more detections than are there
    part-00000.parquet   schema.DETECTIONS, the class table in the schema's metadata; one row an image, in the order of
                         the annotations

A part is written whole when its last image is done, and a restarted prediction leaves out the parts that are there.
Batches are formed inside parts, so the result does not depend on how many processes worked on it.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache, partial
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from xray_det import display, storage
from xray_det.config import difference, from_dict, to_dict
from xray_det.data import wire
from xray_det.data.annotations import Annotations, Selection, Source
from xray_det.data.augmentation import Augmentation
from xray_det.data.limits import Limits
from xray_det.data.shards import read_table
from xray_det.errors import InputError, within
from xray_det.inference.detect import detect, detection_rows, detection_schema
from xray_det.inference.pictures import Pictures, by_aspect, pictures
from xray_det.labels.space import LabelSpace
from xray_det.models.decoding import Decoding
from xray_det.models.predictions import Detector
from xray_det.models.weights import (
    CONFIG_FILE,
    PREPROCESSOR_FILE,
    WEIGHTS_FILE,
    load_detector,
    read_architecture,
    read_config,
    read_space,
)

#: In a prediction's folder: what was predicted with what.
DESCRIPTION: Final = "prediction.json"
#: So few images are predicted in this process, unless Ray is up: starting it takes longer.
_HERE_IMAGES: Final = 64
_Part: TypeAlias = tuple[int, np.ndarray, pa.Table]
_Decode: TypeAlias = Callable[[pa.Table], Iterator[pa.Table]]
_Forward: TypeAlias = Callable[..., pa.Table]
_COLUMNS = ["image_id", "dataset", "path", "offset", "length", "width", "height"]


@dataclass(frozen=True, kw_only=True)
class Predicting:
    """How a prediction runs.

    Attributes:
        batch: images a forward pass.
        device: ``cuda`` predicts with one actor a GPU of the cluster, decoding in other processes; ``cpu`` decodes and
            predicts in the same tasks, one core each; ``auto`` takes GPUs where the cluster has any.
        precision: ``bfloat16`` is autocast.
        part_images: images a file, and a task.
        where: ``here`` predicts in this process, without Ray; ``auto`` does so for a few images unless Ray is up.
        cpus: what a task asks of Ray. Beside a training that holds the cluster's CPUs give what it leaves, or less:
            tasks that find none wait until it ends.
    """

    batch: int = 8
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    part_images: int = 256
    where: Literal["auto", "here", "ray"] = "auto"
    cpus: float = 1.0

    def __post_init__(self) -> None:
        for name in ("batch", "part_images"):
            if getattr(self, name) < 1:
                raise InputError(name, f"{getattr(self, name)} images", "Give at least 1")
        if self.cpus <= 0:
            raise InputError("cpus", f"{self.cpus} CPUs a task", "Give a number above 0")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A finished prediction.

    Attributes:
        folder: where its parts are.
        parts: how many there are.
        space: the detector's classes.
        own: the limits that the detector was set to.
        limits: those it was predicted with, at least ``own``.
    """

    folder: str
    parts: int
    space: LabelSpace
    own: Limits
    limits: Limits

    @property
    def uris(self) -> tuple[str, ...]:
        """The parts' files in order."""
        return tuple(_part(self.folder, part) for part in range(self.parts))

    def tables(self, dataset: str | None = None) -> Iterator[pa.Table]:
        """The parts in order, each a table of schema.DETECTIONS; of one dataset alone when it is named."""
        for uri in self.uris:
            table = read_table(uri)
            yield table if dataset is None else table.filter(pa.compute.equal(table["dataset"], dataset))

    def table(self, dataset: str | None = None) -> pa.Table:
        return pa.concat_tables(self.tables(dataset))


def predict(
    weights: str,
    selections: Sequence[Selection],
    out: str,
    *,
    augmentation: Augmentation | None = None,
    limits: Limits | None = None,
    settings: Predicting | None = None,
    progress: bool = True,
) -> Prediction:
    """Predict every image of the selections; finished parts of an earlier call are kept.

    Args:
        weights: folder that models.weights.save_detector wrote.
        selections: ingested datasets; their names must differ.
        out: folder for the detections, a local path or URI.
        augmentation: sizes; None: those the detector is tested at.
        limits: what is kept at least, whatever the detector was set to (evaluation/assess.py says what protocols need);
            None: what it was set to. A folder that holds more detections than that goes on with them.
        settings: batch, device, precision.

    Raises:
        InputError: a missing folder, an image that cannot be read, ``out`` holds another prediction.
    """
    settings = settings or Predicting()
    annotations = Annotations.open(selections)
    names = [manifest.name for manifest in annotations.manifests]
    if len(set(names)) < len(names):
        raise InputError("selections", f"two datasets are named {names}", "Predict them into folders of their own")
    augmentation = (augmentation or augmentation_at_test(weights)).evaluation()
    space, own = read_space(weights), read_architecture(weights).decoding
    digest, kept = _claimed(out, weights, annotations, augmentation, settings, own, limits or own)
    decoding = own.widened(kept)
    sizes = np.diff([*range(0, len(annotations), settings.part_images), len(annotations)]).tolist()
    missing = [part for part in range(len(sizes)) if not storage.exists(_part(out, part))]
    schema = detection_schema(space)
    decode = partial(_decode, source=annotations.source, augmentation=augmentation, settings=settings)
    forward = partial(
        _forward,
        weights=weights,
        digest=digest,
        precision=settings.precision,
        decoding=decoding,
        datasets=tuple(names),
    )
    left = sum(sizes[part] for part in missing)
    batches = _here(decode, forward, settings, missing) if _is_here(settings, left) else None
    with display.bars(disable=not progress) as bars:
        bar = bars.add_task("predict", total=len(annotations), completed=len(annotations) - left)
        waiting: dict[int, list[tuple[np.ndarray, pa.Table]]] = {}
        for part, rows, table in batches or _by_ray(decode, forward, settings, missing):
            done = waiting.setdefault(part, [])
            done.append((rows, table))
            bars.advance(bar, len(rows))
            if sum(len(rows) for rows, _ in done) == sizes[part]:
                _write(_part(out, part), waiting.pop(part), schema)
    return Prediction(folder=out, parts=len(sizes), space=space, own=_limits(own), limits=kept)


def open_prediction(folder: str) -> Prediction:
    """A finished prediction.

    Raises:
        InputError: there is none, or it was not finished.
    """
    said = storage.read_json(storage.join(folder, DESCRIPTION))
    parts = -(-sum(said["images"].values()) // said["part_images"])
    for part in range(parts):
        if not storage.exists(_part(folder, part)):
            raise InputError(folder, f"part {part} is missing", "Run the prediction again: it goes on from there")
    fs, path = storage.locate(_part(folder, 0))
    metadata = pq.read_schema(path, filesystem=fs).metadata
    space = LabelSpace.from_json(json.loads(metadata[b"classes"]))
    own, limits = (_read_limits(folder, said, name) for name in ("own", "limits"))
    return Prediction(folder=folder, parts=parts, space=space, own=own, limits=limits)


def _read_limits(folder: str, said: Mapping[str, Any], name: str) -> Limits:
    if name not in said:
        problem = f"does not say which detections are in it ({name})"
        raise InputError(storage.join(folder, DESCRIPTION), problem, "Remove the folder and predict again")
    return from_dict(Limits, said[name])


def augmentation_at_test(weights: str, *, short_side: int | None = None, max_side: int | None = None) -> Augmentation:
    """How a detector is shown images where it is tested or used.

    Sizes are those of its preprocessor_config.json, which another tool reads too and a user may change; the fill colour
    is that of the experiment in its config.json. Without either they are the defaults.

    Args:
        weights: folder that models.weights.save_detector wrote.
        short_side, max_side: pixels, instead of the folder's. The longer side may be as long as ``short_side`` at
            least.

    Raises:
        InputError: the file is missing or holds no sizes that can be.
    """
    experiment = read_config(weights).get("experiment") or {}
    sizes = Augmentation()
    if "augmentation" in experiment:
        with within(f"{storage.join(weights, CONFIG_FILE)}: experiment.augmentation"):
            sizes = from_dict(Augmentation, experiment["augmentation"])
    sizes = _preprocessed(sizes.evaluation(), storage.join(weights, PREPROCESSOR_FILE))
    short = sizes.short_side[0] if short_side is None else short_side
    longest = max(sizes.max_side, short) if max_side is None else max_side
    return replace(sizes, short_side=(short,), max_side=longest)


def _preprocessed(sizes: Augmentation, address: str) -> Augmentation:
    """With what a preprocessor_config.json says of sizes, in the words of the ``transformers`` library."""
    said = storage.read_json(address)
    if "size" not in said:
        return sizes
    try:
        short, longest = (int(said["size"][edge]) for edge in ("shortest_edge", "longest_edge"))
        divisor = int(said.get("pad_size_divisor", sizes.multiple))
        return replace(sizes, short_side=(short,), max_side=longest, multiple=divisor)
    except (KeyError, TypeError, ValueError) as error:
        problem = f"size {said['size']!r} and pad_size_divisor are no sizes in pixels ({error})"
        raise InputError(address, problem, 'Give "size": {"shortest_edge": 800, "longest_edge": 1333}') from error


def _is_here(settings: Predicting, images: int) -> bool:
    """Whether to predict in this process."""
    if settings.where != "auto" or images > _HERE_IMAGES:
        return settings.where == "here"
    import ray

    return not ray.is_initialized()


def _here(decode: _Decode, forward: _Forward, settings: Predicting, parts: list[int]) -> Iterator[_Part]:
    """(part, rows of it, their detections) batch by batch."""
    device = settings.device if settings.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    for part in parts:
        for block in decode(pa.table({"part": [part]})):
            yield from _found(forward(block, device=device))


def _by_ray(decode: _Decode, forward: _Forward, settings: Predicting, parts: list[int]) -> Iterator[_Part]:
    """The same in any order."""
    if not parts:
        return
    from xray_det.data.cluster import connect

    connect()
    import ray.data

    gpus = int(ray.cluster_resources().get("GPU", 0)) if settings.device != "cpu" else 0
    if settings.device == "cuda" and not gpus:
        raise InputError("device", "the cluster has no GPU", "Use --device cpu")
    blocks = [pa.table({"part": [part]}) for part in parts]
    dataset = ray.data.from_blocks(blocks).map_batches(
        decode, batch_size=None, batch_format="pyarrow", num_cpus=settings.cpus
    )
    # A GPU keeps its detector in an actor. On CPUs a task keeps it in its process, which later tasks find there:
    # starting actors takes longer than loading it.
    if gpus:
        dataset = dataset.map_batches(
            _OnGpu,
            fn_constructor_args=[forward],
            batch_size=None,
            batch_format="pyarrow",
            num_gpus=1,
            compute=ray.data.ActorPoolStrategy(size=gpus),
        )
    else:
        dataset = dataset.map_batches(
            partial(forward, device="cpu"), batch_size=None, batch_format="pyarrow", num_cpus=settings.cpus
        )
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from _found(block)


def _found(block: pa.Table) -> Iterator[_Part]:
    """What ``_forward`` wrote; raises what the user must mend."""
    for row in range(block.num_rows):
        if error := block["error"][row].as_py():
            raise InputError(*json.loads(error))
        table = pa.ipc.open_stream(block["detections"][row].as_buffer()).read_all()
        yield block["part"][row].as_py(), np.asarray(block["rows"][row].as_py(), np.int64), table


def _decode(block: pa.Table, *, source: Source, augmentation: Augmentation, settings: Predicting) -> Iterator[pa.Table]:
    """The pictures of the parts of a block, a row a batch (data/wire.py); torch-free but for this module's import."""
    everything = source.batch()
    for part in block["part"].to_pylist():
        start = part * settings.part_images
        rows = everything.slice(start, settings.part_images).select(_COLUMNS)
        for chosen in by_aspect(rows, settings.batch):
            some = rows.take(pa.array(chosen))
            try:
                shown = pictures(some, augmentation)
            except InputError as error:
                yield wire.to_failure(error)
                return
            arrays = {"rows": chosen, "dataset": some["dataset"].to_numpy(), **vars(shown)}
            yield wire.to_row(part, arrays, some["image_id"].to_pylist())


def _forward(
    block: pa.Table,
    *,
    weights: str,
    digest: str,
    precision: str,
    decoding: Decoding,
    datasets: Sequence[str],
    device: str,
) -> pa.Table:
    """Detections of each batch of a block: part, rows of the part, an Arrow stream; or what the user must mend.

    ``datasets`` are named in the order in which batches count them.
    """
    found: dict[str, list[Any]] = {"part": [], "rows": [], "detections": [], "error": []}

    def add(*values: Any) -> None:
        for column, value in zip(found.values(), values, strict=True):
            column.append(value)

    try:
        for part, arrays, image_ids in wire.from_rows(block):
            rows, dataset = arrays.pop("rows"), arrays.pop("dataset")
            detector = _detector(weights, digest, device, decoding)
            answer = detect(detector, Pictures(**arrays), precision=getattr(torch, precision))
            table = detection_rows(answer, image_ids, [datasets[number] for number in dataset])
            sink = io.BytesIO()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_batch(table)
            add(part, rows, sink.getvalue(), None)
    except InputError as error:
        add(-1, [], b"", json.dumps([error.where, error.problem, error.remedy]))
    kinds = (pa.int64(), pa.list_(pa.int64()), pa.large_binary(), pa.string())
    columns = {name: pa.array(found[name], kind) for name, kind in zip(found, kinds, strict=True)}
    return pa.table(columns)


class _OnGpu:
    """An actor that holds the detector on its GPU."""

    def __init__(self, forward: _Forward) -> None:
        self._forward = partial(forward, device="cuda")

    def __call__(self, block: pa.Table) -> pa.Table:
        return self._forward(block)


@lru_cache(maxsize=1)
def _detector(weights: str, digest: str, device: str, decoding: Decoding) -> Detector:
    """One a process. The digest is in the key: a cluster's processes outlive a folder's content."""
    detector, _ = load_detector(weights, decoding=decoding)
    return detector.to(device).to(memory_format=torch.channels_last)


def claim(out: str, said: Mapping[str, Any]) -> None:
    """Say in a folder what is predicted there.

    Args:
        said: JSON; the names and numbers of ``images`` by dataset, and ``part_images`` a part, are among it.

    Raises:
        InputError: the folder says something else.
    """
    address = storage.join(out, DESCRIPTION)
    if not storage.exists(address):
        storage.write_json(address, said)
    elif changed := difference(storage.read_json(address), said):
        raise InputError(
            out, f"holds another prediction ({'; '.join(changed[:4])})", "Remove it or choose another folder"
        )


def _claimed(
    out: str,
    weights: str,
    annotations: Annotations,
    augmentation: Augmentation,
    settings: Predicting,
    own: Decoding,
    needed: Limits,
) -> tuple[str, Limits]:
    """Claim the folder: the weights' digest, and the limits to predict with, which are the folder's where it has all.

    Raises:
        InputError: the folder holds something else, or fewer detections than are needed.
    """
    kept, address = _limits(own).widened(needed), storage.join(out, DESCRIPTION)
    if storage.exists(address):
        held = _read_limits(out, storage.read_json(address), "limits")
        kept = held if held.covers(kept) else kept
    digest = hashlib.sha256(storage.read_bytes(storage.join(weights, WEIGHTS_FILE))).hexdigest()[:16]
    numbers = np.diff(annotations.starts).tolist()
    pairs = list(zip(annotations.manifests, annotations.selections, numbers, strict=True))
    said = {
        "weights": digest,
        "data": {manifest.name: [manifest.fingerprint, chosen.split] for manifest, chosen, _ in pairs},
        "images": {manifest.name: number for manifest, _, number in pairs},
        "augmentation": json.loads(json.dumps(asdict(augmentation))),
        "batch": settings.batch,
        "precision": settings.precision,
        "part_images": settings.part_images,
        "own": to_dict(_limits(own)),
        "nms_iou": own.nms_iou,
        "limits": to_dict(kept),
    }
    claim(out, said)
    return digest, kept


def _limits(decoding: Decoding) -> Limits:
    """Those of a decoding, without what else it says."""
    return Limits(**{field.name: getattr(decoding, field.name) for field in fields(Limits)})


def _part(folder: str, part: int) -> str:
    return storage.join(folder, f"part-{part:05d}.parquet")


def _write(address: str, done: list[tuple[np.ndarray, pa.Table]], schema: pa.Schema) -> None:
    """A part whole, its images back in order."""
    rows = np.concatenate([rows for rows, _ in done])
    table = pa.concat_tables([table for _, table in done]).take(pa.array(np.argsort(rows)))
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(schema.metadata), sink)
    storage.write_bytes(address, sink.getvalue())
