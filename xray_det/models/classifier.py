"""The last layer of a classifier: features [..., D] -> logits [..., K].

Every kind is an ``nn.Linear`` by its parameters, weight [K, D] and bias [K], a row an output: so classes are added,
copied and frozen by rows whatever the kind.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xray_det.errors import InputError
from xray_det.losses.targets import at_least_float32


@dataclass(frozen=True, kw_only=True)
class Linear:
    """w_k . x + b_k."""

    def build(self, features: int, outputs: int) -> nn.Linear:
        return nn.Linear(features, outputs)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """temperature cos(w_k, x) + b_k: frequent classes cannot win by long weights. The "normalised linear layer" of
    Seesaw loss (Wang et al. 2021); mmdetection's ``NormedLinear`` with power 1.

    Attributes:
        temperature: the greatest logit but for the bias.
    """

    temperature: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            problem = f"{self.temperature} is not above 0"
            raise InputError("classifier.temperature", problem, "Give the scale of the logits, such as 20")

    def build(self, features: int, outputs: int) -> nn.Linear:
        return _CosineLinear(features, outputs, self.temperature)


Classifier = Linear | Cosine


class _CosineLinear(nn.Linear):
    def __init__(self, features: int, outputs: int, temperature: float) -> None:
        super().__init__(features, outputs)
        self.temperature = temperature

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(self.temperature * _unit(input), _unit(self.weight), self.bias)


def _unit(vectors: Tensor) -> Tensor:
    """Of length 1 in the last axis, 0 where they are 0."""
    vectors = at_least_float32(vectors)
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / (length + 1e-6)
