"""What a config names gives what the package's own functions give."""

import inspect

import pytest
import torch
from torch import nn

from accelerator.errors import ConfigError
from accelerator.multilevel.hierarchy import create_network_hierarchy
from accelerator.multilevel.method import Cascade, FCycle, FullMultigrid, Single, VCycle, WCycle
from accelerator.multilevel.schedule import Smoothing, Stage, cascade_by_epochs, cycles, full_multigrid


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 32), nn.GELU(), nn.Linear(32, 2))


def test_single_is_one_stage_on_the_network_itself():
    assert list(Single().stages(12, [1.0], 10)) == [Stage(0, 12.0)]
    assert Single().hierarchy(model(), torch.zeros(1, 3), torch.Generator()) is None


def test_cascade_spends_the_given_shares_coarsest_first():
    stages = list(Cascade(levels=3, fractions=(0.2, 0.3, 0.5)).stages(10, (1.0, 0.5, 0.25), 10))
    assert [stage.level for stage in stages] == [2, 1, 0]
    assert [stage.work for stage in stages] == [2.0, 3.0, 5.0]


@pytest.mark.filterwarnings("ignore:transfer=.weighted. keeps the function only")
def test_cascade_passes_every_option_to_the_hierarchy():
    given = Cascade(levels=2, factor=4, transfer="weighted", keep=0.25, min_width=4, matching="identity")
    network = given.hierarchy(model(), torch.zeros(1, 3), torch.Generator())
    assert network is not None
    assert network.widths(1) == [8]
    expected = create_network_hierarchy(
        model(), torch.zeros(1, 3), levels=2, factor=4, transfer="weighted", keep=0.25, min_width=4, matching="identity"
    )
    for level in (network, expected):
        level.restrict(0)
        level.levels[1][0].weight.data += 1.0
        level.prolongate(0)
    for ours, theirs in zip(network.levels[0].parameters(), expected.levels[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_cascade_has_the_defaults_of_the_hierarchy():
    ours = inspect.signature(Cascade).parameters
    theirs = inspect.signature(create_network_hierarchy).parameters
    shared = (ours.keys() & theirs.keys()) - {"sizes"}  # a dataclass makes its own empty one
    assert shared >= {"levels", "factor", "matching", "transfer", "keep", "min_width", "leave_out"}
    assert {name: ours[name].default for name in shared} == {name: theirs[name].default for name in shared}


COSTS = (1.0, 0.5, 0.25)


def test_a_cascade_can_be_given_in_epochs_with_a_warm_up_and_a_plateau():
    method = Cascade(levels=3, level_epochs=(2, 1), warmup_epochs=0.5, advance="plateau", patience=4, min_delta=0.01)
    assert list(method.stages(100, COSTS, 10)) == list(cascade_by_epochs(100, COSTS, 10, (2, 1), 5.0))
    assert next(iter(Cascade(warmup_epochs=0.5).stages(100, COSTS, 10))) == Stage(0, 5.0)
    plateau = method.plateau()
    assert plateau is not None
    assert (plateau.patience, plateau.min_delta) == (4, 0.01)
    assert Cascade().plateau() is None
    assert Cascade().fas(None) is None


@pytest.mark.parametrize(("method", "shape"), [(VCycle, "v"), (WCycle, "w"), (FCycle, "f")])
def test_cycles_take_their_shape_steps_and_batches_from_the_options(method, shape):
    made = method(pre=1, post=2, coarse=3, k=5)
    assert list(made.stages(200, COSTS, 40)) == list(cycles(200, COSTS, shape, Smoothing(1, 2, 3)))
    assert made.optimizer_state == "carry"
    assert made.plateau() is None


@pytest.mark.parametrize(
    ("options", "tau_batches", "guard_losses"),
    [
        ({}, 0, 0),
        ({"k": 6, "tau": "minibatch", "guard": 0.1}, 6, 12),
        ({"k": 6, "guard": 0.1}, 0, 12),
        ({"k": 6, "tau": "wholeset"}, 6, 0),
        ({"k": 6, "line_search": True}, 0, 30),
        ({"k": 6, "tau": "minibatch", "guard": 0.0, "subset": "whole_set"}, 40, 80),
    ],
)
def test_what_a_cycle_costs_beside_its_steps(options, tau_batches, guard_losses):
    assert VCycle(**options).smoothing(40) == Smoothing(0, 16, 64, tau_batches, guard_losses)


def test_full_multigrid_takes_fractions_and_steps():
    method = FullMultigrid(pre=1, post=1, coarse=2, tau="none", guard=None, fractions=(0.2, 0.2, 0.6))
    expected = full_multigrid(200, COSTS, Smoothing(1, 1, 2), (0.2, 0.2, 0.6))
    assert list(method.stages(200, COSTS, 40)) == list(expected)


def test_what_a_cycle_carries_is_made_from_the_options():
    method = VCycle(levels=2, tau="wholeset", correction_scale=0.5, line_search=True, guard=0.2)
    network = method.hierarchy(model(), torch.zeros(1, 3), torch.Generator())
    fas = method.fas(network)
    assert fas.network is network
    assert (fas.kind, fas.scale, fas.line_search, fas.guard) == ("wholeset", 0.5, True, 0.2)
    assert VCycle(subset="cycling_k", k=3).window(2, 10, 1, 4) == (0, 6, 3)
    assert VCycle(k=3).window(2, 10, 1, 4) == (1, 4, 3)


def test_learning_rates_by_level():
    assert [Cascade(lr_factors=(1, 2, 4)).lr_factor(level) for level in range(3)] == [1, 2, 4]
    assert Cascade().lr_factor(2) == Single().lr_factor(0) == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cascade(lr_factors=(1, 2)), r"multilevel\.lr_factors=\[1, 2\]: give one for each of the 3 levels"),
        (lambda: Cascade(lr_factors=(1, 2, 0)), r"multilevel\.lr_factors=\[1, 2, 0\]: each must be above 0"),
        (lambda: Cascade(fractions=(1,), level_epochs=(1,)), "both say how much to train: set one"),
        (lambda: Cascade(share=0.0), r"multilevel\.share=0\.0: must be above 0 and at most 1"),
        (lambda: Cascade(optimizer_state="separate"), "multilevel.optimizer_state=separate: a cascade has carry or"),
        (lambda: VCycle(subset="next"), "multilevel.subset=next is unknown — did you mean 'next_k'"),
        (lambda: VCycle(k=0), r"multilevel\.k=0: the coarse levels need at least one batch"),
        (lambda: VCycle(rematch_every=0), "multilevel.rematch_every=0: every how many cycles; null for never"),
        (lambda: WCycle(coarse=0), "coarse=0: without steps on the coarsest level"),
        (lambda: FCycle(tau="mini"), "tau='mini' is unknown"),
    ],
)
def test_options_that_cannot_be_are_refused_with_the_value(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
