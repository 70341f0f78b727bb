"""Operators with tensors that GPU tests run, and what they must give: the definition in float64."""

from __future__ import annotations

from typing import Any

import torch

from edgetx.ops import group_attention, window_attention
from edgetx.ops.group_attention import GroupAttentionAttributes
from edgetx.ops.window_attention import WindowAttentionAttributes

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ALLOWED = {torch.float32: 4e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Largest difference from float64, outputs of order 1; for cosine attention see `allowed`."""
HEAD_SCALE = 10.0
"""The largest that is drawn."""


def windows(
    dtype: torch.dtype,
    head_size: int = 32,
    *,
    heads: int = 3,
    side: int = 7,
    keys: int | None = None,
    shift: int = 3,
    size: tuple[int, int, int] = (2, 14, 21),
    norm: Any = "none",
    pad: Any = "none",
    value_size: int | None = None,
) -> tuple[WindowAttentionAttributes, list[torch.Tensor]]:
    """Attributes, and qkv, bias, head_scale and pad_value."""
    generator = torch.Generator().manual_seed(head_size * side)
    kv = keys or side
    attributes = WindowAttentionAttributes(
        num_heads=heads,
        head_size=head_size,
        window=(side, side),
        kv_window=(kv, kv),
        shift=(shift, shift),
        mask="region" if shift else "none",
        qk_norm=norm,
        scale=1.0 if norm == "l2" else None,
        pad=pad,
    )
    channels = heads * (2 * head_size + (value_size or head_size))
    shapes = ((*size, channels), (heads, side * side, kv * kv), (heads,), (channels,))
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    tensors[2] = 0.5 + (HEAD_SCALE - 0.5) * torch.rand((heads,), generator=generator)
    if norm == "none":
        tensors[2] = 0.5 + torch.rand((heads,), generator=generator)
    return attributes, [tensor.to(dtype) for tensor in tensors]


def groups(
    dtype: torch.dtype,
    head_size: int = 16,
    *,
    heads: int = 8,
    tokens: int = 1000,
    slots: int = 144,
    activation: Any = "softmax",
    value_size: int | None = None,
) -> tuple[GroupAttentionAttributes, list[torch.Tensor]]:
    """Attributes, and q, k, v, groups and inverse: every token is in one group, the last group has gaps."""
    generator = torch.Generator().manual_seed(head_size)
    sizes = (head_size, head_size, value_size or head_size)
    tensors = [torch.randn((tokens, heads * size), generator=generator).to(dtype) for size in sizes]
    order = torch.randperm(tokens, generator=generator)
    padded = torch.cat([order, torch.full((-tokens % slots,), -1)])
    inverse = torch.empty(tokens, dtype=torch.int32)
    inverse[order] = torch.arange(tokens, dtype=torch.int32)
    # Sums of squares over a group, so that outputs are of order 1.
    scale = slots**-0.5 * head_size**-0.5 if activation == "relu2" else None
    attributes = GroupAttentionAttributes(num_heads=heads, activation=activation, scale=scale)
    return attributes, [*tensors, padded.view(-1, slots).int(), inverse]


def expected(attributes: Any, tensors: list[torch.Tensor]) -> torch.Tensor:
    """The definition on the CPU, in float64, of the very numbers that `tensors` hold."""
    wide = [tensor.cpu().double() if tensor.is_floating_point() else tensor.cpu() for tensor in tensors]
    if isinstance(attributes, WindowAttentionAttributes):
        return window_attention.apply(attributes, *wide)
    channels = tensors[0].shape[1]
    return group_attention.apply(attributes.with_scale(channels), *wide)


def check(attributes: Any, tensors: list[torch.Tensor], given: torch.Tensor) -> None:
    """Hold a result against float64."""
    reference = expected(attributes, tensors)
    assert given.shape == reference.shape and given.dtype == tensors[0].dtype
    # NaN, where nothing was written, is no small difference.
    error = float((given.cpu().double() - reference).abs().nan_to_num(nan=float("inf")).max())
    assert error <= allowed(attributes, reference, given.dtype), f"{error:.2e}"


def allowed(attributes: Any, reference: torch.Tensor, dtype: torch.dtype) -> float:
    """The largest difference."""
    most = ALLOWED[dtype] * max(1.0, float(reference.abs().max()) if dtype != torch.float32 else 1.0)
    cosine = getattr(attributes, "qk_norm", "none") == "l2"
    return most * max(1.0, HEAD_SCALE / 10) if cosine else most


def as_tf32(tensor: torch.Tensor) -> torch.Tensor:
    """Float32 rounded to the ten bits of mantissa that TF32 products keep."""
    bits = tensor.view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)
