"""A phase of a training: how long, which images how often, what is trained, and how fast.

An experiment is a list of phases; hybrid training, fine-tuning and expert models are nothing else. A phase never
changes classes or architecture.
"""

from dataclasses import dataclass, field

from xray_det.data.sampling import Natural, Sampling, SoftBalance
from xray_det.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with momentum, as the papers train."""

    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    #: False: normalisation parameters and biases are not decayed.
    decay_norms: bool = True

    def __post_init__(self) -> None:
        _within("momentum", self.momentum, 0.0, 1.0)
        _not_negative("weight_decay", self.weight_decay)
        if self.nesterov and self.momentum == 0:
            raise InputError("nesterov", "is on while momentum is 0", "Give a momentum, for example 0.9")


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.05
    decay_norms: bool = False

    def __post_init__(self) -> None:
        _within("beta1", self.beta1, 0.0, 1.0)
        _within("beta2", self.beta2, 0.0, 1.0)
        _not_negative("weight_decay", self.weight_decay)


Optimizer = SGD | AdamW


@dataclass(frozen=True, kw_only=True)
class Everything:
    """Every parameter learns (those of a frozen norm or backbone stage, which the model itself holds, excepted)."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """Everything outside the backbone and its feature pyramid learns."""


@dataclass(frozen=True, kw_only=True)
class ClassRows:
    """Only the rows of the classification layer that belong to these classes learn.

    Args:
        names: classes of the unified label space, by name.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError("trainable.names", "is empty", "Name at least one class, or train everything")


Trainable = Everything | Head | ClassRows


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase.

    Args:
        epochs: passes over the plan; an epoch has as many images as the datasets hold together.
        sampling: how often each image is shown.
        ratio: share of each dataset in the stream, None for the sampling's own.
        trainable: what learns; the rest is frozen for the phase.
        optimizer: a fresh one at the start of the phase unless ``keep_optimizer``.
        lr: learning rate after the warm-up and before the first drop.
        warmup_steps, warmup_epochs: length of the linear warm-up, in one of the two units; 0 for none. Neither: 500
            steps, but at most a tenth of the phase, and none with ``keep_optimizer``.
        warmup_factor: the warm-up starts at ``warmup_factor * lr``.
        drops: epochs of the phase (fractions allowed) after which lr is multiplied by ``drop_factor``, rising.
        clip: the gradient's total 2-norm is cut to this; None leaves it.
        keep_optimizer: carry the optimizer's state (momentum) over from the phase before.

    Raises:
        InputError: a value that cannot be.
    """

    epochs: int = 1
    sampling: Sampling = field(default_factory=Natural)
    ratio: tuple[float, ...] | None = None
    trainable: Trainable = field(default_factory=Everything)
    optimizer: Optimizer = field(default_factory=SGD)
    lr: float = 0.01
    warmup_steps: int | None = None
    warmup_epochs: float | None = None
    warmup_factor: float = 0.001
    drops: tuple[float, ...] = ()
    drop_factor: float = 0.1
    clip: float | None = None
    keep_optimizer: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError("epochs", f"{self.epochs} is less than one", "Give at least 1")
        if self.epochs == 1 and isinstance(self.sampling, SoftBalance) and isinstance(self.sampling.lam, tuple):
            raise InputError("sampling.lam", "moves within a phase of one epoch", "Give one number, or more epochs")
        if self.lr <= 0:
            raise InputError("lr", f"{self.lr} is not positive", "Give a learning rate above 0")
        for name in ("warmup_steps", "warmup_epochs"):
            _not_negative(name, getattr(self, name) or 0)
        if self.warmup_steps is not None and self.warmup_epochs is not None:
            raise InputError("warmup", "is given in steps and in epochs", "Give one of warmup_steps, warmup_epochs")
        if self.warmup_epochs is not None and self.warmup_epochs > self.epochs:
            raise InputError(
                "warmup_epochs", f"{self.warmup_epochs} exceeds the phase's {self.epochs} epochs", "Shorten it"
            )
        _within("warmup_factor", self.warmup_factor, 0.0, 1.0, closed=True)
        _within("drop_factor", self.drop_factor, 0.0, 1.0, closed=True)
        if list(self.drops) != sorted(set(self.drops)) or any(not 0 < drop < self.epochs for drop in self.drops):
            raise InputError(
                "drops",
                f"{list(self.drops)} do not rise within the phase's {self.epochs} epochs",
                f"Give rising epochs between 0 and {self.epochs}",
            )
        if self.clip is not None and self.clip <= 0:
            raise InputError("clip", f"{self.clip} is not positive", "Give a norm above 0, or none")
        if self.ratio is not None and (min(self.ratio, default=-1) < 0 or sum(self.ratio) <= 0):
            raise InputError("ratio", f"{list(self.ratio)} are no shares", "Give a share of 0 or more for each dataset")

    def sampling_at(self, epoch: int) -> Sampling:
        """The sampling of one epoch, from 0: lambda may move through the phase."""
        return self.sampling.at(epoch, self.epochs) if isinstance(self.sampling, SoftBalance) else self.sampling


def _not_negative(name: str, value: float) -> None:
    if value < 0:
        raise InputError(name, f"{value} is negative", "Give 0 or more")


def _within(name: str, value: float, low: float, high: float, *, closed: bool = False) -> None:
    if not (low <= value < high or (closed and value == high)):
        raise InputError(name, f"{value} is out of range", f"Give {low} to {high}{'' if closed else ' (excluded)'}")
