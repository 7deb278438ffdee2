"""Concurrent softmax (paper 002, section 4.1.1): classes that meet on one object do not suppress each other.

Shape letters as in targets.py; K = C + 1 and the background is output C. With y in {0, 1} the labels of a row and r the
concurrent rates (labels/concurrence.py; 0 for the background), training minimises

    L = - sum_i y_i log s*_i,    s*_i = e^z_i / (sum_j (1 - y_j)(1 - r_ij) e^z_j + e^z_i),               (eq. 3)

with the gradient s*_i - 1 for a label i, and sum_k (1 - r_ki) e^z_i / D_k over the labels k for every other output, D_k
the denominator of s*_k. (The paper's eq. 4 is not the derivative of its eq. 3 there.) Scores are

    s_i = e^z_i / sum_j (1 - r_ij) e^z_j.                                                                (eq. 5)

A class that is not known leaves the denominator, as in softmax.py.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xray_det.errors import InputError
from xray_det.labels.statistics import ClassStatistics, Needs
from xray_det.losses.softmax import Softmax, softmax_sum
from xray_det.losses.targets import DataLoss, RowTargets, at_least_float32

# A denominator below this share of the row's largest e^z is taken anew, in logarithms: all that is left of it has
# underflowed, or nearly. So many elements at once.
_TINY, _CHUNK = 1e-20, 1 << 22


@dataclass(frozen=True, kw_only=True)
class ConcurrentSoftmax:
    """Softmax whose classes compete the less, the more often they are labels of one object.

    Attributes:
        train: rates: eq. 3. labels: eq. 3 with r = 0, only the labels of a box itself do not compete. plain: eqs 1 and
            2, where they do, as ``Softmax(labels="each")`` trains.
        test: rates: eq. 5. plain: the softmax of the logits.
        iou: two boxes of at least this overlap are one object, when r is counted.
        hierarchy_rate_train, hierarchy_rate_test: r of a class and its ancestor, both ways. In training labels are
            expanded to ancestors, which then are labels themselves; in a test a leaf and its parent suppress each
            other unless the rate is 1.
        background_prior: as in ``Softmax``.
    """

    train: Literal["rates", "labels", "plain"] = "rates"
    test: Literal["rates", "plain"] = "rates"
    iou: float = 0.9
    hierarchy_rate_train: float = 0.0
    hierarchy_rate_test: float = 1.0
    background_prior: float | None = None

    def __post_init__(self) -> None:
        self.plain  # noqa: B018  # checks the prior
        if not 0 < self.iou <= 1:
            raise InputError("iou", f"{self.iou} is outside (0, 1]", "Give an overlap, for example 0.9")
        for name in ("hierarchy_rate_train", "hierarchy_rate_test"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(name, f"{getattr(self, name)} is outside [0, 1]", "Give 0 to 1")

    @property
    def plain(self) -> Softmax:
        return Softmax(labels="each", background_prior=self.background_prior)

    @property
    def needs(self) -> Needs | None:
        return Needs(concurrence_iou=self.iou) if "rates" in (self.train, self.test) else None

    def bind(self, num_classes: int, statistics: ClassStatistics | None) -> "ConcurrentLoss":
        """Raises InputError for statistics of other classes, or without concurrent rates."""
        return ConcurrentLoss(self, num_classes, statistics)

    def num_outputs(self, num_classes: int) -> int:
        return self.plain.num_outputs(num_classes)

    def initial_bias(self, num_classes: int, objects: float | None = None) -> Tensor:
        return self.plain.initial_bias(num_classes, objects)


class ConcurrentLoss(DataLoss):
    """See ``ConcurrentSoftmax``. Both tables are kept whatever is switched on, so that a trained detector can be tested
    in another way.

    Attributes:
        log_kept: float32 [K, K], log(1 - r_ij) in training.
        kept: float32 [C, K], 1 - r_ij in a test.
    """

    log_kept: Tensor
    kept: Tensor

    def __init__(self, config: ConcurrentSoftmax, num_classes: int, statistics: ClassStatistics | None) -> None:
        super().__init__()
        self.config = config
        unknown = 0.0 if config.needs is None else math.nan
        train, test = torch.full((2, num_classes + 1, num_classes + 1), unknown)
        if statistics is not None and config.needs is not None:
            statistics.require(num_classes)
            if (found := statistics.concurrence) is None:
                raise InputError("statistics", "hold no concurrent rates", "Count them for this loss (its needs)")
            for table, rate in ((train, config.hierarchy_rate_train), (test, config.hierarchy_rate_test)):
                table.zero_()[:-1, :-1] = torch.from_numpy(found.with_hierarchy(statistics.ancestors, rate).dense())
        self.register_buffer("log_kept", (1 - train).log())
        self.register_buffer("kept", 1 - test[:-1])

    def loss_sum(self, logits: Tensor, targets: RowTargets) -> Tensor:
        """Sum over the rows that teach; logits [B, R, C + 1]."""
        if self.config.train == "plain":
            return self.config.plain.loss_sum(logits, targets)
        log_weights = self._log_weights if self.config.train == "rates" else None
        return softmax_sum(logits, targets, apart=True, log_weights=log_weights)

    def _log_weights(self, outputs: Tensor) -> Tensor:
        return self.log_kept.index_select(0, outputs)

    @torch.no_grad()
    def scores(self, logits: Tensor) -> Tensor:
        """Eq. 5, float [..., C]. They add up to more than 1 where classes are concurrent."""
        if self.config.test == "plain":
            return self.config.plain.scores(logits)
        x = at_least_float32(logits)
        x = (x - x.amax(-1, keepdim=True)).flatten(0, -2)
        shares, kept = x.exp(), self.kept.to(x.dtype)
        mass = shares @ kept.T
        scores = (shares[:, :-1] / mass).clamp(max=1)
        row, label = (mass < _TINY).nonzero(as_tuple=True)
        for first in range(0, len(row), step := max(1, _CHUNK // x.shape[1])):
            r, c = row[first : first + step], label[first : first + step]
            scores[r, c] = (x[r, c] - (x[r] + kept[c].log()).logsumexp(1)).exp()
        return scores.view(*logits.shape[:-1], -1)
