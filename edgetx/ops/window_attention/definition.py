"""The PyTorch operator `edgetx::window_attention`; its eager implementation is the operator's definition.

On an NVIDIA GPU the Triton kernel runs instead, where `edgetx.ops.gpu` does not say why not.

Semantics read in: timm 1.0 `swin_transformer.py`, `swin_transformer_v2.py` (roll, then pad; the shift stays),
torchvision 0.28 `models/swin_transformer.py` (pad, then roll; a single window drops the shift of its axis),
transformers 4.57 `modeling_swin.py` (of both axes), HAT's overlapping cross-attention block.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from edgetx.errors import InputError
from edgetx.ops import gpu
from edgetx.ops.window_attention.attributes import (
    Mask,
    Pad,
    Pair,
    QkNorm,
    ShiftWhenSingle,
    WindowAttentionAttributes,
    why_not,
)

SCHEMA = (
    "window_attention(Tensor qkv, Tensor? bias, Tensor? head_scale, Tensor? pad_value, int num_heads, "
    "int head_size, int[] window, int[] kv_window, int[] shift, str mask, float mask_value, str qk_norm, "
    "str shift_when_single, float scale, str pad, int[] pad_to) -> Tensor"
)
EPSILON = 1e-12
"""The smallest norm that `qk_norm="l2"` divides by, `torch.nn.functional.normalize`'s default."""


def apply(
    attributes: WindowAttentionAttributes,
    qkv: Tensor,
    bias: Tensor | None = None,
    head_scale: Tensor | None = None,
    pad_value: Tensor | None = None,
) -> Tensor:
    """Call the operator.

    Args:
        attributes: the operator's attributes.
        qkv: `[B, H, W, h·(2d + dv)]`, float32, float16, bfloat16 or float64; q, k, v, each heads-major.
        bias: `[h, Nq, Nk]`, added to the logits.
        head_scale: `[h]`, multiplies q·k.
        pad_value: `[h·(2d + dv)]`, the row of a pad token; absent, zeros.

    Returns:
        `[B, H, W, h·dv]` of qkv's dtype.

    Raises:
        InputError: see `attributes.why_not`.
    """
    return cast(
        Tensor,
        torch.ops.edgetx.window_attention.default(
            qkv,
            bias,
            head_scale,
            pad_value,
            attributes.num_heads,
            attributes.head_size,
            attributes.window,
            attributes.kv_window,
            attributes.shift,
            attributes.mask,
            attributes.mask_value,
            attributes.qk_norm,
            attributes.shift_when_single,
            attributes.scale,
            attributes.pad,
            attributes.pad_to,
        ),
    )


def _eager(
    qkv: Tensor,
    bias: Tensor | None,
    head_scale: Tensor | None,
    pad_value: Tensor | None,
    num_heads: int,
    head_size: int,
    window: Sequence[int],
    kv_window: Sequence[int],
    shift: Sequence[int],
    mask: str,
    mask_value: float,
    qk_norm: str,
    shift_when_single: str,
    scale: float,
    pad: str,
    pad_to: Sequence[int],
) -> Tensor:
    attributes = _attributes(
        num_heads, head_size, *map(tuple, (window, kv_window, shift)), mask, mask_value, qk_norm,
        shift_when_single, scale, pad, tuple(pad_to),
    )  # fmt: skip
    _check(attributes, qkv, bias, head_scale, pad_value)
    if gpu.takes(qkv):
        from edgetx.ops.window_attention import triton_kernel

        return triton_kernel.window_attention(attributes, qkv, bias, head_scale, pad_value)
    return _define(attributes, qkv, bias, head_scale, pad_value)


def _define(
    attributes: WindowAttentionAttributes,
    qkv: Tensor,
    bias: Tensor | None,
    head_scale: Tensor | None,
    pad_value: Tensor | None,
) -> Tensor:
    # Half precision is computed in float32 and rounded once, at the end.
    dtype = torch.float64 if qkv.dtype == torch.float64 else torch.float32
    x = qkv.to(dtype)
    height, width = qkv.shape[1:3]
    heads, head_size = attributes.num_heads, attributes.head_size
    padded = attributes.padded(height, width)
    shift = attributes.shift_at(padded)
    roll_first = attributes.pad == "after_roll"

    if not roll_first:
        x = _pad(x, padded, pad_value)
    x = torch.roll(x, (-shift[0], -shift[1]), (1, 2)) if any(shift) else x
    if roll_first:
        x = _pad(x, padded, pad_value)

    value_size = attributes.value_size(qkv.shape[3])
    q, k, v = torch.split(x, [heads * head_size, heads * head_size, heads * value_size], dim=3)
    q = _windows(q, attributes.window, attributes.window, heads)
    k = _windows(k, attributes.window, attributes.kv_window, heads)
    v = _windows(v, attributes.window, attributes.kv_window, heads)
    if attributes.qk_norm == "l2":
        q = torch.nn.functional.normalize(q, dim=-1, eps=EPSILON)
        k = torch.nn.functional.normalize(k, dim=-1, eps=EPSILON)
    q = q * attributes.scale
    if head_scale is not None:
        q = q * head_scale.to(dtype)[:, None, None]
    logits = q @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias.to(dtype)
    if attributes.mask == "region" and any(shift):
        logits = logits + _region_mask(attributes, padded, shift, logits)
    out = logits.softmax(dim=-1) @ v

    (wh, ww), (rows, columns) = attributes.window, out.shape[1:3]
    out = torch.unflatten(out, 4, (wh, ww)).permute(0, 1, 4, 2, 5, 3, 6)
    out = out.reshape(-1, rows * wh, columns * ww, heads * value_size)
    if roll_first:
        out = out[:, :height, :width]
    out = torch.roll(out, shift, (1, 2)) if any(shift) else out
    return out[:, :height, :width].to(qkv.dtype).contiguous()


def _pad(x: Tensor, padded: Pair, pad_value: Tensor | None) -> Tensor:
    """`x` in the top left corner of a map of pad tokens."""
    batch, height, width, channels = x.shape
    if padded == (height, width):
        return x
    canvas = x.new_zeros((batch, *padded, channels))
    if pad_value is not None:
        canvas += pad_value.to(x.dtype)
    canvas[:, :height, :width] = x
    return canvas


def _windows(x: Tensor, stride: Pair, size: Pair, heads: int) -> Tensor:
    """`[B, H, W, h·c]` to `[B, rows, columns, h, tokens, c]`; zeros where a window leaves the map."""
    down, right = (size[0] - stride[0]) // 2, (size[1] - stride[1]) // 2
    x = torch.nn.functional.pad(x, (0, 0, right, right, down, down))
    x = x.unfold(1, size[0], stride[0]).unfold(2, size[1], stride[1]).flatten(4)
    return torch.unflatten(x, 3, (heads, -1)).transpose(-1, -2)


def _region_mask(attributes: WindowAttentionAttributes, padded: Pair, shift: Pair, like: Tensor) -> Tensor:
    """`[rows, columns, 1, Nq, Nk]`: `mask_value` where query and key lie in different regions."""
    same: list[Tensor] = []
    for axis in range(2):
        size, stride, kv = padded[axis], attributes.window[axis], attributes.kv_window[axis]
        starts = torch.arange(0, size, stride, device=like.device)[:, None]
        query = starts + torch.arange(stride, device=like.device)
        key = starts - (kv - stride) // 2 + torch.arange(kv, device=like.device)
        query, key = (_region(position, size, stride, shift[axis]) for position in (query, key))
        same.append(query[:, :, None] == key[:, None])
    # rows: [r, wh, kh] and columns: [c, ww, kw] -> [r, c, wh·ww, kh·kw]
    both = same[0][:, None, :, None, :, None] & same[1][None, :, None, :, None, :]
    both = both.flatten(4, 5).flatten(2, 3)
    return torch.where(both, 0.0, attributes.mask_value).to(like.dtype)[:, :, None]


def _region(position: Tensor, size: int, window: int, shift: int) -> Tensor:
    """0, 1, 2: split at `size - window` and at `size - shift`; an axis that is not shifted is one region."""
    if not shift:
        return torch.zeros_like(position)
    return (position >= size - window).long() + (position >= size - shift).long()


def _fake(
    qkv: Tensor,
    bias: Tensor | None,
    head_scale: Tensor | None,
    pad_value: Tensor | None,
    num_heads: int,
    head_size: int,
    window: Sequence[int],
    kv_window: Sequence[int],
    shift: Sequence[int],
    mask: str,
    mask_value: float,
    qk_norm: str,
    shift_when_single: str,
    scale: float,
    pad: str,
    pad_to: Sequence[int],
) -> Tensor:
    attributes = _attributes(
        num_heads, head_size, *map(tuple, (window, kv_window, shift)), mask, mask_value, qk_norm,
        shift_when_single, scale, pad, tuple(pad_to),
    )  # fmt: skip
    _check(attributes, qkv, bias, head_scale, pad_value)
    batch, height, width, channels = qkv.shape
    return qkv.new_empty((batch, height, width, num_heads * attributes.value_size(channels)))


def _check(attributes: WindowAttentionAttributes, qkv: Tensor, *optional: Tensor | None) -> None:
    """Symbolic sizes are not ints, so tracing adds no guard."""
    shapes = {"qkv": qkv.shape} | {
        name: None if tensor is None else tensor.shape
        for name, tensor in zip(("bias", "head_scale", "pad_value"), optional, strict=True)
    }
    if reason := why_not(attributes, shapes):
        raise InputError(reason)
    if not qkv.dtype.is_floating_point:
        raise InputError(f"WindowAttention: qkv has dtype {qkv.dtype}; expected a floating-point tensor")


@lru_cache(maxsize=256)
def _attributes(
    num_heads: int,
    head_size: int,
    window: Pair,
    kv_window: Pair,
    shift: Pair,
    mask: Mask,
    mask_value: float,
    qk_norm: QkNorm,
    shift_when_single: ShiftWhenSingle,
    scale: float,
    pad: Pad,
    pad_to: Pair,
) -> WindowAttentionAttributes:
    return WindowAttentionAttributes(
        num_heads, head_size, window, kv_window, shift, mask, mask_value, qk_norm, shift_when_single,
        scale, pad, pad_to,
    )  # fmt: skip


# A Library costs less per call than torch.library.custom_op, which wraps the call in Python.
_LIBRARY = torch.library.Library("edgetx", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
_LIBRARY.impl("window_attention", _eager, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("edgetx::window_attention", _fake, lib=_LIBRARY)

window_attention = torch.ops.edgetx.window_attention.default
