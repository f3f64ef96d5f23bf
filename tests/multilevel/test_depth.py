import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from multilevel_networks import seeded
from torch import nn
from torch.nn import functional

from accelerator.errors import ConfigError
from accelerator.multilevel.depth import DepthTransfer, Stack, find_stacks, shallower


class Block(nn.Module):
    """x + W₂ tanh(W₁ x)"""

    def __init__(self, width=3):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width, bias=False)

    def forward(self, x):
        return x + self.second(torch.tanh(self.first(x)))


class ConvBlock(nn.Module):
    """The basic block of a ResNet."""

    def __init__(self, channels_in, channels, stride=1, dilation=1):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, stride, dilation, dilation)
        self.norm = nn.BatchNorm2d(channels)
        self.down = nn.Conv2d(channels_in, channels, 1, stride) if channels_in != channels else nn.Identity()

    def forward(self, x):
        y = self.norm(self.conv(x))
        y += self.down(x)
        return functional.relu(y, inplace=True)


class PreNorm(nn.Module):
    """x + F(norm(x)): a residual wrapper around any module, with a mask and a flag its forward branches on."""

    def __init__(self, inner):
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(3), inner

    def forward(self, x, mask=None, return_branch=False):
        branch = self.inner(self.norm(x))
        if mask is not None:
            branch = branch * mask
        return (x + branch, branch) if return_branch else x + branch


class Gated(Block):
    """A highway block: what is passed on of x depends on x."""

    def forward(self, x):
        return self.first(x) + x * torch.sigmoid(self.second(x))


class Branching(nn.Module):
    """Control flow on values, which no tracer follows."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


def network(blocks=(5, 4), seed=0):
    """Two stacks in one numbered container, a third in a named one, and BatchNorm."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(3, 3),
        *(Block() for _ in range(blocks[0])),
        nn.Linear(3, 4),
        *(Block(4) for _ in range(blocks[1])),
        nn.Unflatten(1, (1, 2, 2)),
    )
    model.add_module(str(len(model)), nn.Sequential())
    for name, layer in [
        ("stem", ConvBlock(1, 2)),
        ("a", ConvBlock(2, 2)),
        ("b", ConvBlock(2, 2)),
        ("c", ConvBlock(2, 2)),
        ("head", nn.Conv2d(2, 1, 2)),
    ]:
        model[-1].add_module(name, layer)
    return model.double()


def floating(model, seed=1):
    generator = seeded(seed)
    named = [*model.named_parameters(), *model.named_buffers()]
    return {
        name: torch.randn(tensor.shape, dtype=torch.float64, generator=generator)
        for name, tensor in named
        if tensor.is_floating_point()
    }


def dense(operator, model, rows):
    """The matrix of an operator from the states of `model` to those like `rows`, column by column."""
    state = {name: torch.zeros_like(tensor) for name, tensor in floating(model).items()}
    columns = []
    for tensor in state.values():
        for i in range(tensor.numel()):
            tensor.view(-1)[i] = 1
            image = operator(state)
            columns.append(torch.cat([image[name].flatten() for name in rows]))
            tensor.view(-1)[i] = 0
    return torch.stack(columns, dim=1)


def inner_product(one, other):
    assert one.keys() == other.keys()
    return sum((one[name] * other[name]).sum() for name in one)


def test_stacks_are_runs_of_equal_residual_blocks():
    stacks = find_stacks(network())
    assert [(stack.path, stack.blocks) for stack in stacks] == [
        ("", ["1", "2", "3", "4", "5"]),
        ("", ["7", "8", "9", "10"]),
        ("12", ["12.a", "12.b", "12.c"]),
    ]
    assert [stack.blocks for stack in find_stacks(network(), leave_out=["3", "12"])] == [
        ["1", "2"],
        ["4", "5"],
        ["7", "8", "9", "10"],
    ]


@pytest.mark.parametrize(
    "block",
    [
        lambda: nn.TransformerEncoderLayer(4, 2, 8),
        lambda: nn.TransformerDecoderLayer(4, 2, 8, norm_first=True),
        lambda: ConvBlock(2, 2),
        lambda: PreNorm(Branching()),
        lambda: nn.Sequential(Block(), nn.LayerNorm(3), nn.Dropout(), nn.ReLU()),
        lambda: nn.Sequential(Block(), Block()),
    ],
)
def test_residual_blocks(block):
    (stack,) = find_stacks(nn.ModuleDict({"blocks": nn.ModuleList([block(), block()])}))
    assert stack == Stack("blocks", ("0", "1"), 0, 2)


@pytest.mark.parametrize(
    "block",
    [
        lambda: nn.Linear(3, 3),
        lambda: nn.Sequential(nn.LayerNorm(3), nn.ReLU()),
        lambda: nn.Sequential(Block(), nn.GELU()),
        lambda: nn.Sequential(Block(), nn.Linear(3, 3)),
        lambda: ConvBlock(1, 2),
        Gated,
    ],
)
def test_blocks_that_are_not_residual(block):
    with pytest.raises(
        ConfigError, match=r"^depth: no stack of equal residual blocks; .*'0' … '1' \(\w+\): not residual"
    ):
        find_stacks(nn.Sequential(block(), block()))


def test_a_search_in_vain_says_what_was_looked_at():
    shared = Block()
    model = nn.ModuleDict(
        {
            "dilated": nn.Sequential(ConvBlock(2, 2), ConvBlock(2, 2, dilation=2)),
            "tied": nn.Sequential(shared, shared),
            "free": nn.Sequential(Branching(), Branching()),
            "frozen": nn.Sequential(Block(), Block().requires_grad_(False)),
            "relus": nn.Sequential(nn.ReLU(), nn.ReLU()),
            "out": nn.Sequential(Block(), Block()),
        }
    )
    with pytest.raises(ConfigError) as caught:
        find_stacks(model, leave_out=["out.0", "out.1"])
    reasons = str(caught.value).split("; ")
    assert reasons[0] == "depth: no stack of equal residual blocks"
    assert reasons[1] == "'dilated' (Sequential): no two children in a row are equal"
    assert reasons[2].startswith("'tied.0' … 'tied.1' (Block): they share a parameter")
    assert reasons[3].startswith("'free.0' … 'free.1' (Branching): cannot be traced (TraceError: ")
    assert reasons[4] == "'frozen' (Sequential): no two children in a row are equal"
    assert reasons[5:] == ["'out.0' … 'out.1' (Block): left out"]
    with pytest.raises(ConfigError, match=r"the network has no nn.ModuleList or nn.Sequential of several blocks"):
        find_stacks(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"leave_out names 'blok', which is no module .*did you mean 'block'"):
        find_stacks(nn.ModuleDict({"block": Block()}), ["blok"])


def test_dropout_may_differ_between_blocks():
    layers = nn.Sequential(*(nn.TransformerEncoderLayer(4, 2, 8, dropout=rate) for rate in (0.0, 0.1)))
    assert find_stacks(layers) == [Stack("", ("0", "1"), 0, 2)]


def test_a_shallower_copy_is_the_network_without_the_blocks_dropped():
    model = network().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stacks = find_stacks(model)
    coarse = shallower(model, stacks, [3, 2, 1])
    assert [type(child).__name__ for child in coarse] == [
        *["Linear", "Block", "Block", "Block", "Linear", "Block", "Block", "Unflatten", "Sequential"]
    ]
    assert list(coarse[-1]._modules) == ["stem", "a", "head"]
    assert list(coarse._modules) == [str(i) for i in range(9)]
    kept = [model[i] for i in (0, 1, 3, 5, 6, 7, 9, 11)] + [model[12].stem, model[12].a, model[12].head]
    x = expected = torch.randn(4, 3).double()
    for module in kept:
        expected = module(expected)
    torch.testing.assert_close(coarse(x), expected, rtol=0, atol=0)
    assert not {id(p) for p in coarse.parameters()} & {id(p) for p in model.parameters()}
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_a_shallower_torch_encoder_states_its_number_of_layers():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    stacks = find_stacks(model)
    coarse = shallower(model, stacks, [3])
    assert coarse.num_layers == len(coarse.layers) == 3
    assert coarse(torch.randn(2, 5, 4)).shape == (2, 5, 4)
    assert DepthTransfer(stacks, [3]).coarse_stacks == find_stacks(coarse)


def test_names_lead_to_the_other_level_and_back():
    model = network()
    stacks = find_stacks(model)
    transfer = DepthTransfer(stacks, [3, 2, 1])
    assert [transfer.coarse_name(f"{i}.first.weight")[0] for i in range(1, 6)] == ["1", "1", "2", "2", "3"]
    assert transfer.fine_names("6.first.bias") == ["9.first.bias", "10.first.bias"]
    assert transfer.coarse_name("12.head.bias") == "8.head.bias"
    assert transfer.fine_names("8.a.norm.weight") == [f"12.{block}.norm.weight" for block in "abc"]
    coarse = shallower(model, stacks, [3, 2, 1])
    assert set(map(transfer.coarse_name, model.state_dict())) == set(coarse.state_dict())
    assert {fine for name in coarse.state_dict() for fine in transfer.fine_names(name)} == set(model.state_dict())
    assert [(stack.path, stack.first, stack.count) for stack in transfer.coarse_stacks] == [
        ("", 1, 3),
        ("", 5, 2),
        ("8", 1, 1),
    ]
    assert transfer.coarse_stacks[:2] == find_stacks(coarse)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(1, 6), st.integers(0, 100))
def test_restriction_undoes_prolongation_and_transposes_are_adjoint(data, first, second, seed):
    model = network((first, second), seed)
    stacks = find_stacks(model)
    counts = [data.draw(st.integers(1, stack.count)) for stack in stacks]
    transfer = DepthTransfer(stacks, counts)
    fine, coarse = floating(model, seed), floating(shallower(model, stacks, counts), seed + 1)
    torch.testing.assert_close(transfer.restrict(transfer.prolong(coarse)), coarse, rtol=1e-14, atol=1e-14)
    dual = transfer.prolong_transposed(transfer.restrict_transposed(coarse))
    torch.testing.assert_close(dual, coarse, rtol=1e-14, atol=1e-14)
    for up, down in [
        (transfer.prolong, transfer.prolong_transposed),
        (transfer.restrict_transposed, transfer.restrict),
    ]:
        for squared in (False, True):
            one = inner_product(up(coarse, squared=squared), fine)
            torch.testing.assert_close(one, inner_product(coarse, down(fine, squared=squared)), rtol=1e-12, atol=1e-12)


def test_operators_equal_dense_matrices():
    model = network((5, 4))
    stacks = find_stacks(model)
    counts = [3, 2, 2]
    transfer = DepthTransfer(stacks, counts)
    coarse = shallower(model, stacks, counts)
    fine_names, coarse_names = list(floating(model)), list(floating(coarse))
    p, r = dense(transfer.prolong, coarse, fine_names), dense(transfer.restrict, model, coarse_names)
    torch.testing.assert_close(p.unique(), torch.tensor([0, 1.0]).double())
    torch.testing.assert_close(r.unique(), torch.tensor([0, 0.5, 1.0]).double())
    torch.testing.assert_close(r @ p, torch.eye(len(r)).double())
    torch.testing.assert_close(r, p.T / p.sum(dim=0)[:, None])
    for operator, source, rows, expected in [
        (transfer.prolong_transposed, model, coarse_names, p.T),
        (transfer.restrict_transposed, coarse, fine_names, r.T),
    ]:
        torch.testing.assert_close(dense(operator, source, rows), expected)
        squares = dense(lambda state, each=operator: each(state, squared=True), source, rows)
        torch.testing.assert_close(squares, expected**2)
    squares = dense(lambda state: transfer.restrict(state, squared=True), model, coarse_names)
    torch.testing.assert_close(squares, r**2)


def test_the_gradient_of_the_prolonged_network_is_the_transpose_of_the_fine_one():
    model = network().eval()
    stacks = find_stacks(model)
    transfer = DepthTransfer(stacks, [3, 2, 2])
    coarse = dict(shallower(model, stacks, [3, 2, 2]).named_parameters())
    x = torch.randn(4, 3).double()
    loss = torch.func.functional_call(model, transfer.prolong(coarse), (x,)).square().sum()
    by_chain = dict(zip(coarse, torch.autograd.grad(loss, list(coarse.values())), strict=True))
    fine = {name: tensor.detach().requires_grad_() for name, tensor in transfer.prolong(coarse).items()}
    loss = torch.func.functional_call(model, fine, (x,)).square().sum()
    gradients = dict(zip(fine, torch.autograd.grad(loss, list(fine.values())), strict=True))
    torch.testing.assert_close(transfer.prolong_transposed(gradients), by_chain)


def test_states_may_be_partial():
    transfer = DepthTransfer(find_stacks(network()), [3, 2, 1])
    one, three = torch.tensor([4.0]), torch.tensor([6.0])
    assert transfer.restrict({"1.first.bias": one, "4.first.bias": three, "3.first.bias": three}) == {
        "1.first.bias": torch.tensor([2.0]),
        "2.first.bias": torch.tensor([6.0]),
    }
    assert transfer.prolong({"3.first.bias": one}) == {"5.first.bias": one}
    assert transfer.restrict({}) == {}


def test_outside_the_stacks_tensors_pass_and_inside_they_are_new():
    model = network()
    transfer = DepthTransfer(find_stacks(model), [3, 2, 1])
    state = dict(model.named_parameters())
    coarse = transfer.restrict(state)
    assert coarse["4.weight"] is state["6.weight"]
    assert coarse["8.head.bias"] is state["12.head.bias"]
    fine = transfer.prolong(coarse)
    assert fine["6.weight"] is coarse["4.weight"]
    copies = [fine["1.first.weight"], fine["2.first.weight"], coarse["1.first.weight"]]
    assert len({tensor.data_ptr() for tensor in copies}) == 3
    torch.testing.assert_close(copies[0], (state["1.first.weight"] + state["2.first.weight"]) / 2)


def test_counters_are_taken_from_the_first_block_and_copied_back():
    transfer = DepthTransfer(find_stacks(network()), [3, 2, 1])
    name = "12.{}.norm.num_batches_tracked"
    state = {name.format(block): torch.tensor(count) for block, count in [("c", 9), ("a", 7), ("b", 8)]}
    coarse = transfer.restrict(state)
    assert {key: int(value) for key, value in coarse.items()} == {"8.a.norm.num_batches_tracked": 7}
    assert transfer.prolong(coarse) == dict.fromkeys(state, torch.tensor(7))


def test_a_stack_below_a_renumbered_child_keeps_its_place():
    model = nn.Sequential(Block(), Block(), Block(), nn.ModuleDict({"tail": nn.ModuleList([Block(4), Block(4)])}))
    stacks = find_stacks(model)
    transfer = DepthTransfer(stacks, [2, 1])
    assert transfer.coarse_name("3.tail.1.first.bias") == "2.tail.0.first.bias"
    assert transfer.fine_names("2.tail.0.first.bias") == ["3.tail.0.first.bias", "3.tail.1.first.bias"]
    assert transfer.coarse_stacks == [Stack("", ("0", "1", "2"), 0, 2), Stack("2.tail", ("0",), 0, 1)]
    assert set(shallower(model, stacks, [2, 1]).state_dict()) == set(map(transfer.coarse_name, model.state_dict()))
