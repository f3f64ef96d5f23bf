"""What a config names gives what the package's own functions give."""

import inspect

import pytest
import torch
from torch import nn

from accelerator.multilevel.hierarchy import create_network_hierarchy
from accelerator.multilevel.method import Cascade, Single
from accelerator.multilevel.schedule import Stage


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 32), nn.GELU(), nn.Linear(32, 2))


def test_single_is_one_stage_on_the_network_itself():
    assert list(Single().stages(12)) == [Stage(0, 12.0)]
    assert Single().hierarchy(model(), torch.zeros(1, 3), torch.Generator()) is None


def test_cascade_spends_the_given_shares_coarsest_first():
    stages = list(Cascade(levels=3, fractions=(0.2, 0.3, 0.5)).stages(10))
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
    shared = (ours.keys() & theirs.keys()) - {"self"}
    assert shared >= {"levels", "factor", "matching", "transfer", "keep", "min_width", "leave_out"}
    assert {name: ours[name].default for name in shared} == {name: theirs[name].default for name in shared}
