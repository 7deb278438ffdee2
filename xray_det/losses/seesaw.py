"""Seesaw loss (Wang et al. 2021) with its objectness branch: frequent classes push rare ones less.

For a row of class i, over the C classes (eqs 2 to 6),

    L = -log e^z_i / (sum_{j != i} S_ij e^z_j + e^z_i),    S_ij = M_ij C_ij,
    M_ij = min(1, N_j / N_i)^p          mitigation, N the labels met in training so far (at least 1),
    C_ij = max(1, sigma_j / sigma_i)^q  compensation, sigma the softmax; it has no gradient.

The background has no part in that. An output of its own, C, says in every row that teaches whether it holds no object
(binary cross-entropy); scores are softmax times the chance of an object. (The authors' two logits for this are one
here: only their difference counts.) As in eq. 3 of paper 002, several labels of a row do not compete, and a class that
is not known leaves the denominator.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xray_det.errors import InputError
from xray_det.labels.statistics import ClassStatistics
from xray_det.losses.targets import DataLoss, RowTargets, at_least_float32


@dataclass(frozen=True, kw_only=True)
class Seesaw:
    """Attributes:
    p: of the mitigation; 0 switches it off.
    q: of the compensation; 0 switches it off.
    """

    p: float = 0.8
    q: float = 2.0

    def __post_init__(self) -> None:
        for name in ("p", "q"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(name, f"{getattr(self, name)} is not 0 or more", "Give 0 or more")

    @property
    def needs(self) -> None:
        return None

    def bind(self, num_classes: int, statistics: ClassStatistics | None) -> "SeesawLoss":
        return SeesawLoss(self, num_classes)

    def num_outputs(self, num_classes: int) -> int:
        return num_classes + 1

    def initial_bias(self, num_classes: int, objects: float | None = None) -> Tensor:
        return torch.cat([torch.zeros(num_classes), background_bias(objects)])


class SeesawLoss(DataLoss):
    """See ``Seesaw``.

    Attributes:
        met: float32 [C], N: labels of all ranks in the steps made so far.
    """

    met: Tensor

    def __init__(self, config: Seesaw, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("met", torch.zeros(num_classes))

    def loss_sum(self, logits: Tensor, targets: RowTargets) -> Tensor:
        """Both losses, summed over the rows that teach; logits [B, R, C + 1]."""
        labels = targets.values > 0
        row, label = labels.nonzero(as_tuple=True)
        listed = at_least_float32(logits[targets.image, targets.row])
        z = listed[row, :-1]
        own = z.gather(1, label[:, None])
        others = z.masked_fill((~targets.known | labels)[row], -math.inf) + self._log_weights(z.detach(), label)
        mass = others.scatter(1, label[:, None], own).logsumexp(1)
        self.see(met=labels.sum(0))
        return (mass - own[:, 0]).sum() + background_sum(logits, targets)

    def _log_weights(self, z: Tensor, label: Tensor) -> Tensor:
        """log S_ij [Q, C]; the softmax' denominator drops out of the ratio of two scores."""
        log_met = self.met.clamp(min=1).log().to(z.dtype)
        mitigation = self.config.p * (log_met - log_met[label, None]).clamp(max=0)
        return mitigation + self.config.q * (z - z.gather(1, label[:, None])).clamp(min=0)

    def scores(self, logits: Tensor) -> Tensor:
        x = at_least_float32(logits)
        return x[..., :-1].softmax(-1) * (-x[..., -1:]).sigmoid()


def background_bias(objects: float | None) -> Tensor:
    """Start [1] of the last output where a share ``objects`` of the rows hold an object; 0 where none is known."""
    return torch.zeros(1) if objects is None else torch.tensor([math.log((1 - objects) / objects)])


def background_sum(logits: Tensor, targets: RowTargets) -> Tensor:
    """Binary cross-entropy of the last output, which says that a row holds no object, over the rows that teach."""
    z = at_least_float32(logits[..., -1])
    listed = z[targets.image, targets.row]
    holds = (targets.values > 0).any(1)
    plain = torch.where(targets.background, F.softplus(-z, threshold=40.0), 0.0).sum()
    return plain + F.softplus(torch.where(holds, listed, -listed), threshold=40.0).sum()
