import operator

import pytest
import torch
from multilevel_networks import cnn, normed_blocks, residual
from torch import nn
from torch.nn import functional

from accelerator.errors import ConfigError
from accelerator.multilevel.coupling import trace_coupling


class Forward(nn.Module):
    """Modules a, b, c and a forward given by a function."""

    def __init__(self, forward, **modules):
        super().__init__()
        self._forward = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self._forward(self, x)


def hidden(between, width=8, out=8, **modules):
    """Linear 3 → width, the operation `between`, Linear out → 2."""
    return Forward(
        lambda m, x: m.b(between(m, m.a(x))), **{"a": nn.Linear(3, width), "b": nn.Linear(out, 2), **modules}
    )


def free(model, x, **options):
    """Layers and width of every group that can be coarsened."""
    return [(group.layers, group.width) for group in trace_coupling(model, x, **options).free.values()]


def places(coupling):
    """parameter → [(dim, group's first layer, outer, inner, role)]."""
    return {
        name: [(s.dim, coupling.groups[s.span.group].layers[0], s.span.outer, s.span.inner, s.role) for s in slots]
        for name, slots in coupling.slots.items()
    }


IMAGE = torch.zeros(2, 2, 8, 8).double()
ROW = torch.zeros(4, 3)


def test_input_and_output_are_never_coarsened_and_hidden_widths_are():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))
    coupling = trace_coupling(model, ROW)
    assert places(coupling) == {
        "0.weight": [(0, "0", 1, 1, "row")],
        "0.bias": [(0, "0", 1, 1, "row")],
        "2.weight": [(1, "0", 1, 1, "column"), (0, "2", 1, 1, "row")],
        "2.bias": [(0, "2", 1, 1, "row")],
        "4.weight": [(1, "2", 1, 1, "column")],
    }
    assert [group.kept for group in coupling.groups.values()] == [None, None, "it is an output of the network"]


def test_a_flattened_channel_owns_a_block_of_the_next_layers_inputs():
    model = cnn(8)
    found = places(trace_coupling(model, IMAGE))
    assert found["9.weight"] == [(1, "4", 1, 4, "column"), (0, "9", 1, 1, "row")]  # 10 channels × 2·2 pixels
    assert found["4.weight"] == [(1, "0", 1, 1, "column"), (0, "4", 1, 1, "row")]
    assert found["1.running_var"] == [(0, "0", 1, 1, "variance")]
    assert found["1.running_mean"] == found["1.weight"] == [(0, "0", 1, 1, "unit")]


def test_channels_last_flatten_gives_units_a_stride():
    model = Forward(
        lambda m, x: m.b(m.a(x).flatten(1)), a=nn.Linear(3, 8), b=nn.Linear(5 * 8, 2)
    )  # [B, 5, 3] → [B, 5, 8] → [B, 40]
    assert places(trace_coupling(model, torch.zeros(2, 5, 3)))["b.weight"] == [(1, "a", 5, 1, "column")]


def test_a_block_of_inputs_survives_further_reshapes():
    model = Forward(
        lambda m, x: m.b(m.a(x.unsqueeze(1)).flatten(1).unsqueeze(1).flatten(1)),
        a=nn.Conv1d(1, 8, 1),
        b=nn.Linear(24, 2),
    )
    assert places(trace_coupling(model, ROW))["b.weight"] == [(1, "a", 1, 3, "column")]


def test_what_a_residual_sum_joins_is_one_group():
    coupling = trace_coupling(residual(), IMAGE)
    assert [(group.layers, group.width) for group in coupling.free.values()] == [(("stem", "first", "second"), 8)]


def test_a_residual_sum_with_the_input_keeps_the_width():
    model = Forward(lambda m, x: m.c(x + m.b(m.a(x))), a=nn.Linear(3, 8), b=nn.Linear(8, 3), c=nn.Linear(3, 1))
    coupling = trace_coupling(model, ROW)
    assert [group.layers for group in coupling.free.values()] == [("a",)]
    kept = {group.layers: group.kept for group in coupling.groups.values() if group.kept}
    assert "joined" in kept["b",]


def test_what_is_joined_to_a_kept_width_is_kept():
    model = Forward(
        lambda m, x: m.d(torch.relu(m.c(m.a(x) + (x + m.b(x))))),
        a=nn.Linear(3, 3),
        b=nn.Linear(3, 3),
        c=nn.Linear(3, 8),
        d=nn.Linear(8, 1),
    )
    assert free(model, ROW) == [(("c",), 8)]


def test_parameters_used_in_sums_and_products_follow_the_width():
    found = places(trace_coupling(normed_blocks(), torch.zeros(2, 5, 3).double()))
    assert found["position"] == [(1, "embed", 1, 1, "unit")]
    assert found["scale"] == [(0, "embed", 1, 1, "invariant")]
    assert found["norm.weight"] == [(0, "embed", 1, 1, "unit")]


def test_a_layer_used_twice_joins_what_it_reads_with_what_it_produces():
    model = Forward(
        lambda m, x: m.c(torch.tanh(m.b(torch.tanh(m.b(m.a(x)))))),
        a=nn.Linear(3, 8),
        b=nn.Linear(8, 8),
        c=nn.Linear(8, 1),
    )
    assert free(model, ROW) == [(("a", "b"), 8)]


def test_group_norm_divides_the_width_into_blocks():
    coupling = trace_coupling(residual("group"), IMAGE)
    assert [group.blocks for group in coupling.free.values()] == [2]


@pytest.mark.parametrize(
    "operation",
    [
        lambda m, x: x.view(x.shape[0], -1),
        lambda m, x: x.unsqueeze(1).squeeze(1),
        lambda m, x: x.view(-1, x.size(1), 1).flatten(1),
        lambda m, x: x.unsqueeze(1).mean(1),
        lambda m, x: x.unsqueeze(0).sum(0, keepdim=False),
        lambda m, x: x.unsqueeze(2).permute(0, 2, 1).transpose(1, 2).flatten(1),
        lambda m, x: functional.avg_pool1d(x.unsqueeze(2), 1).flatten(1),
        lambda m, x: functional.interpolate(x.unsqueeze(2), scale_factor=2).mean(2),
        lambda m, x: functional.dropout(2.0 * x / 3 - 1, 0.1),
        lambda m, x: operator.iadd(x, x.sin()),
        lambda m, x: x * torch.sigmoid(x),
        lambda m, x: m.slope(x),
        lambda m, x: m.scale * x + m.shift,
        lambda m, x: torch.stack([x, -x], dim=1).softmax(1)[:, 0],
        lambda m, x: torch.stack([x, -x], dim=1)[:, 1, ...],
        lambda m, x: x[:, None].expand(-1, 3, -1).cumsum(1).var(1),
        lambda m, x: x.unsqueeze(0).unbind(0)[0].masked_fill(x > 0, 0.5),
        lambda m, x: torch.where(x > 0, x, m.shift),
        lambda m, x: x.unsqueeze(1).repeat(1, 3, 1).amax(1),
    ],
)
def test_operations_with_a_rule_carry_the_width(operation):
    model = hidden(operation, slope=nn.PReLU(8), scale=nn.Parameter(torch.ones(1)), shift=nn.Parameter(torch.ones(8)))
    assert free(model, ROW) == [(("a",), 8)]


def test_a_single_output_unit_whose_dimension_is_dropped_is_no_width():
    model = Forward(lambda m, x: m.b(m.a(x)).view(-1), a=nn.Linear(3, 8), b=nn.Linear(8, 1))
    assert free(model, ROW) == [(("a",), 8)]


@pytest.mark.parametrize(
    "head",
    [
        lambda m, x: torch.softmax(m.b(x), -1),
        lambda m, x: m.b(x).view(4, 3, 2),
        lambda m, x: torch.cat([m.b(x), m.b(x)], -1),
        lambda m, x: {"mean": m.b(x)[:, :3], "others": (m.b(x)[:, 3:],)},
        lambda m, x: m.b(x).cumsum(-1).flip(-1),
    ],
)
def test_what_only_reshapes_the_output_leaves_the_output_width_as_it_is(head):
    model = Forward(lambda m, x: head(m, m.a(x)), a=nn.Linear(3, 8), b=nn.Linear(8, 6))
    assert free(model, ROW) == [(("a",), 8)]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (hidden(lambda m, x: x.kthvalue(2)[0], out=4), "the 8 units of 'a': kthvalue in Forward: there is no rule"),
        (hidden(lambda m, x: torch.softmax(x, -1)), "softmax in Forward: it acts along a dimension that is a width"),
        (hidden(lambda m, x: x.view(-1, 8)), "view in Forward: it hard-codes the size 8 of a width; write -1"),
        (hidden(lambda m, x: x.view(x.shape[0], 2, 4).mean(1), out=4), "it hard-codes the size 4 of a width; write -1"),
        (hidden(lambda m, x: x - x.mean(1, keepdim=True)), "mean in Forward: it reduces over a dimension that is a w"),
        (hidden(lambda m, x: x / x.shape[1]), "truediv in Forward: it uses the size of a width as a number"),
        (hidden(lambda m, x: functional.max_pool1d(x, 2), out=4), "max_pool1d in Forward: it pools over a dimension"),
        (hidden(lambda m, x: m.c(x, x), c=nn.Bilinear(8, 8, 8)), r"'c' \(Bilinear\): there is no rule"),
        (hidden(lambda m, x: m.c(x)[0], c=nn.GRU(8, 8)), r"cannot coarsen 'c' \(GRU\): there is no rule"),
        (
            hidden(lambda m, x: m.c(x.unsqueeze(1)).mean(1), out=6, c=nn.Conv1d(1, 2, 3)),
            r"'c' \(Conv1d\): it slides over a dimension that is a width",
        ),
        (
            hidden(lambda m, x: (x[:, None] @ m.c)[:, 0], c=nn.Parameter(torch.ones(4, 8, 8))),
            "matmul in Forward on parameter 'c': a product with a parameter has a rule only for a whole matrix",
        ),
        (
            hidden(lambda m, x: x * m.c.exp(), c=nn.Parameter(torch.ones(8))),
            "exp in Forward on parameter 'c': there is no rule",
        ),
        (
            hidden(lambda m, x: m.c(x), c=nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))),
            r"'c' \(ParametrizedLinear\): its weight is computed from other tensors \(weight_norm, .*leave_out=\['c'\]",
        ),
        (
            hidden(lambda m, x: x + x.cumsum(-1)),
            "the 8 units of 'a': cumsum in Forward: it acts along a dimension that is",
        ),
        (hidden(lambda m, x: x[:, :4], out=4), "getitem in Forward: it takes a part of a width; use chunk or split"),
        (
            hidden(lambda m, x: x * m.a.bias),
            r"on parameter 'a.bias': its tensor 'a.bias' is used in another role in 'a' \(Linear\) \(tied weights\)",
        ),
        (hidden(lambda m, x: nn.functional.linear(x, m.a.weight.t()), out=3), "t in Forward on parameter 'a.weight'"),
        (
            Forward(
                lambda m, x: m.c((y := m.b(x.unsqueeze(2).expand(-1, -1, 2))).flatten(1) + y.mT.flatten(1)),
                a=nn.Linear(3, 8),
                b=nn.Conv1d(3, 4, 1),
                c=nn.Linear(8, 2),
            ),
            "it joins two widths that are laid out differently",
        ),
    ],
)
def test_what_cannot_be_coarsened_is_named_with_the_reason(model, message):
    with pytest.raises(ConfigError, match=message):
        trace_coupling(model, ROW)


def test_layers_that_share_a_weight_are_one_group():
    model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 1))
    model[3].weight = model[1].weight
    assert free(model, ROW) == [(("0", "1", "3"), 8)]


def test_all_problems_are_told_together():
    model = hidden(lambda m, x: m.d(m.c(x, x))[0], c=nn.Bilinear(8, 8, 8), d=nn.GRU(8, 8))
    with pytest.raises(ConfigError) as caught:
        trace_coupling(model, ROW)
    assert len(caught.value.problems) == 2


def test_modules_left_out_keep_their_size_and_that_of_what_they_read():
    model = nn.Sequential(nn.Linear(3, 8), nn.GRU(8, 8), Forward(lambda m, x: x[0]), nn.Linear(8, 8), nn.Linear(8, 1))
    assert free(model, ROW, leave_out=["1"]) == [(("3",), 8)]
    coupling = trace_coupling(model, ROW, leave_out=["1"])
    assert {group.layers: group.kept for group in coupling.groups.values()}["0",] == "'1' reads it and is left out"


def test_code_that_cannot_be_traced_is_refused_with_the_remedy():
    branch = Forward(lambda m, x: x if x.sum() > 0 else -x)
    model = nn.Sequential(nn.Linear(3, 8), branch, nn.Linear(8, 8), nn.Linear(8, 1))
    with pytest.raises(ConfigError, match=r"cannot be traced.*(?s:.)*name that module in leave_out"):
        trace_coupling(model, ROW)
    assert free(model, ROW, leave_out=["1"]) == [(("2",), 8)]


def test_an_unknown_module_to_leave_out_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"leave_out names 'secnd', .* did you mean 'second'"):
        trace_coupling(residual(), IMAGE, leave_out=["secnd"])


def test_a_network_without_hidden_width_is_refused():
    with pytest.raises(ConfigError, match=r"Sequential has no width to coarsen \(0: it is an output of the network\)"):
        trace_coupling(nn.Sequential(nn.Linear(3, 2)), ROW)


def test_tracing_leaves_the_network_and_the_random_state_as_they_were():
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    model[1].eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = torch.get_rng_state()
    trace_coupling(model, ROW)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_subclass_is_coarsened_by_its_base_class_rule_unless_it_computes_otherwise():
    class Named(nn.Linear):
        """A Linear with something added that does not matter here."""

    class Squared(nn.Linear):
        def forward(self, x):
            return super().forward(x) ** 2

    assert free(nn.Sequential(Named(3, 8), nn.Linear(8, 1)), ROW) == [(("0",), 8)]
    squared = trace_coupling(nn.Sequential(Squared(3, 8), nn.Linear(8, 1)), ROW)
    (group,) = squared.free.values()
    assert group.inhomogeneous == ("pow in '0' (Squared)",)
