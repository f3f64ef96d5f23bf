from types import SimpleNamespace

import pytest
import torch
from torch.optim import SGD, Adam

from accelerator.errors import ConfigError
from accelerator.runtime.context.build import build_context
from accelerator.runtime.context.cycle import Cycle, restart_momentum
from accelerator.runtime.run import check_config


class Numbered:
    """Feeds (pass, number) in place of batches."""

    batches = 3

    def epoch(self, epoch, start=0):
        return iter([(epoch, number) for number in range(start, self.batches)])


@pytest.mark.parametrize(
    ("subset", "window", "start", "expected"),
    [
        ("next_k", (4, 1, 2), 0, [(4, 1), (4, 2), (4, 1), (4, 2), (4, 1)]),
        ("next_k", (4, 2, 3), 0, [(4, 2), (5, 0), (5, 1), (4, 2), (5, 0)]),
        ("next_k", (4, 2, 3), 2, [(5, 1), (4, 2), (5, 0), (5, 1), (4, 2)]),
        ("next_k", (0, 2, 5), 4, [(2, 0), (0, 2), (1, 0), (1, 1), (1, 2)]),
        ("cycling_k", (0, 2, 2), 1, [(0, 0), (0, 2), (0, 0), (0, 2), (0, 0)]),
        ("cycling_k", (0, 1, 4), 0, [(0, 1), (0, 2), (0, 0), (0, 1), (0, 1)]),
        ("whole_set", (7, 0, 3), 7, [(7, 1), (7, 2), (7, 0), (7, 1), (7, 2)]),
    ],
)
def test_the_window_is_gone_through_over_and_over_from_any_step(subset, window, start, expected):
    cycle = Cycle(SimpleNamespace(subset=subset), fas=None)
    cycle.window = window
    batches = cycle.batches(Numbered(), start)
    assert [next(batches) for _ in range(5)] == expected


def stepped(optimizer, parameter, gradients):
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    return optimizer.state[parameter]


def test_a_sum_of_gradients_begins_again_at_zero():
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SGD([parameter], lr=0.1, momentum=0.9)
    stepped(optimizer, parameter, [1.0, 2.0])
    restart_momentum(optimizer)
    assert stepped(optimizer, parameter, [4.0])["momentum_buffer"].item() == 4.0


def test_a_mean_of_gradients_begins_again_at_the_next_and_the_scale_of_steps_is_kept():
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Adam([parameter], lr=0.1)
    before = stepped(optimizer, parameter, [1.0] * 5)["exp_avg_sq"].item()
    restart_momentum(optimizer)
    state = stepped(optimizer, parameter, [-2.0])
    assert abs(state["exp_avg"].item()) <= 2.0
    assert state["exp_avg"].item() < 0
    assert state["exp_avg_sq"].item() == pytest.approx(0.999 * before + 0.001 * 4)


def test_an_optimizer_that_never_stepped_has_nothing_to_forget():
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    for optimizer in (SGD([parameter], lr=0.1, momentum=0.9), Adam([parameter], lr=0.1)):
        restart_momentum(optimizer)
        assert not optimizer.state


CASCADE_MISTAKES = {
    "one level": ({"levels": 1}, "multilevel.levels=1: a hierarchy needs at least 2 levels"),
    "a typo in an axis": ({"axes": ["widht"]}, "multilevel.axes: 'widht' is unknown — did you mean 'width'"),
    "no stack of blocks": ({"axes": ["depth"]}, "multilevel: depth: no stack of equal residual blocks"),
    "no modes": ({"axes": ["modes"]}, "multilevel: MLP has nothing along modes to coarsen"),
    "no grid": (
        {"axes": ["resolution"]},
        "multilevel: resolution: the inputs .* have no grid.*leave the res",
    ),
    "too few fractions": ({"fractions": [0.5, 0.5]}, r"multilevel.fractions=\[0.5, 0.5\] has 2 entries for 3 levels"),
    "two ways to share": (
        {"fractions": [0.2, 0.3, 0.5], "level_epochs": [1, 1]},
        "multilevel.fractions and multilevel.level_epochs both",
    ),
    "too few rates": ({"lr_factors": [1, 2]}, r"multilevel.lr_factors=\[1, 2\]: give one for each of the 3 levels"),
    "too small to coarsen": ({"min_width": 100}, "multilevel.levels=3: no width.*min_width"),
    "a state of cycles": ({"optimizer_state": "separate"}, "multilevel.optimizer_state=separate: a cascade has carry"),
    "no patience": ({"advance": "plateau", "patience": 0}, "multilevel.patience=0: expected at least 1"),
    "a warm-up of everything": (
        {"warmup_epochs": 20},
        "multilevel: a warm-up of 60 work units leaves nothing of",
    ),
}
CYCLE_MISTAKES = {
    "a typo in tau": ({"tau": "foo"}, "multilevel.tau='foo': expected.*'minibatch'"),
    "a shape": ({"shape": "v"}, "multilevel.shape: 'v_cycle' has no such argument"),
    "no batches": ({"k": 0}, "multilevel.k=0: the coarse levels need at least one batch"),
    "a negative guard": ({"guard": -1}, "multilevel.guard=-1: .*null for none"),
    "no coarse steps": ({"coarse": 0}, "multilevel.coarse=0: without steps on the coarsest level"),
    "no fine steps": ({"pre": 0, "post": 0}, "multilevel.pre=0 and post=0: .* set one"),
    "a small budget": ({"pre": 99}, "multilevel: one V-cycle costs .* the budget is 60: fewer pre.*trainer.max_epochs"),
}


@pytest.mark.parametrize(
    ("name", "case"), [*(("cascade", c) for c in CASCADE_MISTAKES), *(("v_cycle", c) for c in CYCLE_MISTAKES)]
)
def test_a_mistake_in_the_section_is_told_by_its_key(tiny_config, name, case):
    options, message = (CASCADE_MISTAKES | CYCLE_MISTAKES)[case]
    model = {"name": "mlp", "hidden": [32, 32]}
    config = tiny_config(model=model, trainer={"max_epochs": 20})
    config["multilevel"] = {"name": name, **options}
    with pytest.raises(ConfigError, match=message) as caught:
        built(config)
    assert len(caught.value.problems) == 1


def built(config):
    check_config(config)
    return build_context(config, None)
