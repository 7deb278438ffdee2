"""The average of the weights over the steps, which forgets its start."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def decay_at(decay: float, updates: int) -> float:
    """min(decay, (1 + t) / (10 + t)) after t updates, as TensorFlow's ``ExponentialMovingAverage(decay, num_updates)``.

    The average then reaches about t / 9 steps back, until that is 1 / (1 - decay): a high decay alone would leave the
    random start in the average of a short training (at 0.9999, 37 % of it after 10,000 steps).
    """
    return min(decay, (1 + updates) / (10 + updates))


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of ``model`` whose n-th ``update_parameters`` takes the weights whole, if n is 0, and else
    d average + (1 - d) weights with d = ``decay_at(decay, n)``. Buffers are always the model's own."""

    @torch.no_grad()
    def update(average: list[Tensor], weights: list[Tensor], _: Tensor | int) -> None:
        # the number that is handed in lies on the device; the average's own is asked for without waiting
        torch._foreach_lerp_(average, weights, 1 - decay_at(decay, int(ema.n_averaged)))

    ema = AveragedModel(model, multi_avg_fn=update)  # type: ignore[arg-type]  # torch takes tuples and lists
    return ema
