"""The options of a hierarchy: which axes shrink, by how much, and what cannot be."""

import pytest
import torch
from multilevel_networks import mlp, scatter_weights, seeded
from torch import nn

from accelerator.errors import ConfigError
from accelerator.multilevel import create_fno_hierarchy, create_network_hierarchy
from accelerator.multilevel.transfer import state_of
from domain.physics.model.fno import FNO

ROWS = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double()


class Blocks(nn.Module):
    """Residual blocks between two Linear layers; takes [B, 3]."""

    def __init__(self, count=8, width=16, hidden=24):
        super().__init__()
        self.embed, self.head = nn.Linear(3, width), nn.Linear(width, 2)
        self.blocks = nn.ModuleList(Block(width, hidden) for _ in range(count))

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Block(nn.Module):
    """x + down(gelu(up(x)))."""

    def __init__(self, width, hidden):
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(x)))


def fno(modes=(6, 4), cells=16, layers=2):
    torch.manual_seed(0)
    grid = [cells] * len(modes)
    model = FNO((1, *grid), (1, *grid), width=4, modes=modes, layers=layers, projection=4).double()
    return model, torch.randn(2, 1, *grid, generator=torch.Generator().manual_seed(2)).double()


def modes_of(network):
    return [level.spectral[0].modes for level in network.levels]


def test_a_factor_for_each_level():
    network = create_network_hierarchy(mlp((3, 60, 31, 2)), ROWS, levels=3, factor=[3, 1.5], min_width=1)
    assert [network.widths(level) for level in range(3)] == [[60, 31], [20, 11], [14, 8]]


def test_a_factor_for_each_axis_and_one_for_each_level_of_it():
    torch.manual_seed(0)
    network = create_network_hierarchy(
        Blocks().double(), ROWS, axes=("width", "depth"), factor={"width": 4, "depth": [2, 4]}, levels=3, min_width=1
    )
    assert [len(level.blocks) for level in network.levels] == [8, 4, 1]
    assert [level.embed.out_features for level in network.levels] == [16, 4, 1]
    assert [level.blocks[0].up.out_features for level in network.levels] == [24, 6, 2]


def test_sizes_by_layer_and_the_factor_for_the_others():
    model = mlp((3, 60, 31, 20, 2))
    network = create_network_hierarchy(model, ROWS, levels=3, sizes={"2": [30, 17]})
    assert [network.widths(level) for level in range(3)] == [[60, 31, 20], [30, 30, 10], [15, 17, 10]]


def test_sizes_of_modes_are_those_of_the_layer_and_may_be_given_by_layer_too():
    model, x = fno()
    network = create_network_hierarchy(model, x, axes=("modes",), levels=3, sizes={"modes": [4, 3]})
    assert modes_of(network) == [(6, 4), (4, 4), (3, 3)]
    model, x = fno()
    network = create_network_hierarchy(model, x, axes=("modes",), levels=2, sizes={"spectral.1": [1]})
    assert [layer.modes for layer in network.levels[1].spectral] == [(3, 2), (1, 1)]


def test_sizes_of_depth_and_resolution():
    torch.manual_seed(0)
    network = create_network_hierarchy(Blocks().double(), ROWS, axes=("depth",), levels=3, sizes={"depth": [3, 2]})
    assert [len(level.blocks) for level in network.levels] == [8, 3, 2]
    model, x = fno((2, 2))
    network = create_network_hierarchy(
        model, x, axes=("resolution",), levels=3, sizes={"resolution": [12, (8, 4)]}, sampling="spectral"
    )
    assert network.sampling.grids == ((16, 16), (12, 12), (8, 4))
    inputs, targets = network.level_batch(2, x, x)
    assert inputs.shape == targets.shape == (2, 1, 8, 4)
    assert network.level_batch(0, x, x) == (x, x)
    assert network.hops[0].transfers == {}
    for coarse in network.levels[1:]:
        torch.testing.assert_close(state_of(coarse), state_of(model), rtol=0, atol=0)


def test_all_axes_together():
    model, x = fno((4, 4), layers=2)
    network = create_network_hierarchy(model, x, axes=("width", "modes", "resolution"), levels=2, min_width=1)
    coarse = network.levels[1]
    assert (coarse.spectral[0].modes, coarse.lifting.out_channels) == ((2, 2), 2)
    assert coarse.spectral[0].weight.shape == (4, 2, 2, 2, 2)
    assert list(network.hops[0].transfers) == ["modes", "width"]
    assert network.costs[1] < 0.1  # a quarter of the cells, less than half of the channels


@pytest.mark.parametrize("modes", [(5,), (4, 3), (3, 2, 3)])
def test_new_modes_leave_the_outputs_unchanged_and_the_correction_keeps_those_of_the_fine_level(modes):
    model, x = fno(modes, cells=8 if len(modes) == 3 else 16)
    network = create_fno_hierarchy(model, x, levels=2, axes=("modes",))
    assert modes_of(network) == [modes, tuple(-(-kept // 2) for kept in modes)]
    fine, coarse = network.levels
    before = {name: tensor.clone() for name, tensor in state_of(fine).items()}
    scatter_weights(coarse, 1)
    network.prolongate(0)
    torch.testing.assert_close(fine(x), coarse(x), rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        for name, parameter in fine.named_parameters():
            parameter.copy_(before[name])
    network.prolongate(0, keep={"modes": 1.0})
    back = network.hops[0].restrict(state_of(fine))
    torch.testing.assert_close(back, state_of(coarse), rtol=1e-12, atol=1e-12)
    weight, held = fine.spectral[1].weight, before["spectral.1.weight"]
    centre = [slice(k - c, k + c) for k, c in zip(modes[:-1], coarse.spectral[1].modes, strict=False)]
    new = torch.ones_like(held, dtype=torch.bool)
    new[(*centre, slice(0, coarse.spectral[1].modes[-1]))] = False
    assert new.any()
    assert torch.equal(weight[new], held[new])
    assert not torch.equal(weight[~new], held[~new])


def test_a_grid_that_cannot_carry_its_modes_is_refused_with_level_layer_modes_and_cells():
    model, x = fno((6, 4))
    refusal = (
        r"level 1: 'spectral\.0' keeps 6×4 modes on a grid of 8×8 cells, which carries half as many as it has cells "
        r"\(Nyquist\): coarsen the modes with the grid \(axes: modes and resolution, or sizes\.modes\)"
    )
    with pytest.raises(ConfigError, match=refusal):
        create_fno_hierarchy(model, x, axes=("resolution",), levels=2)
    with pytest.raises(ConfigError, match=r"level 2: 'spectral\.0' keeps 3×3 modes on a grid of 4×4 cells"):
        create_fno_hierarchy(model, x, levels=3, sizes={"modes": [4, 3]})
    assert modes_of(create_fno_hierarchy(model, x, levels=3)) == [(6, 4), (3, 2), (2, 1)]  # 3 = 8/2 would not fit in 4


def test_a_users_matching_gets_rows_with_biases_and_a_size_and_is_taken_at_its_word():
    asked = []

    def halves(features, coarse, generator):
        asked.append((features.shape, coarse, generator))
        return torch.arange(len(features)) % coarse

    generator = seeded(3)
    model = mlp((3, 16, 10, 2))
    network = create_network_hierarchy(model, ROWS, levels=2, matching=halves, min_width=1, generator=generator)
    assert asked == [((16, 4), 8, generator), ((10, 17), 5, generator)]
    rows = model[0].weight.detach()
    torch.testing.assert_close(network.levels[1][0].weight.detach(), (rows[:8] + rows[8:]) / 2)


def test_a_users_matching_that_is_none_is_refused():
    def too_few(features, coarse, generator):
        return torch.zeros(len(features), dtype=torch.int64)

    with pytest.raises(ConfigError, match="too_few gave coarse unit 1 no unit"):
        create_network_hierarchy(mlp((3, 16, 2)), ROWS, levels=2, matching=too_few)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 0.5}, r"factor=0\.5: must be above 1 \(2 halves\)"),
        ({"factor": [1, 1]}, r"factor=\[1, 1\]: must be above 1"),
        ({"factor": [2]}, r"factor=\[2\]: give one for each of the 2 coarser levels, or one for all"),
        ({"factor": {"modes": 2}}, r"factor\.modes: not one of the axes \['width'\]"),
        ({"axes": ("widths",)}, "axes: 'widths' is unknown — did you mean 'width'"),
        ({"axes": ()}, r"axes=\[\] coarsens nothing: choose from width, modes, resolution, depth"),
        ({"sizes": {"0": [16]}}, r"sizes\.0=\[16\]: give one size for each of the 2 coarser levels"),
        ({"sizes": {"0": [33, 8]}}, r"sizes\.0=\[33, 8\]: level 1 must have between 1 and 32"),
        ({"sizes": {"0": [16, 0]}}, r"sizes\.0=\[16, 0\]: level 2 must have between 1 and 16"),
        ({"sizes": {"7": [16, 8]}}, r"sizes\.7: no layer with units and no axis has that name"),
        ({"sizes": {"2": [2, 2]}}, r"sizes\.2: this layer keeps its size on every level: it is an output of the netw"),
        ({"sizes": {"width": [16, 8]}}, r"sizes\.width: give the sizes of layers, by their paths"),
        ({"sizes": {"depth": [2, 1]}}, r"sizes\.depth: not one of the axes \['width'\]; add it to axes"),
        ({"noise": -0.1}, r"noise=-0\.1: must be 0 \(none\) or a small positive share"),
        ({"keep": {"modes": 2.0}}, r"keep\.modes=2\.0: must be between 0"),
        ({"keep": {"mode": 1.0}}, r"keep\.mode: no such axis — did you mean 'modes'"),
        ({"min_width": 40}, r"no width of level 0 \(32\) .* ask for a larger factor or a lower min_width"),
        ({"axes": ("modes",)}, r"Sequential has nothing along modes to coarsen \(no layer declares frequencies\)"),
        ({"axes": ("depth",)}, r"depth: no stack of equal residual blocks"),
        ({"leave_out": ["1.2"]}, r"leave_out names '1\.2', which is no module of the network"),
    ],
)
def test_what_cannot_be_is_refused_with_value_and_remedy(options, message):
    with pytest.raises(ConfigError, match=message):
        create_network_hierarchy(mlp((3, 32, 2)), ROWS, **({"levels": 3} | options))


def test_the_depth_cannot_shrink_below_one_block():
    torch.manual_seed(0)
    with pytest.raises(ConfigError, match="depth: level 1 has single blocks only; ask for levels=2"):
        create_network_hierarchy(Blocks(2).double(), ROWS, axes=("depth",), levels=3)
    with pytest.raises(ConfigError, match=r"level 0 has 2 blocks in 'blocks'; level 1 would have as many"):
        create_network_hierarchy(Blocks(2).double(), ROWS, axes=("depth",), levels=2, sizes={"depth": [2]})


def test_the_resolution_takes_one_whole_factor_and_says_what_to_do_for_others():
    model, x = fno((2, 2))
    with pytest.raises(ConfigError, match=r"one whole number for all levels; for others give the grids: sizes\.resolu"):
        create_fno_hierarchy(model, x, levels=3, axes=("resolution",), factor=[2, 4])
    with pytest.raises(ConfigError, match="one whole number"):
        create_fno_hierarchy(model, x, levels=2, axes=("resolution",), factor=1.5)


def test_a_network_of_one_layer_has_nothing_to_coarsen():
    with pytest.raises(ConfigError, match=r"Linear has no width to coarsen \(.*: it is an output of the network\)"):
        create_network_hierarchy(nn.Linear(3, 16).double(), ROWS, levels=2)


def test_sizes_given_to_a_layer_that_follows_another_are_refused_with_its_name():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(3, 16), nn.Linear(16, 2)
            self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

        def forward(self, x):
            x = self.embed(x)
            b, t, c = x.shape
            q, k, v = (p(x).view(b, t, -1, 4).transpose(1, 2) for p in (self.q, self.k, self.v))
            y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
            return self.head(x + self.out(y.contiguous().view(b, t, c)))

    model, x = Attention().double(), ROWS[:, None].expand(-1, 5, -1).contiguous()
    coarse = create_network_hierarchy(model, x, levels=2, sizes={"q": [2]}).levels[1]
    assert (coarse.q.out_features, coarse.embed.out_features) == (8, 8)
    with pytest.raises(ConfigError, match=r"sizes\.embed: this layer follows the size of q, k, v; give it there"):
        create_network_hierarchy(model, x, levels=2, sizes={"embed": [8]})
