"""The operators of the ONNX domain `edgetx`; importing this needs no framework.

One folder per operator (or pair of them) holds everything about it: attributes and checker, ONNX bodies,
kernels, a README with the mathematics and, unless only `edgetx.fusion` makes its nodes, PyTorch definition
and ONNX translation.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgetx.ops.operator import DOMAIN, VARIANTS, VERSION, Operator, Variant

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "DOMAIN",
    "EXPANSIONS",
    "OPERATORS",
    "VARIANTS",
    "VERSION",
    "Operator",
    "Variant",
    "attach_bodies",
    "strip_bodies",
    "translation_table",
]

OPERATORS: tuple[Operator, ...] = (
    Operator(
        name="WindowAttention",
        torch_name="edgetx::window_attention",
        package="edgetx.ops.window_attention",
        summary="attention inside (shifted, padded, overlapping) windows of a map",
    ),
    Operator(
        name="GroupAttention",
        torch_name="edgetx::group_attention",
        package="edgetx.ops.group_attention",
        summary="attention inside listed groups of tokens, with empty slots and overlap",
    ),
    Operator(
        name="DepthwiseConv",
        torch_name="edgetx::depthwise_conv",
        package="edgetx.ops.depthwise_conv",
        summary="depthwise convolution on channels-last maps, with activation and gate or residual",
    ),
    Operator(
        name="BiasGelu",
        package="edgetx.ops.bias_gelu",
        summary="the exact GELU of a sum with a bias",
    ),
    Operator(
        name="AddNorm",
        package="edgetx.ops.add_norm",
        summary="residual addition, then layer normalization; both results",
    ),
    Operator(
        name="NormAdd",
        package="edgetx.ops.add_norm",
        summary="layer normalization, then residual addition",
    ),
)


EXPANSIONS = ("edgetx.ops.rotated_nms.translation", "edgetx.ops.stable_sort")
"""What standard operators do well but PyTorch's exporter does not know: no node of ours, no body, no kernel.

Modules with an `OVERLOAD`, a PyTorch operator, and `translate`, which writes it as standard ONNX operators.
"""


def translation_table() -> dict[Any, Callable[..., Any]]:
    """The `custom_translation_table` with which `torch.onnx.export` keeps the operators as nodes.

    Holds `EXPANSIONS` too.
    """
    table = {
        operator.torch_overload(): operator.translation() for operator in OPERATORS if operator.torch_name
    }
    for expansion in map(import_module, EXPANSIONS):
        table[expansion.OVERLOAD] = expansion.translate
    return table


def attach_bodies(model: ir.Model, variant: Variant) -> None:
    """Give every operator node of `model` its function body; see `Operator.attach_bodies`."""
    for operator in OPERATORS:
        operator.attach_bodies(model, variant)


def strip_bodies(model: ir.Model) -> None:
    """Remove every operator's function bodies from `model`; see `Operator.strip_bodies`."""
    for operator in OPERATORS:
        operator.strip_bodies(model)
