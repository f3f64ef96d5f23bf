"""Attention layers and the blocks made of them: the unit that is coarsened is the head; head_dim stays.

Scores and softmax of a head are kept when it is copied, which they are not when head_dim changes. Heads of queries,
keys and values are the same units.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn import functional

from accelerator.multilevel.layout import Extent, Layout, RefusalError, Span, Spans, Widths, spans_on
from accelerator.multilevel.rules.layers import linear
from accelerator.multilevel.rules.norms import layer_norm
from accelerator.multilevel.rules.place import Place, Several


def multihead_attention(widths: Widths, place: Place) -> Several:
    """nn.MultiheadAttention. It computes with embed_dim = heads · head_dim, so its input's width follows the heads."""
    query, key, value = (place.layout(name, at) for at, name in enumerate(("query", "key", "value")))
    mask = place.layout("attn_mask", 5)
    assert query is not None
    assert key is not None
    assert value is not None
    if mask is not None and len(mask.shape) == 3:
        raise RefusalError("attn_mask has a mask for each head; give one for all, [length, length]")
    spans, heads = _attend(widths, place, query, key, value)
    weights = place.shapes[1] if len(place.shapes) > 1 else ()
    per_head: list[Extent] = [None] * len(weights)
    if len(weights) == len(query.shape) + 1:
        per_head[-3] = heads
    return Several((spans, tuple(per_head))[: len(place.shapes)])


def _attend(widths: Widths, place: Place, query: Layout, key: Layout, value: Layout) -> tuple[Spans, Span]:
    module, own = place.module, place.tensors
    assert isinstance(module, nn.MultiheadAttention)
    reads = [query.spans[-1], key.spans[-1], value.spans[-1]]
    if any(extent for x in (query, key, value) for extent in x.spans[:-1]):
        raise RefusalError("it attends over a dimension that is a width")
    size, inner = module.embed_dim, module.head_dim
    if "in_proj_weight" in own:
        rows = widths.cut(widths.produce(own["in_proj_weight"], 0, 3 * size, place.module_path), 3, inner)
        embed = Span(rows.group, 1, rows.inner)
        for extent in reads:
            widths.claim(own["in_proj_weight"], 1, extent, "column", place.path)
    else:
        embed = widths.cut(widths.produce(own["q_proj_weight"], 0, size, place.module_path), 1, inner)
        for name, extent in zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), reads, strict=True):
            widths.claim(own[name], 0, embed, "row", place.path)
            widths.claim(own[name], 1, extent, "column", place.path)
        rows = Span(embed.group, 3, embed.inner)
    if "in_proj_bias" in own:
        widths.claim(own["in_proj_bias"], 0, rows, "row", place.path)
    for name in ("bias_k", "bias_v"):
        if name in own:
            widths.claim(own[name], 2, embed, "row", place.path)
    shape = (*query.shape[:-1], size)
    given = Layout(shape, (*query.spans[:-1], embed))
    spans = linear(widths, place.inner(module.out_proj, (given,), shape))

    heads = Span(embed.group, 1, embed.inner // inner)
    for name, extent in {"embed_dim": embed, "num_heads": heads, "kdim": reads[1], "vdim": reads[2]}.items():
        widths.attribute(place.module_path, name, extent)
    widths.mark_inhomogeneous([embed], place.path)
    for extent in (reads[0], spans[-1]):
        if isinstance(extent, Span):
            widths.require_equal(extent, embed, place.path)
        else:
            for span in (embed, *spans_on(extent)):
                widths.keep(span.group, f"{place.path} has as many features as its query, which is not one width")
    return spans, heads


class _Block:
    """The layers of a block applied one after the other, as its `forward` does."""

    def __init__(self, widths: Widths, place: Place) -> None:
        self._widths = widths
        self._place = place

    def attend(self, module: Any, x: Layout, memory: Layout) -> Layout:
        place = self._place.inner(module, (x, memory, memory), x.shape)
        return Layout(x.shape, _attend(self._widths, place, x, memory, memory)[0])

    def linear(self, module: Any, x: Layout) -> Layout:
        shape = (*x.shape[:-1], module.out_features)
        return Layout(shape, linear(self._widths, self._place.inner(module, (x,), shape)))

    def normalise(self, module: Any, x: Layout) -> Layout:
        if not isinstance(module, nn.LayerNorm | nn.RMSNorm):
            raise RefusalError(f"its normalisation ({type(module).__name__}) has no rule")
        return Layout(x.shape, layer_norm(self._widths, self._place.inner(module, (x,), x.shape)))

    def feed_forward(self, module: Any, x: Layout) -> Layout:
        hidden = self.linear(module.linear1, x)
        if module.activation is not functional.relu and not isinstance(module.activation, nn.ReLU):
            self._widths.mark_inhomogeneous(hidden.spans, self._place.path)
        return self.linear(module.linear2, hidden)

    def add(self, x: Layout, y: Layout) -> Layout:
        joined = (self._widths.join(a, b, self._place.path) for a, b in zip(x.spans, y.spans, strict=True))
        return Layout(x.shape, tuple(joined))

    def layer(self, module: Any, x: Layout, memory: Layout | None = None) -> Layout:
        """TransformerEncoderLayer; with a memory TransformerDecoderLayer."""
        steps = [(module.norm1, lambda h: self.attend(module.self_attn, h, h))]
        if memory is not None:
            steps.append((module.norm2, lambda h: self.attend(module.multihead_attn, h, memory)))
        steps.append((module.norm2 if memory is None else module.norm3, lambda h: self.feed_forward(module, h)))
        for norm, sublayer in steps:
            if module.norm_first:
                x = self.add(x, sublayer(self.normalise(norm, x)))
            else:
                x = self.normalise(norm, self.add(x, sublayer(x)))
        return x

    def stack(self, module: Any, x: Layout, memory: Layout | None = None) -> Layout:
        """TransformerEncoder or TransformerDecoder."""
        for layer in module.layers:
            if not isinstance(layer, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
                raise RefusalError(f"its layer ({type(layer).__name__}) has no rule")
            x = self.layer(layer, x, memory)
        return x if module.norm is None else self.normalise(module.norm, x)


def transformer(widths: Widths, place: Place) -> Spans:
    """nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, stacks of them, and nn.Transformer."""
    module, block = place.module, _Block(widths, place)
    names = (
        ("tgt", "memory") if isinstance(module, nn.TransformerDecoderLayer | nn.TransformerDecoder) else ("src", "tgt")
    )
    x, other = place.layout(names[0], 0), place.layout(names[1], 1)
    assert x is not None
    match module:
        case nn.TransformerEncoderLayer():
            return block.layer(module, x).spans
        case nn.TransformerDecoderLayer():
            return block.layer(module, x, other).spans
        case nn.TransformerEncoder():
            return block.stack(module, x).spans
        case nn.TransformerDecoder():
            return block.stack(module, x, other).spans
        case nn.Transformer():
            assert other is not None
            spans = block.stack(module.decoder, other, block.stack(module.encoder, x)).spans
            widths.attribute(place.module_path, "d_model", spans[-1])
            return spans
    raise RefusalError("there is no rule for coarsening it")


TRANSFORMERS = (
    nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer
)  # fmt: skip
