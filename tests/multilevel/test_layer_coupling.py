import pytest
import torch
from multilevel_networks import assert_copies_keep_the_function, randomise_norms
from torch import nn

from accelerator.errors import ConfigError
from accelerator.multilevel.coupling import trace_coupling

IMAGE = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(0, 11, (3, 5), generator=torch.Generator().manual_seed(1))


def convolutions(middle, channels=8, out=None):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, channels, 1), nn.Tanh(), middle, nn.Tanh(), nn.Conv2d(out or channels, 2, 1)]
    return nn.Sequential(*layers).double()


def slots_of(coupling, name):
    return [
        (slot.dim, coupling.groups[slot.span.group].layers[0], slot.span.outer, slot.span.inner, slot.role)
        for slot in coupling.slots.get(name, ())
    ]


@pytest.mark.parametrize(
    ("middle", "out", "weight", "groups"),
    [
        # depthwise, and with two outputs a channel: the outputs are the units that it reads
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), 8, [(0, "0", 1, 1, "invariant")], 4),
        (nn.Conv2d(8, 16, 3, padding=1, groups=8), 16, [(0, "0", 1, 2, "invariant")], 4),
        # 4 groups of 2 channels: whole groups are the units
        (nn.Conv2d(8, 12, 3, padding=1, groups=4), 12, [(0, "0", 1, 3, "invariant")], 2),
        # 2 groups of 4 channels: the groups stay and are narrowed within
        (nn.Conv2d(8, 12, 3, padding=1, groups=2), 12, [(1, "0", 1, 1, "column"), (0, "2", 1, 1, "row")], 2),
        (nn.ConvTranspose2d(8, 6, 2, stride=2), 6, [(0, "0", 1, 1, "column"), (1, "2", 1, 1, "row")], 1),
        (nn.ConvTranspose2d(8, 16, 2, groups=8), 16, [(0, "0", 1, 1, "invariant")], 4),
        (nn.ConvTranspose2d(8, 12, 2, groups=2), 12, [(0, "0", 2, 1, "column"), (1, "2", 1, 1, "row")], 2),
    ],
)
def test_copies_keep_the_function_of_grouped_and_transposed_convolutions(middle, out, weight, groups):
    model = convolutions(middle, out=out)
    coupling = trace_coupling(model, IMAGE)
    assert slots_of(coupling, "2.weight") == weight
    coarse = assert_copies_keep_the_function(model, IMAGE, coupling=coupling)
    assert coarse[2].groups == groups
    assert (coarse[2].in_channels, coarse[2].out_channels) == (4, out // 2)
    assert coarse[4].in_channels == out // 2


def test_a_narrowed_depthwise_convolution_has_the_gradients_of_its_units():
    model = convolutions(nn.Conv2d(8, 8, 3, padding=1, groups=8))
    coupling = trace_coupling(model, IMAGE)
    assert slots_of(coupling, "2.bias") == [(0, "0", 1, 1, "unit")]
    assert [group.layers for group in coupling.free.values()] == [("0",)]


def test_a_grouped_convolution_of_the_networks_input_is_narrowed_within_its_groups():
    model = nn.Sequential(nn.Conv2d(3, 12, 3, groups=3), nn.ReLU(), nn.Conv2d(12, 2, 1)).double()
    coupling = trace_coupling(model, IMAGE)
    assert [(group.width, group.blocks) for group in coupling.free.values()] == [(12, 3)]
    assert_copies_keep_the_function(model, IMAGE, coupling=coupling)


class UNet(nn.Module):
    """Down and up with skip concatenations, norms over what was concatenated."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1, stride=2)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.norm = norm(6 + 8)
        self.join = nn.Conv2d(6 + 8, 10, 3, padding=1)
        self.leave = nn.Conv2d(10 + 3, 1, 1)

    def forward(self, x):
        skip = torch.tanh(self.enter(x))
        up = self.up(torch.tanh(self.down(skip)))
        joined = torch.tanh(self.join(self.norm(torch.cat([up, skip], dim=1))))
        return self.leave(torch.cat((x, joined), 1))


def test_copies_keep_the_function_of_a_network_with_concatenated_skips():
    model = randomise_norms(UNet().double())
    coupling = trace_coupling(model, IMAGE)
    joined = [slot for slot in coupling.slots["join.weight"] if slot.dim == 1]
    assert [coupling.groups[slot.span.group].layers for slot in joined] == [("up",), ("enter",)]
    assert [slot.skip for slot in joined] == [0, 0]
    assert [(slot.dim, slot.skip) for slot in coupling.slots["leave.weight"]] == [(1, 3)]  # the image is not coarsened
    assert len(coupling.slots["norm.running_var"]) == 2
    coarse = assert_copies_keep_the_function(model, IMAGE, coupling=coupling)
    assert (coarse.join.in_channels, coarse.norm.num_features, coarse.leave.in_channels) == (7, 7, 8)


def test_a_concatenation_can_be_flattened_and_cut_again():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 6, 3)
            self.c, self.d = nn.Linear(10 * 36, 3), nn.Linear(6 * 36, 3)

        def forward(self, x):
            a, b = self.a(x), self.b(x)
            both = torch.cat([a, b], 1)
            _, second = both.split([a.size(1), b.size(1)], dim=1)
            return self.c(both.flatten(1)) + self.d(second.flatten(1))

    model = Cut().double()
    coupling = trace_coupling(model, IMAGE)
    assert slots_of(coupling, "c.weight") == [(1, "a", 1, 36, "column"), (1, "b", 1, 36, "column")]
    assert slots_of(coupling, "d.weight") == [(1, "b", 1, 36, "column")]
    assert_copies_keep_the_function(model, IMAGE, coupling=coupling)


def test_a_residual_sum_around_a_concatenation_is_refused_with_the_reason():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(8, 8, 1),
                nn.Conv2d(8, 1, 1),
            )

        def forward(self, x):
            both = torch.cat([self.a(x), self.b(x)], 1)
            return self.d(both + self.c(both))

    with pytest.raises(ConfigError, match=r"'a', 'b'|'a'.*it joins a concatenation of widths to a width"):
        trace_coupling(Dense().double(), IMAGE)


def test_group_norm_over_a_concatenation_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"'norm' \(GroupNorm\).*normalise before concatenating"):
        trace_coupling(UNet(norm=lambda n: nn.GroupNorm(2, n)).double(), IMAGE)


class Language(nn.Module):
    """Token and position embeddings, RMSNorm, a gated feed-forward block, logits."""

    def __init__(self, *, tied=False, bag=False):
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.EmbeddingBag(11, 8, mode="mean") if bag else nn.Embedding(11, 8, padding_idx=0)
        self.position = nn.Parameter(torch.randn(1, 7, 8))
        self.start = nn.Parameter(torch.randn(1, 1, 8))
        self.register_buffer("wave", torch.randn(7, 8))
        self.norm, self.bag = nn.RMSNorm(8), bag
        self.gate, self.down, self.head = nn.Linear(8, 24), nn.Linear(12, 8), nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids):
        x = self.tokens(ids)
        if not self.bag:
            b, t = ids.shape
            x = x + self.position[:, :t] + self.wave[:t]
            x = torch.cat([self.start.expand(b, -1, -1), x], dim=1)
        h = nn.functional.glu(self.gate(self.norm(x)), dim=-1)
        return self.head(x + self.down(h))


@pytest.mark.parametrize("bag", [False, True])
def test_copies_keep_the_function_of_embeddings_positions_and_gates(bag):
    model = Language(bag=bag).double()
    coupling = trace_coupling(model, TOKENS)
    assert slots_of(coupling, "tokens.weight") == [(1, "tokens", 1, 1, "row")]
    assert slots_of(coupling, "gate.weight")[1] == (0, "gate", 2, 1, "row")
    if not bag:
        assert slots_of(coupling, "position") == slots_of(coupling, "start") == [(2, "tokens", 1, 1, "unit")]
        assert slots_of(coupling, "wave") == [(1, "tokens", 1, 1, "unit")]
    coarse = assert_copies_keep_the_function(model, TOKENS, coupling=coupling)
    assert coarse.tokens.embedding_dim == 4
    assert coarse.norm.normalized_shape == (4,)


def test_an_embedding_tied_to_the_output_head_is_refused_by_name_with_the_remedy():
    message = r"cannot coarsen 'head' \(Linear\): its tensor 'tokens.weight' is used in another role in 'tokens'.*tied"
    with pytest.raises(ConfigError, match=message + r".*give it a tensor of its own"):
        trace_coupling(Language(tied=True).double(), TOKENS)


def test_a_tied_head_left_out_keeps_the_width_of_the_embedding():
    coupling = trace_coupling(Language(tied=True).double(), TOKENS, leave_out=["head"])
    assert [group.layers for group in coupling.free.values()] == [("gate",)]
    assert "tokens.weight" not in coupling.slots


def test_a_module_left_out_keeps_tensors_that_it_shares_with_others():
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 1))
    model[4].weight = model[2].weight
    with pytest.raises(ConfigError, match="'4' holds '2.weight' and is left out"):
        trace_coupling(model, torch.zeros(2, 3), leave_out=["4"])


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), r"'1' \(ParametrizedLinear\): its weight is computed"),
        (nn.utils.spectral_norm(nn.Linear(8, 8)), r"'1' \(Linear\): its weight is computed.*leave_out=\['1'\]"),
        (nn.Bilinear(8, 8, 8), r"'1' \(Bilinear\): there is no rule"),
    ],
)
def test_layers_whose_weight_is_computed_are_refused_by_name(middle, message):
    class Twice(nn.Sequential):
        def forward(self, x):
            x = self[0](x)
            return self[2](self[1](x, x) if isinstance(self[1], nn.Bilinear) else self[1](x))

    with pytest.raises(ConfigError, match=message):
        trace_coupling(Twice(nn.Linear(3, 8), middle, nn.Linear(8, 2)), torch.zeros(2, 3))


class ByHand(nn.Module):
    """Linear maps by parameters of the user's own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.bias = nn.Parameter(torch.randn(3, 8)), nn.Parameter(torch.randn(8))
        self.middle, self.shift = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(6))
        self.leave = nn.Parameter(torch.randn(6, 2))

    def forward(self, x):
        x = torch.tanh(x @ self.enter + self.bias)
        return torch.tanh(nn.functional.linear(x, self.middle, self.shift)) @ self.leave


def test_copies_keep_the_function_of_linear_maps_by_parameters():
    x = torch.randn(4, 3, dtype=torch.float64)
    coupling = trace_coupling(ByHand().double(), x)
    assert slots_of(coupling, "middle") == [(1, "enter", 1, 1, "column"), (0, "middle", 1, 1, "row")]
    assert_copies_keep_the_function(ByHand(), x, coupling=coupling)


def test_widths_of_different_layout_meet_in_units_both_can_be_cut_into():
    class Meet(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 16), nn.Conv1d(3, 4, 1), nn.Linear(16, 2)

        def forward(self, x):
            return self.c(self.a(x) + self.b(x[:, :, None].expand(-1, -1, 4)).flatten(1))

    x = torch.randn(4, 3, dtype=torch.float64)
    model = Meet().double()
    coupling = trace_coupling(model, x)
    assert [(group.layers, group.width) for group in coupling.free.values()] == [(("a", "b"), 4)]
    assert slots_of(coupling, "a.weight") == [(0, "a", 1, 4, "row")]
    assert_copies_keep_the_function(model, x, coupling=coupling)


class Patches(nn.Module):
    """Attributes of the module's own in view; one is also used as a number."""

    def __init__(self, scale):
        super().__init__()
        self.width, self.scale = 8, scale
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.a(x).view(-1, self.width)
        return self.b(x * self.width**-0.5 if self.scale else x)


def test_attributes_that_state_a_width_follow_it_unless_they_are_used_as_a_number():
    x = torch.randn(4, 3, dtype=torch.float64)
    model = Patches(scale=False)
    coarse = assert_copies_keep_the_function(model, x, coupling=trace_coupling(model.double(), x))
    assert (coarse.width, type(coarse.width), model.width, type(model.width)) == (4, int, 8, int)
    with pytest.raises(ConfigError, match="the 8 units of 'a': 'width' states it and is used as a number"):
        trace_coupling(Patches(scale=True).double(), x)
