"""The PyTorch operator `edgetx::depthwise_conv`; its eager implementation is the operator's definition.

Semantics read in spandrel 0.4.2: DAT's and RGT's `get_v` and `SpatialGate`,
CRAFT's `SRWAB.get_v` and `FeedForward`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from edgetx.errors import InputError
from edgetx.ops.depthwise_conv.attributes import (
    INPUTS,
    Activation,
    Combine,
    DepthwiseConvAttributes,
    why_not,
)

SCHEMA = (
    "depthwise_conv(Tensor x, Tensor weight, Tensor bias, Tensor? other, int offset, str activation, "
    "str combine, int other_offset) -> Tensor"
)


def apply(
    attributes: DepthwiseConvAttributes, x: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None = None
) -> Tensor:
    """Call the operator.

    Args:
        attributes: the operator's attributes.
        x: `[B, H, W, channels]`, float32, float16, bfloat16 or float64.
        weight: `[kh, kw, C]`, odd kh and kw; `bias`: `[C]`.
        other: `[B, H, W, channels]`, joined to the result.

    Returns:
        `[B, H, W, C]` of x's dtype.

    Raises:
        InputError: see `attributes.why_not`.
    """
    a = attributes
    return cast(
        Tensor,
        torch.ops.edgetx.depthwise_conv.default(
            x, weight, bias, other, a.offset, a.activation, a.combine, a.other_offset
        ),
    )


def _eager(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    other: Tensor | None,
    offset: int,
    activation: Activation,
    combine: Combine,
    other_offset: int,
) -> Tensor:
    _check(DepthwiseConvAttributes(offset, activation, combine, other_offset), x, weight, bias, other)
    # Half precision is computed in float32 and rounded once, at the end.
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    height, width, channels = weight.shape
    maps = x[..., offset : offset + channels].to(dtype).permute(0, 3, 1, 2)
    kernel = weight.to(dtype).permute(2, 0, 1)[:, None]
    out = functional.conv2d(
        maps, kernel, bias.to(dtype), padding=(height // 2, width // 2), groups=channels
    ).permute(0, 2, 3, 1)
    if activation == "gelu":
        out = functional.gelu(out)
    if other is not None:
        joined = other[..., other_offset : other_offset + channels].to(dtype)
        out = out + joined if combine == "add" else out * joined
    return out.to(x.dtype).contiguous()


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    other: Tensor | None,
    offset: int,
    activation: Activation,
    combine: Combine,
    other_offset: int,
) -> Tensor:
    _check(DepthwiseConvAttributes(offset, activation, combine, other_offset), x, weight, bias, other)
    return x.new_empty((*x.shape[:3], weight.shape[2]))


def _check(attributes: DepthwiseConvAttributes, *tensors: Tensor | None) -> None:
    """Symbolic sizes are not ints, so tracing adds no guard."""
    shapes = {
        name: None if tensor is None else tensor.shape for name, tensor in zip(INPUTS, tensors, strict=True)
    }
    if reason := why_not(attributes, shapes):
        raise InputError(reason)
    dtypes = {tensor.dtype for tensor in tensors if tensor is not None}
    if len(dtypes) > 1 or not next(iter(dtypes)).is_floating_point:
        raise InputError(
            f"DepthwiseConv: the tensors are {', '.join(sorted(map(str, dtypes)))}; expected one float dtype"
        )


# A Library costs less per call than torch.library.custom_op, which wraps the call in Python.
_LIBRARY = torch.library.Library("edgetx", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
_LIBRARY.impl("depthwise_conv", _eager, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("edgetx::depthwise_conv", _fake, lib=_LIBRARY)

depthwise_conv = torch.ops.edgetx.depthwise_conv.default
