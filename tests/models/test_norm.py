"""Norms: frozen statistics against torch's batch norm, group sizes, what sync says on a CPU."""

import copy

import pytest
import torch
from torch import nn

from xray_det.errors import InputError
from xray_det.models.norm import FrozenNorm, SyncNorm, fold_frozen, group_norm, norm_layer


@pytest.mark.parametrize("side", [2, 40])  # fewer outputs than weights, and more
def test_frozen_equals_batch_norm_in_evaluation(side: int) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(12)
    for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        values.uniform_(0.5, 2.0)
    conv = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
    reference = nn.Sequential(conv, norm).eval()
    ours = nn.Sequential(copy.deepcopy(conv), FrozenNorm(12))
    ours.load_state_dict({k: v for k, v in reference.state_dict().items() if "tracked" not in k})
    fold_frozen(ours)
    # In float64: the last digits of float32 sums differ from one processor to another.
    for network in (ours, reference):
        network.double()
    x = torch.randn(2, 8, side, side, dtype=torch.float64)
    results = []
    for network in (ours.train(), reference, copy.deepcopy(ours)):
        own = x.clone().requires_grad_()
        y = network(own)
        y.square().sum().backward()
        results.append((y, own.grad, network[0].weight.grad))
    for other in (results[0], results[2]):
        for a, b in zip(other, results[1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert [name for name, _ in ours.named_parameters()] == ["0.weight"]


def test_a_copy_of_a_folded_network_reads_its_own_statistics() -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), FrozenNorm(2))
    fold_frozen(network)
    twin = copy.deepcopy(network)
    x = torch.ones(1, 2, 4, 4)
    before = network(x)
    twin[1].bias.add_(3.0)
    assert torch.equal(network(x), before)
    torch.testing.assert_close(twin(x), before + 3.0)


def test_frozen_norm_without_a_convolution_is_refused() -> None:
    with pytest.raises(ValueError, match="follows no plain convolution"):
        fold_frozen(nn.Sequential(nn.ReLU(), FrozenNorm(3)))


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 16), (24, 4), (16, 4), (40, 8), (7, 1), (1280, 32)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    layer = group_norm(channels)
    assert layer.num_groups == groups
    assert channels % groups == 0


def test_sync_norm_names_the_alternatives_on_a_cpu() -> None:
    layer = norm_layer("sync")(4)
    assert isinstance(layer, SyncNorm)
    with pytest.raises(InputError, match=r"cpu.*group"):
        layer(torch.zeros(2, 4, 3, 3))
    assert layer.eval()(torch.zeros(2, 4, 3, 3)).shape == (2, 4, 3, 3)  # evaluation needs no other rank


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_group_norm_is_never_rounded_before_its_end(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)
    x = (5 + torch.randn(2, 8, 6, 6)).to(dtype)
    assert torch.equal(group_norm(8).to(wide)(x), nn.GroupNorm(2, 8).to(wide)(x.to(wide)).to(dtype))
