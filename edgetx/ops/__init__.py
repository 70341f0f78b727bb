"""The operators of the ONNX domain `edgetx`; importing this needs no framework.

One folder per operator holds everything about it: attributes and checker, PyTorch definition, ONNX
translation and bodies, kernels, and a README with the mathematics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgetx.ops.operator import DOMAIN, VARIANTS, VERSION, Operator, Variant

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "DOMAIN",
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
)


def translation_table() -> dict[Any, Callable[..., Any]]:
    """The `custom_translation_table` with which `torch.onnx.export` keeps the operators as nodes."""
    return {operator.torch_overload(): operator.translation() for operator in OPERATORS}


def attach_bodies(model: ir.Model, variant: Variant) -> None:
    """Give every operator node of `model` its function body; see `Operator.attach_bodies`."""
    for operator in OPERATORS:
        operator.attach_bodies(model, variant)


def strip_bodies(model: ir.Model) -> None:
    """Remove every operator's function bodies from `model`; see `Operator.strip_bodies`."""
    for operator in OPERATORS:
        operator.strip_bodies(model)
