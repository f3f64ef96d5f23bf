import math

import pytest
import torch
from multilevel_networks import assert_copies_keep_the_function, randomise_norms
from torch import nn
from torch.nn import functional

from accelerator.errors import ConfigError
from accelerator.multilevel.coupling import trace_coupling

TOKENS = torch.randn(3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Around(nn.Module):
    """Linear 6 → embed, an attention block with a residual, Linear embed → 2."""

    def __init__(self, attention, embed=16):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.attention, self.head = nn.Linear(6, embed), attention, nn.Linear(embed, 2)
        self.norm = nn.LayerNorm(embed)

    def forward(self, x):
        x = self.embed(x)
        return self.head(x + self.attention(self.norm(x)))


class SelfAttention(nn.Module):
    def __init__(self, embed=16, heads=4, **options):
        super().__init__()
        self.layer = nn.MultiheadAttention(embed, heads, batch_first=True, **options)

    def forward(self, x):
        return self.layer(x, x, x)[0]


class SeparateProjections(nn.Module):
    """Three Linear layers, heads by view and transpose, scores by @, a causal mask, softmax."""

    def __init__(self, embed=16, heads=4, kernel="manual"):
        super().__init__()
        self.heads, self.head_dim, self.kernel = heads, embed // heads, kernel
        self.q, self.k, self.v = (nn.Linear(embed, embed) for _ in range(3))
        self.out = nn.Linear(embed, embed)
        self.register_buffer("mask", torch.tril(torch.ones(8, 8)).bool())

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (p(x).view(b, t, self.heads, self.head_dim).transpose(1, 2) for p in (self.q, self.k, self.v))
        if self.kernel == "sdpa":
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask[:t, :t])
        elif self.kernel == "einsum":
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / self.head_dim**0.5
            y = torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)
        else:
            scores = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))
            scores = scores.masked_fill(self.mask[:t, :t] == 0, float("-inf"))
            y = functional.softmax(scores, dim=-1) @ v
        return self.out(y.transpose(1, 2).contiguous().view(b, t, c))


class FusedChunks(nn.Module):
    """nanoGPT: one Linear for q, k, v, split; the head's width computed from the shape."""

    def __init__(self, embed=16, n_head=4):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(embed, 3 * embed), nn.Linear(embed, embed)
        self.n_head, self.n_embd = n_head, embed

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        q = q.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        v = v.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        y = functional.softmax(att, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))


class FusedUnbind(nn.Module):
    """timm: one Linear, reshape to [B, N, 3, heads, head_dim], permute, unbind."""

    def __init__(self, embed=16, num_heads=4, head_dim=None):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim or embed // num_heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(embed, 3 * num_heads * self.head_dim)
        self.proj = nn.Linear(num_heads * self.head_dim, embed)

    def forward(self, x):
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attn = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(b, n, -1))


class FusedIndexed(nn.Module):
    """Heads by -1, parts by indexing a chunk."""

    def __init__(self, embed=16):
        super().__init__()
        self.qkv, self.proj = nn.Linear(embed, 3 * embed), nn.Linear(embed, embed)

    def forward(self, x):
        parts = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (-1, 4)).transpose(1, 2) for part in (parts[0], parts[1], parts[2]))
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def groups_by_layer(coupling):
    return {layer: (number, group) for number, group in coupling.groups.items() for layer in group.layers}


HAND_WRITTEN = [
    SeparateProjections(), SeparateProjections(kernel="sdpa"), SeparateProjections(kernel="einsum"),
    FusedChunks(), FusedUnbind(), FusedUnbind(head_dim=3), FusedIndexed(),
]  # fmt: skip


@pytest.mark.parametrize("attention", [*HAND_WRITTEN, SelfAttention(), SelfAttention(bias=False, add_bias_kv=True)])
def test_copies_of_heads_keep_the_function_of_attention(attention):
    model = randomise_norms(Around(attention).double())
    coupling = trace_coupling(model, TOKENS)
    heads = [group for group in coupling.free.values() if group.width == 4]
    embed = [group for group in coupling.free.values() if group.width == 16]
    assert len(heads) == len(embed) == 1
    coarse = assert_copies_keep_the_function(model, TOKENS, coupling=coupling)
    assert coarse.embed.out_features == 8
    for name in ("heads", "num_heads", "n_head"):
        if hasattr(coarse.attention, name):
            assert getattr(coarse.attention, name) == 2
    for name in ("head_dim", "n_embd"):
        if hasattr(coarse.attention, name):
            halves = {"head_dim": 1, "n_embd": 2}[name]
            assert getattr(coarse.attention, name) == getattr(attention, name) // halves


def test_the_rows_of_queries_keys_and_values_belong_to_the_same_heads():
    coupling = trace_coupling(Around(FusedUnbind()).double(), TOKENS)
    (slot,) = [slot for slot in coupling.slots["attention.qkv.weight"] if slot.role == "row"]
    assert (slot.span.outer, coupling.groups[slot.span.group].width, slot.span.inner) == (3, 4, 4)
    (column,) = [slot for slot in coupling.slots["attention.proj.weight"] if slot.role == "column"]
    assert (column.span.outer, column.span.inner) == (1, 4)
    assert column.span.group == slot.span.group


def test_the_width_that_a_multihead_attention_reads_follows_its_heads():
    coupling = trace_coupling(Around(SelfAttention()).double(), TOKENS)
    found = groups_by_layer(coupling)
    heads, head_group = found["attention.layer"]
    assert (head_group.width, head_group.follows) == (4, None)
    assert found["embed"][1].follows == (heads, 4)
    assert found["embed"][1].layers == ("embed", "attention.layer.out_proj")


def test_where_heads_and_width_are_apart_neither_follows_the_other():
    coupling = trace_coupling(Around(FusedUnbind(head_dim=3)).double(), TOKENS)
    assert {group.width: group.follows for group in coupling.free.values()} == {16: None, 4: None}


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_copies_keep_the_function_of_a_transformer_encoder(norm_first, batch_first, activation):
    layer = nn.TransformerEncoderLayer(16, 4, 10, batch_first=batch_first, norm_first=norm_first, activation=activation)
    encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=False)
    model = randomise_norms(nn.Sequential(nn.Linear(6, 16), encoder, nn.Linear(16, 2)).double())
    coupling = trace_coupling(model, TOKENS)
    widths = sorted((group.width, group.follows is not None) for group in coupling.free.values())
    assert widths == [(4, False), (4, True), (10, False), (10, False), (16, True)]
    coarse = assert_copies_keep_the_function(model, TOKENS, coupling=coupling)
    assert coarse[1].layers[1].self_attn.num_heads == 2
    assert coarse[1].layers[1].self_attn.embed_dim == 8
    assert coarse[1].layers[0].linear1.weight.shape == (5, 8)
    assert coarse[1].norm.normalized_shape == (8,)
    with torch.no_grad():  # torch's fused path
        torch.testing.assert_close(coarse(TOKENS), coarse(TOKENS.clone().requires_grad_()).detach(), atol=1e-12, rtol=0)
    inhomogeneous = any(group.inhomogeneous for group in coupling.free.values() if group.width == 10)
    assert inhomogeneous is (activation == "gelu")


class Seq2Seq(nn.Module):
    """Source and target of their own widths, a decoder layer (or nn.Transformer) that reads both."""

    def __init__(self, kind, norm_first=False):
        super().__init__()
        torch.manual_seed(0)
        options = {"dim_feedforward": 10, "batch_first": True, "norm_first": norm_first}
        self.source, self.target, self.head = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 2)
        self.kind = kind
        if kind == "transformer":
            self.core = nn.Transformer(16, 4, 1, 1, **options)
        elif kind == "decoder":
            self.core = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, **options), 2)
        elif kind == "layer":
            self.core = nn.TransformerDecoderLayer(16, 4, **options)
        else:
            self.source = nn.Linear(6, 12)
            self.core = nn.MultiheadAttention(16, 4, kdim=12, vdim=12, batch_first=True)

    def forward(self, x, y):
        source, target = self.source(x), self.target(y)
        if self.kind == "transformer":
            return self.head(self.core(source, target))
        if self.kind == "cross":
            found, _ = self.core(query=target, key=source, value=source, need_weights=False)
            return self.head(target + found)
        return self.head(self.core(target, memory=source))


@pytest.mark.parametrize(
    ("kind", "norm_first"),
    [("layer", False), ("layer", True), ("decoder", True), ("transformer", False), ("cross", False)],
)
def test_copies_keep_the_function_of_decoders_and_cross_attention(kind, norm_first):
    model = randomise_norms(Seq2Seq(kind, norm_first).double())
    pair = (TOKENS, TOKENS[:, :4].contiguous())
    coupling = trace_coupling(model, pair)
    assert_copies_keep_the_function(model, *pair, coupling=coupling)
    if kind == "cross":
        found = groups_by_layer(coupling)
        assert (found["source"][1].width, found["source"][1].follows) == (12, None)
        assert found["target"][1].follows == (found["core"][0], 4)


def test_heads_of_layers_in_one_residual_stream_follow_the_fewest():
    model = nn.Sequential(
        nn.Linear(6, 16),
        nn.TransformerEncoderLayer(16, 8, 10, batch_first=True),
        nn.TransformerEncoderLayer(16, 4, 10, batch_first=True),
        nn.Linear(16, 2),
    )
    coupling = trace_coupling(model, TOKENS.float())
    found = groups_by_layer(coupling)
    leader = found["2.self_attn"][0]
    assert found["2.self_attn"][1].follows is None
    assert found["1.self_attn"][1].follows == (leader, 2)
    assert found["0"][1].follows == (leader, 4)
    assert_copies_keep_the_function(randomise_norms(model.double()), TOKENS, coupling=coupling)


def test_a_single_head_keeps_the_width_it_needs_and_says_so():
    model = Around(SelfAttention(heads=1))
    with pytest.raises(
        ConfigError, match=r"no width to coarsen .*'attention.layer' \(MultiheadAttention\) has a single"
    ):
        trace_coupling(model, TOKENS.float())


class SingleHead(nn.Module):
    """Attention without heads: scores sum over all features."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        return self.out(torch.softmax(self.q(x) @ self.k(x).mT, -1) @ self.v(x))


def test_what_scores_sum_over_is_kept_and_the_values_are_coarsened():
    model = Around(SingleHead()).double()
    coupling = trace_coupling(model, TOKENS)
    kept = {group.layers: group.kept for group in coupling.groups.values() if group.kept}
    assert kept["attention.q", "attention.k"] == "matmul in 'attention' (SingleHead) sums products over it"
    assert [group.layers for group in coupling.free.values()] == [("embed", "attention.out"), ("attention.v",)]
    assert_copies_keep_the_function(model, TOKENS, coupling=coupling)


def test_attention_over_the_networks_input_keeps_its_heads():
    class Direct(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True), mlp()

        def forward(self, x):
            return self.head(self.attention(x, x, x)[0])

    def mlp():
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))

    coupling = trace_coupling(Direct(), TOKENS.float())
    assert [group.layers for group in coupling.free.values()] == [("head.0",)]
    kept = {group.layers[0]: group.kept for group in coupling.groups.values()}
    assert "has as many features as its query" in kept["attention"]


def test_a_layer_left_out_within_an_encoder_keeps_its_widths():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 10, batch_first=True), 2)
    model = nn.Sequential(nn.Linear(6, 16), encoder, nn.Linear(16, 2))
    coupling = trace_coupling(model, TOKENS.float(), leave_out=["1.layers.0.linear1"])
    assert [group.layers for group in coupling.free.values()] == [("1.layers.1.linear1",)]
    kept = {group.layers[0]: group.kept for group in coupling.groups.values()}
    assert kept["1.layers.0.linear1"] == "'1.layers.0.linear1' holds '1.layers.0.linear1.weight' and is left out"
    assert "that of units that are kept: '1.layers.0.linear1' holds" in kept["1.layers.1.self_attn"]


class WithMask(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.layer, self.mask = nn.MultiheadAttention(16, 4, batch_first=True), nn.Buffer(mask)

    def forward(self, x):
        return self.layer(x, x, x, attn_mask=self.mask)[0]


class Grouped(nn.Module):
    def forward(self, x):
        heads = x.unflatten(-1, (-1, 4)).transpose(1, 2)
        return functional.scaled_dot_product_attention(heads, heads, heads, enable_gqa=True).transpose(1, 2).flatten(2)


class HardCoded(nn.Module):
    def forward(self, x):
        heads = x.view(x.size(0), x.size(1), 4, 4).transpose(1, 2)
        return functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (
            WithMask(torch.zeros(12, 5, 5).bool()),
            r"'attention.layer' \(MultiheadAttention\): attn_mask has a mask for each",
        ),
        (Grouped(), r"scaled_dot_product_attention in 'attention' \(Grouped\): heads of queries that share keys"),
        (HardCoded(), r"view in 'attention' \(HardCoded\): it hard-codes the size 4 of a width; write -1"),
    ],
)
def test_attention_that_cannot_be_coarsened_is_refused_with_the_reason(attention, message):
    with pytest.raises(ConfigError, match=message):
        trace_coupling(Around(attention), TOKENS.float())


def test_per_head_weights_among_the_outputs_keep_the_heads():
    class Weights(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.layer = nn.Linear(6, 16), nn.MultiheadAttention(16, 4, batch_first=True)
            self.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))

        def forward(self, x):
            x = self.embed(x)
            y, weights = self.layer(x, x, x, average_attn_weights=False)
            return self.head(y), weights

    coupling = trace_coupling(Weights(), TOKENS.float())
    assert [group.layers for group in coupling.free.values()] == [("head.0",)]


@pytest.mark.parametrize("attention", [FusedChunks(12, 3), SeparateProjections(12, 3), SelfAttention(12, 3)])
def test_a_width_that_a_shape_ties_to_an_odd_number_of_heads_follows_them(attention):
    model = Around(attention, embed=12).double()
    model.norm = nn.Identity()  # aggregates of unequal size are not kept by a LayerNorm
    coupling = trace_coupling(model, TOKENS)
    ((heads, _),) = [(number, group) for number, group in coupling.free.items() if group.width == 3]
    assert [group.follows for group in coupling.free.values() if group.width == 12] == [(heads, 4)]
    coarse = assert_copies_keep_the_function(model, TOKENS, coupling=coupling)
    assert coarse.embed.out_features == 2 * 4
