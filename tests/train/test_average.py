"""The average of the weights: its recursion, what it forgets, and that a restart changes no bit."""

import pytest
import torch
from torch import nn

from xray_det.train.average import averaged, decay_at


def test_the_decay_rises_to_its_value_and_stays() -> None:
    assert [decay_at(0.5, t) for t in (0, 1, 2, 7, 8, 9, 1000)] == [0.1, 2 / 11, 3 / 12, 8 / 17, 0.5, 0.5, 0.5]
    assert decay_at(0.9999, 89_989) < 0.9999 == decay_at(0.9999, 89_990)


@pytest.mark.parametrize("decay", [0.3, 0.9999])
def test_equals_a_loop_over_the_weights(decay: float) -> None:
    model = nn.Linear(3, 2).double()
    average = averaged(model, decay)
    generator = torch.Generator().manual_seed(0)
    shares: list[float] = []  # of each update's weights in the average
    history = []
    for updates in range(40):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        history.append(model.weight.detach().clone())
        average.update_parameters(model)
        kept = 0.0 if updates == 0 else min(decay, (1 + updates) / (10 + updates))
        shares = [kept * share for share in shares] + [1 - kept]
        expected = sum(share * weight for share, weight in zip(shares, history, strict=True))
        torch.testing.assert_close(average.module.weight, expected, rtol=1e-12, atol=1e-14)
    assert sum(shares) == pytest.approx(1)


def test_a_short_training_with_a_high_decay_forgets_its_start() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = averaged(model, 0.9999)
    for step in range(101):
        nn.init.constant_(model.weight, 1000.0 if step == 0 else 1.0)
        average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(1, abs=1e-5)


def test_it_goes_on_from_its_number_of_updates() -> None:
    def moved(model: nn.Linear, step: int) -> nn.Linear:
        nn.init.constant_(model.weight, float(step) ** 2)
        return model

    model = nn.Linear(1, 1, bias=False)
    whole = averaged(model, 0.99)
    for step in range(20):
        whole.update_parameters(moved(model, step))
        if step == 10:
            again = averaged(model, 0.99)
            again.module.load_state_dict(whole.module.state_dict())
            again.n_averaged.fill_(int(whole.n_averaged))
        elif step > 10:
            again.update_parameters(model)
    assert torch.equal(again.module.weight, whole.module.weight)
