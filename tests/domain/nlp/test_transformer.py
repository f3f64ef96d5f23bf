"""The decoder-only transformer."""

import math

import pytest
import torch
from torch import nn

from accelerator.errors import ConfigError
from domain.nlp.model.transformer import CausalSelfAttention, Transformer

T, V = 7, 11


def tokens(batch=3, length=T):
    return torch.randint(V, (batch, length), generator=torch.Generator().manual_seed(0))


def transformer(**knobs):
    torch.manual_seed(0)
    return Transformer((T,), (V, T), **{"width": 12, "heads": 3, "blocks": 2} | knobs).eval().double()


def test_attention_agrees_with_its_equation():
    torch.manual_seed(0)
    attention = CausalSelfAttention(6, heads=2).double()
    x = torch.randn(1, 4, 6, dtype=torch.float64)
    q, k, v = (layer(x)[0] for layer in (attention.query, attention.key, attention.value))
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        rows = []
        for t in range(4):
            scores = torch.stack([q[t, head] @ k[s, head] / math.sqrt(3) for s in range(t + 1)])
            rows.append(scores.softmax(0) @ v[: t + 1, head])
        heads.append(torch.stack(rows))
    torch.testing.assert_close(attention(x)[0], attention.output(torch.cat(heads, dim=1)))


def test_a_prediction_sees_the_tokens_up_to_its_own_and_no_later_one():
    model, x = transformer(), tokens()
    changed = x.clone()
    changed[:, 4] = (x[:, 4] + 1) % V
    before, after = model(x), model(changed)
    assert torch.equal(before[..., :4], after[..., :4])
    assert ((before - after)[..., 4:].abs().amax((0, 1)) > 1e-9).all()


def test_the_order_of_earlier_tokens_matters():
    """One block without positions would see them as a set."""
    model, x = transformer(blocks=1), torch.arange(T)[None]
    exchanged = x[:, [1, 0, *range(2, T)]]
    assert ((model(exchanged) - model(x))[..., -1].abs() > 1e-6).all()


def test_a_shorter_sequence_has_the_predictions_of_the_longer_ones_beginning():
    model, x = transformer(), tokens()
    torch.testing.assert_close(model(x[:, :3]), model(x)[..., :3])


def test_a_copy_with_fewer_heads_channels_and_units_runs_the_same_forward():
    """A head whose output nobody reads and a head that is not there are the same."""
    torch.manual_seed(0)
    attention = CausalSelfAttention(6, heads=3).double()
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        attention.output.weight[:, 4:] = 0
    full = attention(x)
    for layer in (attention.query, attention.key, attention.value):
        layer.weight, layer.bias = nn.Parameter(layer.weight[:4]), nn.Parameter(layer.bias[:4])
    attention.output.weight = nn.Parameter(attention.output.weight[:, :4])
    torch.testing.assert_close(attention(x), full)


def test_an_untrained_network_all_but_guesses():
    """Scores of variance C · 1/(4C) on normed channels: E log Σ exp ≈ log V + 1/8."""
    torch.manual_seed(0)
    model = Transformer((64,), (100, 64))
    x = torch.randint(100, (8, 64))
    assert nn.functional.cross_entropy(model(x), x.roll(-1, 1)).item() == pytest.approx(math.log(100) + 1 / 8, abs=0.05)


def test_the_weights_that_close_a_branch_start_smaller_the_deeper_the_network():
    torch.manual_seed(0)
    model = Transformer((T,), (V, T), width=64, blocks=8)
    for block in model.blocks:
        assert block.attention.query.weight.std().item() == pytest.approx(1 / 16, rel=0.05)
        for layer in (block.attention.output, block.mlp[-1]):
            assert layer.weight.std().item() == pytest.approx(1 / 16 / 4, rel=0.05)


def test_blocks_are_equal_and_a_branch_of_zeros_makes_one_the_identity():
    model = transformer(blocks=3)
    shapes = [[(name, p.shape) for name, p in block.named_parameters()] for block in model.blocks]
    assert shapes[0] == shapes[1] == shapes[2]
    with torch.no_grad():
        for name, parameter in model.blocks[1].named_parameters():
            if name.startswith(("attention.output", "mlp.2")):
                parameter.zero_()
    full = model(tokens())
    del model.blocks[1]
    assert torch.equal(model(tokens()), full)


def test_it_learns_what_only_attention_can_tell():
    """The next token is the one two places back."""
    torch.manual_seed(0)
    model = Transformer((T,), (V, T), width=32, heads=4, blocks=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(200):
        pair = torch.randint(V, (64, 2))
        text = pair.repeat(1, T)[:, : T + 1]
        loss = nn.functional.cross_entropy(model(text[:, :-1])[..., 1:], text[:, 2:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"width": 10}, r"model\.width=10 must be a positive multiple of model\.heads=3"),
        ({"heads": 0}, r"model\.heads=0 must be at least 1"),
        ({"blocks": 0}, r"model\.blocks=0 must be at least 1"),
        ({"mlp_ratio": 0}, r"model\.mlp_ratio=0 must be at least 1"),
        ({"dropout": 1.0}, r"model\.dropout=1.0 must lie in \[0, 1\)"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        transformer(**knobs)


@pytest.mark.parametrize("output_shape", [(V,), (V, T + 1), (T,)])
def test_targets_that_are_no_class_for_each_token_are_refused(output_shape):
    with pytest.raises(ConfigError, match=r"a class for each of them, \(T,\) → \(classes, T\) a sample"):
        Transformer((T,), output_shape)
