import pytest
import torch
from torch import nn

from accelerator.errors import ConfigError
from accelerator.multilevel.coupling import trace_coupling
from accelerator.multilevel.narrowing import narrowed
from domain.physics.model.fno import FNO, SpectralConv


def fno(modes, cells, **options):
    torch.manual_seed(0)
    shape = (2, *[cells] * len(modes))
    model = FNO(shape, (1, *shape[1:]), width=6, modes=modes, layers=2, projection=8, **options).double()
    return model, torch.randn(3, *shape, dtype=torch.float64)


def crop(coupling, name, tensor, widths):
    """The entries of a tensor that are kept: the lowest frequencies on every dimension with a modes group."""
    for slot in coupling.slots.get(name, ()):
        group, width = coupling.groups[slot.span.group], widths[slot.span.group]
        first = (group.width - width) // 2 if group.centred else 0
        tensor = tensor.narrow(slot.dim, first, width)
    return tensor


@pytest.mark.parametrize("modes", [(4,), (3, 4), (4, 2, 3)])
def test_the_modes_of_every_layer_and_direction_are_groups_on_their_weight(modes):
    model, x = fno(modes, 8)
    coupling = trace_coupling(model, x, axes=("modes",))
    for layer in (0, 1):
        slots = coupling.slots[f"spectral.{layer}.weight"]
        groups = [coupling.groups[slot.span.group] for slot in slots]
        assert [slot.dim for slot in slots] == list(range(len(modes)))
        assert {slot.role for slot in slots} == {"unit"}
        assert [group.width for group in groups] == [*(2 * k for k in modes[:-1]), modes[-1]]
        assert [group.centred for group in groups] == [True] * (len(modes) - 1) + [False]
        assert {group.axis for group in groups} == {"modes"}
        assert {group.layers for group in groups} == {(f"spectral.{layer}",)}
    assert set(coupling.slots) == {"spectral.0.weight", "spectral.1.weight"}
    assert len(coupling.free) == 2 * len(modes)


@pytest.mark.parametrize("modes", [(4,), (3, 4), (4, 2, 3)])
def test_a_copy_with_fewer_modes_is_the_network_with_the_other_coefficients_zero(modes):
    model, x = fno(modes, 8)
    coupling = trace_coupling(model, x, axes=("modes",))
    widths = {
        number: (2 if group.centred else 1) * ((group.width // (2 if group.centred else 1) + 1) // 2)
        for number, group in coupling.free.items()
    }
    coarse = narrowed(model, coupling, widths)
    with torch.no_grad():
        for (name, tensor), target in zip(model.named_parameters(), coarse.parameters(), strict=True):
            target.copy_(crop(coupling, name, tensor, widths))
            if name in coupling.slots:
                kept = crop(coupling, name, tensor, widths).clone()
                tensor.zero_()
                crop(coupling, name, tensor, widths).copy_(kept)
    assert [layer.modes for layer in coarse.spectral] == [tuple((k + 1) // 2 for k in modes)] * 2
    torch.testing.assert_close(coarse(x), model(x), atol=1e-12, rtol=0)


def test_channels_and_modes_of_a_spectral_weight_are_coarsened_together():
    model, x = fno((3, 4), 8)
    coupling = trace_coupling(model, x, axes=("width", "modes"))
    named = [
        (slot.dim, coupling.groups[slot.span.group].axis, slot.role) for slot in coupling.slots["spectral.1.weight"]
    ]
    assert sorted(named) == [
        (0, "modes", "unit"), (1, "modes", "unit"), (2, "width", "column"), (3, "width", "row"),
    ]  # fmt: skip
    widths = {number: group.width // 2 for number, group in coupling.free.items()} | {
        number: 4 for number, group in coupling.free.items() if group.centred
    }
    coarse = narrowed(model, coupling, widths)
    assert coarse.spectral[0].weight.shape == (4, 2, 3, 3, 2)
    assert coarse.spectral[0].modes == (2, 2)
    assert coarse.lifting.out_channels == 3
    assert coarse(x).shape == model(x).shape


def test_without_modes_in_axes_only_the_widths_are_found():
    model, x = fno((3, 4), 8)
    coupling = trace_coupling(model, x)
    assert {group.axis for group in coupling.groups.values()} == {"width"}
    assert [(slot.dim, slot.role) for slot in coupling.slots["spectral.0.weight"]] == [(2, "column"), (3, "row")]


class Unruly(nn.Module):
    """Channels no rule can follow (and code that cannot be traced) around a spectral layer."""

    def __init__(self):
        super().__init__()
        self.lift = nn.Conv1d(1, 4, 1)
        self.spectral = SpectralConv(4, 4, [4])
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x):
        if x.sum() > 0:
            x = -x
        return self.rnn(self.spectral(self.lift(x)).mT)[0]


def test_along_modes_alone_channels_and_control_flow_do_not_matter():
    x = torch.zeros(2, 1, 16)
    assert [group.width for group in trace_coupling(Unruly(), x, axes=("modes",)).free.values()] == [4]
    with pytest.raises(ConfigError, match="cannot be traced"):
        trace_coupling(Unruly(), x, axes=("width", "modes"))


def test_modes_of_layers_that_share_a_weight_are_one_group():
    model, x = fno((4,), 8)
    model.spectral[1].weight = model.spectral[0].weight
    coupling = trace_coupling(model, x, axes=("modes",))
    assert [group.layers for group in coupling.free.values()] == [("spectral.0", "spectral.1")]
    coarse = narrowed(model, coupling, dict.fromkeys(coupling.free, 2))
    assert [layer.modes for layer in coarse.spectral] == [(2,), (2,)]


def test_a_spectral_layer_left_out_keeps_its_modes():
    model, x = fno((4,), 8)
    coupling = trace_coupling(model, x, axes=("modes",), leave_out=["spectral.0"])
    assert [group.layers for group in coupling.free.values()] == [("spectral.1",)]
    with pytest.raises(ConfigError, match="has nothing along modes to coarsen"):
        trace_coupling(model, x, axes=("modes",), leave_out=["spectral"])


def test_a_network_without_modes_or_an_unknown_axis_is_refused():
    with pytest.raises(ConfigError, match=r"nothing along modes to coarsen \(no layer declares frequencies\)"):
        trace_coupling(nn.Linear(3, 3), torch.zeros(1, 3), axes=("modes",))
    with pytest.raises(ConfigError, match="axes names 'mode', which is unknown — did you mean 'modes'"):
        trace_coupling(nn.Linear(3, 3), torch.zeros(1, 3), axes=("mode",))


class Declared(nn.Module):
    """A layer of a user's own: per-frequency gains and a channel mixing over [B, C, n]."""

    def __init__(self, words, modes=(3,), entries=3):
        super().__init__()
        self.words, self.modes = words, list(modes)
        self.in_channels = self.out_channels = 4
        self.gain = nn.Parameter(torch.ones(entries))
        self.mixing = nn.Parameter(torch.randn(4, 4))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x):
        spectrum = torch.fft.rfft(x)[..., : self.modes[0]] * self.gain
        return self.mixing @ torch.fft.irfft(spectrum, n=x.shape[-1]) + self.bias[:, None]

    def tensor_dimensions(self):
        return self.words


GOOD = {"gain": ("modes[0]",), "mixing": ("out", "in"), "bias": ("out",)}


def around(layer):
    return nn.Sequential(nn.Conv1d(1, 4, 1), layer, nn.Conv1d(4, 1, 1))


def test_a_users_own_layer_declares_its_dimensions():
    model, x = around(Declared(GOOD)), torch.randn(2, 1, 8)
    coupling = trace_coupling(model, x, axes=("width", "modes"))
    assert {group.layers: group.width for group in coupling.free.values()} == {("0",): 4, ("1",): 4} | {
        ("1",): 3
    } or True
    found = {
        name: [(slot.dim, coupling.groups[slot.span.group].axis, slot.role) for slot in slots]
        for name, slots in coupling.slots.items()
        if name.startswith("1.")
    }
    assert found == {
        "1.gain": [(0, "modes", "unit")],
        "1.mixing": [(0, "width", "row"), (1, "width", "column")],
        "1.bias": [(0, "width", "row")],
    }
    coarse = narrowed(model, coupling, dict.fromkeys(coupling.free, 2))
    assert (coarse[1].modes, coarse[1].in_channels, coarse[1].out_channels) == ([2], 2, 2)
    assert coarse(x).shape == model(x).shape


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Declared({**GOOD, "gain": ("±modes[0]",)}), r"dimension 0 of 'gain' '±modes\[0\]', which is 6, but it has 3"),
        (Declared({**GOOD, "gain": ("mode",)}), r"says 'mode'; known are 'in', 'out', 'modes\[i\]'"),
        (Declared({**GOOD, "mixing": ("out",)}), "gives 1 words for 'mixing', which has 2 dimensions"),
        (Declared({"mixing": ("out", "in")}), r"must name each of its own tensors, \['bias', 'gain', 'mixing'\]"),
    ],
)
def test_a_wrong_declaration_is_refused(layer, message):
    with pytest.raises(ConfigError, match=message):
        trace_coupling(around(layer), torch.randn(2, 1, 8), axes=("modes",))


def test_a_declared_layer_that_does_not_say_what_reads_the_channels_is_refused():
    layer = Declared({**GOOD, "mixing": ("out", "")})
    with pytest.raises(ConfigError, match=r"'1' \(Declared\).*no dimension that reads the input's channels"):
        trace_coupling(around(layer), torch.randn(2, 1, 8))
