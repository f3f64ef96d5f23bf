"""What can be made of a network, in numbers, and why something cannot."""

import torch
from torch import nn

from accelerator.analysis.coarsening import possibilities


def test_an_mlp_by_formula():
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = possibilities(model, torch.randn(8, 4))
    groups = [(units.layers, units.width, units.parameters, units.kept) for units in found.groups]
    assert groups == [
        (("0",), 32, 4 + 1 + 16, None),
        (("2",), 16, 32 + 1 + 1, None),
        (("4",), 1, None, "it is an output of the network"),
    ]
    by = {each.by: each for each in found.smaller}
    half = 4 * 16 + 16 + 16 * 8 + 8 + 8 + 1
    assert by["coarser width"].parameters == by["pruning half of the units"].parameters == half
    products = (4 * 32 + 32 * 16 + 16, 4 * 16 + 16 * 8 + 8)
    assert by["pruning half of the units"].cost == products[1] / products[0]
    assert [what for what, _ in found.refused] == ["coarser modes", "coarser depth", "coarser resolution"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_network_that_cannot_be_traced_is_no_failure():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x):
            return self.layer(x) if x.sum() > 0 else self.layer(-x)

    found = possibilities(Branching(), torch.randn(8, 4))
    assert (found.groups, found.smaller) == ([], [])
    reasons = dict(found.refused)
    assert reasons["coarser width"][0].startswith("Branching cannot be traced for multilevel training: TraceError")


def test_blocks_of_a_residual_stack_can_go():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return x + torch.relu(self.layer(x))

    found = possibilities(nn.Sequential(*[Block() for _ in range(4)], nn.Linear(8, 1)), torch.randn(4, 8))
    assert found.stacks == [("", 4)]
    shallow = next(each for each in found.smaller if each.by == "coarser depth")
    assert shallow.parameters == 2 * (64 + 8) + 9
