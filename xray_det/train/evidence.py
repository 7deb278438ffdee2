"""What a step that was not finite leaves behind, and the way to make that step again.

weights/                  the model before the step
rank-R/batch.safetensors  images, sizes, targets, plan positions of each rank's part of the batch
rank-R/step.json          image ids, the key of the step's random draws, loss terms, divisors, gradient norm
replay.txt                the command
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import safetensors.torch
import torch
from torch import Tensor, nn

from xray_det import storage
from xray_det.data.batch import Batch, Targets
from xray_det.errors import InputError
from xray_det.models.predictions import Detector
from xray_det.train.checkpoint import SaveWeights
from xray_det.train.context import Context
from xray_det.train.step import NonFinite, Precision, StepKey, compute_terms

COMMAND = "python experiments/train.py --replay {folder}"


class Diverged(InputError):
    """Training stopped at a step that was not finite; ``folder`` holds the evidence."""

    def __init__(self, folder: str, step: str) -> None:
        self.folder, self.step = folder, step
        super().__init__(
            folder,
            f"the loss is not finite: {step}. The batch and the weights before the step lie there",
            f"Lower lr, lengthen the warm-up or set clip; to see where it broke: {COMMAND.format(folder=folder)}",
        )

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # type: ignore[override]
        return type(self), (self.folder, self.step)


def write(
    context: Context, precision: Precision, detector: Detector, failure: NonFinite, save_weights: SaveWeights
) -> Diverged:
    """Write this rank's evidence (and, on rank 0, the weights); returns the exception to raise."""
    made = failure.made
    key = made.key
    folder = context.evidence(f"nonfinite-phase{key.phase}-epoch{key.epoch}-batch{key.batch}")
    values = dict(zip(made.terms.names, made.terms.values.tolist(), strict=True))
    document = {
        "image_ids": made.batch.image_ids,
        "key": asdict(key),
        "rank": context.rank,
        "world": context.world,
        "precision": precision,
        "losses": {name: repr(value) for name, value in values.items()},  # JSON has no NaN
        "divisors": dict(zip(made.terms.names, made.terms.divisors.tolist(), strict=True)),
        "grad_norm": repr(float(made.grad_norm)),
    }
    own = storage.join(folder, f"rank-{context.rank}")
    storage.write_bytes(storage.join(own, "batch.safetensors"), safetensors.torch.save(_tensors(made.batch)))
    storage.write_json(storage.join(own, "step.json"), document)
    if context.rank == 0:
        with tempfile.TemporaryDirectory() as local:
            save_weights(detector, Path(local))
            storage.upload(local, storage.join(folder, "weights"))
        storage.write_bytes(storage.join(folder, "replay.txt"), COMMAND.format(folder=folder).encode())
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    problem = f"{', '.join(broken)} of rank {context.rank}" if broken else "the gradient or another rank's loss"
    return Diverged(folder, f"{problem} at phase {key.phase}, epoch {key.epoch}, batch {key.batch}")


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One rank's part of the step, made again.

    Attributes:
        losses: loss terms now; ``recorded`` what they were in training.
        first: the first module, in the order of the forward pass, whose output is not finite; None if all are.
        gradients: parameters whose gradient is not finite.
    """

    rank: int
    image_ids: list[str]
    losses: dict[str, float]
    recorded: dict[str, float]
    first: str | None
    gradients: list[str]


def replay(folder: str, load_detector: Callable[[Path], Detector], device: torch.device) -> list[Replayed]:
    """Make the recorded step again, a rank at a time, in this process.

    Args:
        folder: URI that ``write`` filled.
        load_detector: weights folder -> the model, in training mode.
    """
    with tempfile.TemporaryDirectory() as local:
        fs, path = storage.locate(folder)
        pafs.copy_files(path, local, source_filesystem=fs)
        results = []
        for own in sorted(Path(local).glob("rank-*"), key=lambda p: int(p.name[5:])):
            detector = load_detector(Path(local) / "weights")
            detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            results.append(_replay_rank(own, detector.train(), device))
        return results


def _replay_rank(own: Path, detector: Detector, device: torch.device) -> Replayed:
    document: dict[str, Any] = storage.read_json(own / "step.json")
    batch = _batch(safetensors.torch.load_file(own / "batch.safetensors"), document["image_ids"]).to(device)
    watch = _FirstNonFinite(detector)
    divisors = torch.tensor([document["divisors"][name] for name in sorted(document["divisors"])], device=device)
    terms = compute_terms(
        detector,
        detector,
        batch,
        StepKey(**document["key"]),
        precision=document["precision"],
        rank=document["rank"],
        divisors=lambda _: divisors,
    )
    terms.values.sum().backward()  # type: ignore[no-untyped-call]
    bad = [n for n, p in detector.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    return Replayed(
        rank=document["rank"],
        image_ids=document["image_ids"],
        losses=dict(zip(terms.names, terms.values.tolist(), strict=True)),
        recorded={name: float(value) for name, value in document["losses"].items()},
        first=watch.name,
        gradients=bad,
    )


class _FirstNonFinite:
    """Remembers the first module whose output holds a number that is not finite."""

    def __init__(self, model: nn.Module) -> None:
        self.name: str | None = None
        for name, module in model.named_modules():
            module.register_forward_hook(self._hook(name or "the model"))

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if self.name is None and isinstance(output, Tensor) and not output.isfinite().all():
                self.name = name

        return look


def _tensors(batch: Batch) -> dict[str, Tensor]:
    parts = {**vars(batch), **{f"targets.{name}": value for name, value in vars(batch.targets).items()}}
    return {
        name: value.detach().cpu().contiguous().clone() for name, value in parts.items() if isinstance(value, Tensor)
    }


def _batch(tensors: dict[str, Tensor], image_ids: list[str]) -> Batch:
    inside = {name[8:]: value for name, value in tensors.items() if name.startswith("targets.")}
    outside = {name: value for name, value in tensors.items() if not name.startswith("targets.")}
    targets = Targets(**inside)  # type: ignore[arg-type]  # its counts are worked out anew
    return Batch(targets=targets, image_ids=image_ids, **outside)
