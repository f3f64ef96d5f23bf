"""Products of tensors that sum over a dimension: matmul, einsum, attention's kernel, and linear maps by parameters."""

from __future__ import annotations

from collections.abc import Sequence

from accelerator.multilevel.layout import Extent, Layout, RefusalError, Spans, Widths, spans_on
from accelerator.multilevel.rules.place import Place

Labels = tuple[str, ...]


def contraction(widths: Widths, place: Place, operands: Sequence[tuple[Layout, Labels]], out: Labels) -> Spans:
    """A sum of products of entries, as einsum names it: dimensions of the same label are joined.

    A width that is summed over is kept: copied units would count twice.
    """
    found: dict[str, Extent] = {}
    for x, labels in operands:
        for size, extent, label in zip(x.shape, x.spans, labels, strict=True):
            if size == 1:
                continue
            if x.through and extent is None and found.get(label) is not None:
                raise RefusalError("it joins a width to the result of an operation without a rule")
            found[label] = widths.join(found[label], extent, place.path) if label in found else extent
    for label, extent in found.items():
        if label not in out:
            for span in spans_on(extent):
                widths.keep(span.group, f"{place.path} sums products over it")
    shared = [label for label in out if sum(label in labels for _, labels in operands) > 1]
    widths.mark_inhomogeneous([found.get(label) for label in shared], place.path)
    return tuple(found.get(label) for label in out)


def matmul(widths: Widths, place: Place) -> Spans:
    """A @ b over the last dimension of a and the last but one of b; a learned matrix has rows and columns."""
    a, b = place.inputs
    if min(len(a.shape), len(b.shape)) < 2:
        raise RefusalError("a matrix product with a vector has no rule")
    if a.parameter is not None or b.parameter is not None:
        return _by_parameter(widths, place, a, b)
    batch = tuple(f"batch{dim}" for dim in range(len(place.shape) - 2))

    def labels(x: Layout, rows: str, columns: str) -> Labels:
        return (*batch[len(batch) - (len(x.shape) - 2) :], rows, columns)

    return contraction(
        widths, place, [(a, labels(a, "row", "sum")), (b, labels(b, "sum", "column"))], (*batch, "row", "column")
    )


def _by_parameter(widths: Widths, place: Place, a: Layout, b: Layout) -> Spans:
    matrix, x = (b, a) if b.parameter is not None else (a, b)
    if x.parameter is not None or len(matrix.shape) != 2 or None in matrix.own:
        raise RefusalError("a product with a parameter has a rule only for a whole matrix")
    reads, produces = (0, 1) if matrix is b else (1, 0)
    before, last = (x.spans[:-1], x.spans[-1]) if matrix is b else (x.spans[:-2], x.spans[-2])
    out = _linear_map(widths, place, matrix, matrix.own[reads], matrix.own[produces], last)
    return (*before, out) if matrix is b else (*before, out, x.spans[-1])


def linear_map(widths: Widths, place: Place) -> Spans:
    """F.linear(x, weight, bias) by parameters."""
    x, weight, bias = place.layout("input", 0), place.layout("weight", 1), place.layout("bias", 2)
    assert x is not None
    if weight is None or weight.parameter is None or len(weight.shape) != 2 or None in weight.own:
        raise RefusalError("its weight is no whole parameter")
    out = _linear_map(widths, place, weight, weight.own[1], weight.own[0], x.spans[-1])
    if bias is not None:
        if bias.parameter is None or bias.own != (0,):
            raise RefusalError("its bias is no whole parameter")
        widths.claim(bias.parameter, 0, out, "row", place.path)
        widths.mark_inhomogeneous(x.spans[:-1], place.path)
    return (*x.spans[:-1], out)


def _linear_map(
    widths: Widths, place: Place, matrix: Layout, reads: int | None, produces: int | None, extent: Extent
) -> Extent:
    assert matrix.parameter is not None
    assert reads is not None
    assert produces is not None
    widths.claim(matrix.parameter, reads, extent, "column", place.path)
    size = matrix.shape[matrix.own.index(produces)]
    return widths.produce(matrix.parameter, produces, size, matrix.parameter)


def einsum(widths: Widths, place: Place) -> Spans:
    """Of activations, with every dimension named."""
    equation = place.argument("equation", 0)
    if not isinstance(equation, str) or "->" not in equation or "." in equation:
        raise RefusalError("einsum has a rule only with every dimension named, inputs -> output; or write it with @")
    if any(x.parameter is not None for x in place.inputs):
        raise RefusalError("einsum with a parameter has no rule; use a linear layer or @")
    terms, out = equation.replace(" ", "").split("->")
    operands = [(x, tuple(term)) for x, term in zip(place.inputs, terms.split(","), strict=True)]
    return contraction(widths, place, operands, tuple(out))


def attention_kernel(widths: Widths, place: Place) -> Spans:
    """softmax(q kᵀ/√d + mask) v over [batch…, heads, length, head_dim]: heads pass, what scores sum over is kept."""
    query, key, value = (place.layout(name, at) for at, name in enumerate(("query", "key", "value")))
    mask = place.layout("attn_mask", 3)
    assert query is not None
    assert key is not None
    assert value is not None
    if place.argument("enable_gqa", 7, default=False):
        raise RefusalError("heads of queries that share keys (enable_gqa) have no rule")
    batch = tuple(f"batch{dim}" for dim in range(len(query.shape) - 2))
    operands: list[tuple[Layout, Labels]] = [
        (query, (*batch, "length", "score")),
        (key, (*batch, "keys", "score")),
        (value, (*batch, "keys", "value")),
    ]
    if mask is not None:
        operands.append((mask, (*batch, "length", "keys")[-len(mask.shape) :]))
    return contraction(widths, place, operands, (*batch, "length", "value"))
