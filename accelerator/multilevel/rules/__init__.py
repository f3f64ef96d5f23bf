"""How each layer and operation carries widths from its inputs to its output.

A rule is called with the widths found so far and the place in the traced network. It records what lies on the layer's
own tensors and returns what lies on the output's dimensions, or raises `RefusalError` with the reason. To teach the
tracing a new layer, add its class to `MODULES`, or let the layer declare its tensors itself (`declared.py`); a new
function or tensor method, its name to `OPERATIONS`.
"""

from __future__ import annotations

from torch import nn

from accelerator.multilevel.rules.attention import TRANSFORMERS, multihead_attention, transformer
from accelerator.multilevel.rules.declared import declared_channels, declared_modes, declares
from accelerator.multilevel.rules.elementwise import addition, choice, elementwise, homogeneous, product
from accelerator.multilevel.rules.indexing import PASS_PARAMETERS, expand, index, passed_parameter
from accelerator.multilevel.rules.joining import cat, glu, parts, repeat, stack
from accelerator.multilevel.rules.layers import TRANSPOSED, convolution, embedding, linear, prelu
from accelerator.multilevel.rules.norms import batch_norm, group_norm, layer_norm
from accelerator.multilevel.rules.place import Layouts, Place, Rule, Several, operation_name
from accelerator.multilevel.rules.products import attention_kernel, einsum, linear_map, matmul
from accelerator.multilevel.rules.shapes import along, nonlinear_reduction, permute, reduction, reshape, spatial

__all__ = [
    "MODULES",
    "ON_PARAMETERS",
    "OPERATIONS",
    "PASS_PARAMETERS",
    "TAKES_SIZES",
    "Layouts",
    "Place",
    "Rule",
    "Several",
    "declared_modes",
    "declares",
    "operation_name",
    "passed_parameter",
    "rule_of",
]

_HOMOGENEOUS = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_ELEMENTWISE = (
    nn.GELU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.Mish, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Softsign, nn.ReLU6,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink,
    nn.AlphaDropout,
)  # fmt: skip
_SPATIAL = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Upsample,
)  # fmt: skip
_BATCH_NORM = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip

_HOMOGENEOUS_NAMES = (
    "relu", "leaky_relu", "abs", "neg", "clone", "contiguous", "detach", "to", "float", "double", "type_as",
    "dropout", "dropout1d", "dropout2d", "dropout3d",
)  # fmt: skip
_ELEMENTWISE_NAMES = (
    "gelu", "tanh", "sigmoid", "silu", "mish", "elu", "selu", "celu", "softplus", "softsign", "relu6", "hardtanh",
    "hardswish", "hardsigmoid", "logsigmoid", "tanhshrink", "softshrink", "hardshrink", "alpha_dropout",
    "sin", "cos", "exp", "square", "sqrt", "pow", "clamp",
)  # fmt: skip
_POOLS = [f"{kind}_pool{n}d" for kind in ("avg", "max", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)]

MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED), convolution),
    **dict.fromkeys((nn.Embedding, nn.EmbeddingBag), embedding),
    **dict.fromkeys(_BATCH_NORM, batch_norm),
    nn.GroupNorm: group_norm,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: layer_norm,
    nn.PReLU: prelu,
    **dict.fromkeys((nn.Flatten, nn.Unflatten), reshape),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax, nn.Softmin), along),
    nn.GLU: glu,
    nn.MultiheadAttention: multihead_attention,
    **dict.fromkeys(TRANSFORMERS, transformer),
    **dict.fromkeys(_HOMOGENEOUS, homogeneous),
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **dict.fromkeys(_SPATIAL, spatial),
}

OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(("add", "sub", "iadd", "isub", "rsub"), addition),
    **dict.fromkeys(("mul", "truediv", "imul", "itruediv", "div"), product),
    **dict.fromkeys(("masked_fill", "where", "maximum", "minimum", "gt", "ge", "lt", "le", "eq", "ne"), choice),
    **dict.fromkeys(_HOMOGENEOUS_NAMES, homogeneous),
    **dict.fromkeys(_ELEMENTWISE_NAMES, elementwise),
    **dict.fromkeys((*_POOLS, "interpolate"), spatial),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), reduction),
    **dict.fromkeys(("view", "reshape", "unflatten", "flatten", "squeeze", "unsqueeze"), reshape),
    **dict.fromkeys(("permute", "transpose", "mT"), permute),
    **dict.fromkeys(("var", "std", "logsumexp", "prod"), nonlinear_reduction),
    **dict.fromkeys(("softmax", "log_softmax", "cumsum", "flip", "roll"), along),
    **dict.fromkeys(("cat", "concat"), cat),
    **dict.fromkeys(("chunk", "split", "unbind"), parts),
    **dict.fromkeys(("expand", "expand_as"), expand),
    **dict.fromkeys(("matmul", "bmm"), matmul),
    "scaled_dot_product_attention": attention_kernel,
    "einsum": einsum,
    "getitem": index,
    "glu": glu,
    "linear": linear_map,
    "repeat": repeat,
    "stack": stack,
}

ON_PARAMETERS = (addition, product, choice, cat, matmul, linear_map, einsum)
"""Rules that may take a learned parameter of the user's own as an operand."""

TAKES_SIZES = frozenset(("view", "reshape", "unflatten", "split", "expand", "getitem"))
"""Operations whose arguments may be sizes of widths; elsewhere a size is a plain number that must not change."""


def rule_of(module: nn.Module) -> Rule | None:
    """The rule of a layer: by its declaration, of its class, or of the class it inherits `forward` from."""
    if hasattr(module, "parametrizations"):
        return None
    if declares(module):
        return declared_channels
    for base in type(module).__mro__:
        if base in MODULES and type(module).forward is base.forward:
            return MODULES[base]
    return None
