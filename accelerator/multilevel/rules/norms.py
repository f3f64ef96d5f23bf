"""Normalisations."""

from __future__ import annotations

from torch import nn

from accelerator.multilevel.layout import Extent, Spans, Widths
from accelerator.multilevel.rules.place import Place, channel

_ROLES = {"weight": "unit", "bias": "unit", "running_mean": "unit", "running_var": "variance"}


def batch_norm(widths: Widths, place: Place) -> Spans:
    """Batch and instance norms: each channel (dimension 1) by its own statistics."""
    spans = place.inputs[0].spans
    channels = channel(place, spans)
    _norm_tensors(widths, place, channels)
    widths.attribute(place.module_path, "num_features", channels)
    return spans


def group_norm(widths: Widths, place: Place) -> Spans:
    """Channels (dimension 1) in equal contiguous blocks, each by the statistics of its block."""
    spans, module = place.inputs[0].spans, place.module
    assert isinstance(module, nn.GroupNorm)
    channels = channel(place, spans)
    if module.num_groups != module.num_channels:
        widths.divide(channels, module.num_groups)
        widths.mark_inhomogeneous([channels], place.path)
    else:
        widths.attribute(place.module_path, "num_groups", channels)
    _norm_tensors(widths, place, channels)
    widths.attribute(place.module_path, "num_channels", channels)
    return spans


def layer_norm(widths: Widths, place: Place) -> Spans:
    """Layer norm and RMS norm: over the last dimensions together; scale and shift have their shape."""
    spans, module = place.inputs[0].spans, place.module
    assert isinstance(module, (nn.LayerNorm, nn.RMSNorm))
    normalized = spans[len(spans) - len(module.normalized_shape) :]
    for index, extent in enumerate(normalized):
        _norm_tensors(widths, place, extent, index)
        widths.attribute(place.module_path, "normalized_shape", extent, index)
    widths.mark_inhomogeneous(normalized, place.path)
    return spans


def _norm_tensors(widths: Widths, place: Place, extent: Extent, dim: int = 0) -> None:
    for attribute, name in place.tensors.items():
        if attribute in _ROLES:
            widths.claim(name, dim, extent, _ROLES[attribute], place.path)  # pyright: ignore[reportArgumentType]
