import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from accelerator.errors import ConfigError
from accelerator.multilevel import (
    CascadeTrainer,
    carry_optimizer_state,
    cascade,
    create_fno_hierarchy,
    create_network_hierarchy,
    steps_of,
)
from domain.physics.model.fno import FNO


def data():
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    return x, x.prod(dim=1, keepdim=True)


def hierarchy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, 1))
    return create_network_hierarchy(model, data()[0], levels=3)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2)


def test_it_does_what_the_loop_in_the_packages_documentation_does_to_the_last_bit():
    x, y = data()
    by_hand, trained = hierarchy(), hierarchy()
    optimizers = [adam(level.parameters()) for level in by_hand.levels]
    stages = list(cascade(budget=20.0, costs=by_hand.costs))
    trainer = CascadeTrainer(trained, mse_loss, adam)
    losses = []
    counts = steps_of(stages, by_hand.costs)
    for stage, steps in zip(stages, counts, strict=True):
        level = stage.level
        if level < 2:
            by_hand.prolongate(level)
            carry_optimizer_state(optimizers[level + 1], optimizers[level], by_hand, level + 1, level)
            trainer.advance_level()
        for _ in range(steps):
            optimizers[level].zero_grad()
            loss = mse_loss(by_hand.levels[level](x), y)
            loss.backward()
            optimizers[level].step()
            losses.append((float(loss.detach()), trainer.step(x, y)))
    assert all(one == other for one, other in losses)
    assert losses[-1][0] < losses[0][0]
    for one, other in zip(by_hand.levels, trained.levels, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert trainer.steps == counts[::-1]
    assert trainer.work == pytest.approx(sum(n * cost for n, cost in zip(trainer.steps, trained.costs, strict=True)))
    assert trainer.work == pytest.approx(20, abs=0.5)


def test_it_says_where_it_is_and_stops_at_the_finest_level():
    trainer = CascadeTrainer(hierarchy(), mse_loss, adam)
    for level in (2, 1, 0):
        assert trainer.current_level_index == level
        assert trainer.model is trainer.network.levels[level]
        assert trainer.is_at_finest is (level == 0)
        trainer.step(*data())
        if level:
            trainer.advance_level()
    with pytest.raises(ConfigError, match=r"the finest level is being trained already; .* \(is_at_finest\)"):
        trainer.advance_level()
    assert trainer.steps == [1, 1, 1]


def test_it_starts_from_the_weights_the_network_has_now():
    network = hierarchy()
    with torch.no_grad():
        network.levels[0][2].bias.fill_(3.0)
    trainer = CascadeTrainer(network, mse_loss, adam)
    assert float(trainer.model[2].bias.detach()) == 3.0


def test_on_a_coarse_grid_it_trains_on_resampled_fields():
    torch.manual_seed(0)
    x, y = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)
    network = create_fno_hierarchy(FNO((1, 8, 8), (1, 8, 8), width=4, modes=4, layers=1, projection=4), x, levels=2)
    trainer = CascadeTrainer(network, mse_loss, adam)
    coarse = copy.deepcopy(trainer.model)
    small_x, small_y = (nn.functional.avg_pool2d(field, 2) for field in (x, y))
    assert trainer.step(x, y) == float(mse_loss(coarse(small_x), small_y).detach())
    fine = trainer.network.levels[0]
    trainer.advance_level()
    assert trainer.step(x, y) > 0
    assert trainer.model is fine


def test_what_it_cannot_use_is_refused():
    model = nn.Linear(4, 1)
    with pytest.raises(ConfigError, match=r"takes a hierarchy, not a Linear: create_network_hierarchy\(model, example"):
        CascadeTrainer(model, mse_loss, adam)
    with pytest.raises(ConfigError, match=r"optimizer made a list, not a torch\.optim\.Optimizer"):
        CascadeTrainer(hierarchy(), mse_loss, list)
    trainer = CascadeTrainer(hierarchy(), nn.MSELoss(reduction="none"), adam)
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(
        ConfigError, match=r"the loss must be one number, a mean over the batch; it has shape \[32, 1\]"
    ):
        trainer.step(*data())
    torch.testing.assert_close(trainer.model.state_dict(), before, rtol=0, atol=0)
    assert trainer.steps == [0, 0, 0]
    changing = iter([torch.optim.Adam, torch.optim.AdamW])
    trainer = CascadeTrainer(hierarchy(), mse_loss, lambda parameters: next(changing)(parameters))
    with pytest.raises(ConfigError, match="cannot carry the state of Adam to AdamW: use one class on all levels"):
        trainer.advance_level()
