"""The Triton kernel of WindowAttention, and its launch.

    out = softmax(scale · head_scale · (q·k) [/ ‖q‖‖k‖] + bias + mask) · v

One program takes a block of queries of one head of one window: it gathers their rows from the map where
they lie (the roll, the padding and the partition are index arithmetic), walks over the key window block by
block with an online softmax, and scatters the result back, so that no window, mask or logit ever reaches
memory. Heads vary fastest from program to program: the heads of a token lie side by side, and share cache
lines. Head sizes that are no power of two are padded in registers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from edgetx.errors import InputError
from edgetx.ops import gpu

if TYPE_CHECKING:
    from torch import Tensor

    from edgetx.ops.window_attention.attributes import WindowAttentionAttributes


HAS_BIAS, HAS_SCALE, HAS_PAD, HAS_MASK = 1, 2, 4, 8
"""Bits of the kernel's `flags`; `cuda.cc` has them too."""
MOST_TOKENS = 2**20
"""Of a window: more are not divided exactly by `_divide`."""


@triton.jit
def _divide(number, divisor):
    """`number // divisor`, exact for 0 <= number < 2**21, in a fraction of a division's instructions."""
    return ((number.to(tl.float32) + 0.5) * (1.0 / divisor)).to(tl.int32)


@triton.jit
def _source(position_y, position_x, roll_y, roll_x, rolled_y, rolled_x, height, width):
    """Where tokens of the rolled, padded map lie in the map; and which of them are tokens of it, not pads."""
    # Positions that count lie in [0, rolled), and so do rolls: one subtraction is the remainder.
    y = position_y + roll_y
    x = position_x + roll_x
    y = tl.where(y >= rolled_y, y - rolled_y, y)
    x = tl.where(x >= rolled_x, x - rolled_x, x)
    real = (position_y < rolled_y) & (position_x < rolled_x) & (y < height) & (x < width)
    return y * width + x, real


@triton.jit
def _region(y, x, padded_y, padded_x, shift_y, shift_x, window_y, window_x):
    """The region of the shifted map, 0 to 8; an axis without shift is one region."""
    row = (y >= padded_y - window_y).to(tl.int32) + (y >= padded_y - shift_y).to(tl.int32)
    column = (x >= padded_x - window_x).to(tl.int32) + (x >= padded_x - shift_x).to(tl.int32)
    row = tl.where(shift_y > 0, row, 0)
    column = tl.where(shift_x > 0, column, 0)
    return row * 3 + column


@triton.jit
def _rows(base, pad, token, known, pads, channels, channel, size):
    """`[tokens, channels]`: the tokens' rows; the pad row where `pads`; zeros where not `known`."""
    row = tl.where(pads, pad, base + token.to(tl.int64) * channels)
    mask = known[:, None] & (channel < size)[None, :]
    return tl.load(row[:, None] + channel[None, :], mask=mask, other=0.0)


@triton.jit(do_not_specialize=gpu.numbers(5, 25))
def window_attention_kernel(
    qkv,
    bias,
    head_scale,
    pad_value,
    out,
    height,
    width,
    padded_y,
    padded_x,
    rolled_y,
    rolled_x,
    roll_y,
    roll_x,
    shift_y,
    shift_x,
    heads,
    size,
    value_size,
    window_y,
    window_x,
    kv_y,
    kv_x,
    flags,
    scale,
    mask_value,
    NORM: tl.constexpr,
    UPCAST: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid: batch · windows · query blocks · heads.

    Args:
        qkv: as the operator's inputs; what `flags` does not tell of is never read.
        height: of the map, in tokens, as all sizes; `padded` is the map with its pads, `rolled` what is
            rolled by `roll`, `shift` the operator's, which the regions of the mask follow.
        size: a multiple of ALIGN, as is `value_size`; both are at most BLOCK_D.
        flags: `HAS_BIAS` ... `HAS_MASK`.
    """
    EPSILON: tl.constexpr = 1e-12
    SMALLEST: tl.constexpr = 1e-20
    size = size // ALIGN * ALIGN  # tells the compiler how wide its loads may be
    value_size = value_size // ALIGN * ALIGN
    queries = window_y * window_x
    keys = kv_y * kv_x
    blocks = (queries + BLOCK_Q - 1) // BLOCK_Q
    channels = heads * (2 * size + value_size)

    program = tl.program_id(0)
    head = program % heads
    program = program // heads
    block = program % blocks
    window = program // blocks
    windows_x = (padded_x + window_x - 1) // window_x
    windows_y = (padded_y + window_y - 1) // window_y
    left = (window % windows_x) * window_x
    window = window // windows_x
    top = (window % windows_y) * window_y
    batch = (window // windows_y).to(tl.int64)
    border_y = (kv_y - window_y) // 2
    border_x = (kv_x - window_x) // 2

    qkv += batch * height * width * channels
    out += batch * height * width * (heads * value_size)
    channel = tl.arange(0, BLOCK_D)

    query = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    row = _divide(query, window_x)
    query_y = top + row
    query_x = left + query - row * window_x
    query_token, query_real = _source(query_y, query_x, roll_y, roll_x, rolled_y, rolled_x, height, width)
    query_real = query_real & (query < queries)
    # A pad token's own result is dropped, so its query may be anything.
    at = head * size
    q = _rows(qkv + at, qkv + at, query_token, query_real, query_real == 0, channels, channel, size)
    factor = tl.full([BLOCK_Q], 1.0, tl.float32) * scale
    if flags & 2:
        factor *= tl.load(head_scale + head).to(tl.float32)
        factor = tl.where(tl.abs(factor) < SMALLEST, SMALLEST, factor)  # it will be divided by
    if NORM:
        wide = q.to(tl.float32)
        factor /= tl.maximum(tl.sqrt(tl.sum(wide * wide, 1)), EPSILON)
    bias_queries = tl.where((flags & 1) != 0, queries, 0)
    query_region = _region(query_y, query_x, padded_y, padded_x, shift_y, shift_x, window_y, window_x)
    mask_value = tl.where((flags & 8) != 0, mask_value, 0.0)

    highest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    result = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    for first in range(0, keys, BLOCK_K):
        key = first + tl.arange(0, BLOCK_K)
        line = _divide(key, kv_x)
        key_y = top - border_y + line
        key_x = left - border_x + key - line * kv_x
        inside = (key < keys) & (key_y >= 0) & (key_x >= 0) & (key_y < padded_y) & (key_x < padded_x)
        key_token, key_real = _source(key_y, key_x, roll_y, roll_x, rolled_y, rolled_x, height, width)
        known = inside & (key_real | ((flags & 4) != 0))
        pads = key_real == 0
        at = (heads + head) * size
        k = _rows(qkv + at, pad_value + at, key_token, known, pads, channels, channel, size)
        at = 2 * heads * size + head * value_size
        v = _rows(qkv + at, pad_value + at, key_token, known, pads, channels, channel, value_size)
        # The bias comes first, divided by what the products will be multiplied with: added to them it would
        # pull the softmax into the layout of its load, which takes hundreds of shuffles.
        place = (head * queries + query[:, None]) * keys + key[None, :]
        there = (query < bias_queries)[:, None] & (key < keys)[None, :]
        logits = tl.load(bias + place, mask=there, other=0.0).to(tl.float32) * (1.0 / factor)[:, None]
        if NORM:
            # The products are divided, not the keys: a normalised half-precision key loses half its digits.
            wide_key = k.to(tl.float32)
            norm = tl.maximum(tl.sqrt(tl.sum(wide_key * wide_key, 1)), EPSILON)
            logits *= norm[None, :]
        if UPCAST:
            logits = tl.dot(q.to(tl.float32), tl.trans(k.to(tl.float32)), logits, input_precision="ieee")
        else:
            logits = tl.dot(q, tl.trans(k), logits, input_precision="ieee")
        logits *= factor[:, None]
        if NORM:
            logits *= (1.0 / norm)[None, :]
        key_region = _region(key_y, key_x, padded_y, padded_x, shift_y, shift_x, window_y, window_x)
        logits += tl.where(query_region[:, None] == key_region[None, :], 0.0, mask_value)
        logits = tl.where((key < keys)[None, :], logits, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, 1))
        weights = tl.exp(logits - higher[:, None])
        decay = tl.exp(highest - higher)
        total = total * decay + tl.sum(weights, 1)
        result = result * decay[:, None]
        weights = weights.to(v.dtype)
        if UPCAST:
            result += tl.dot(weights.to(tl.float32), v.to(tl.float32), input_precision="ieee")
        else:
            result += tl.dot(weights, v, input_precision="ieee")
        highest = higher
    result /= total[:, None]
    place = query_token.to(tl.int64)[:, None] * (heads * value_size) + head * value_size + channel[None, :]
    written = query_real[:, None] & (channel < value_size)[None, :]
    tl.store(out + place, result.to(out.dtype.element_ty), mask=written)


def window_attention(
    a: WindowAttentionAttributes,
    qkv: Tensor,
    bias: Tensor | None,
    head_scale: Tensor | None,
    pad_value: Tensor | None,
) -> Tensor:
    """The operator on a GPU, or in Triton's interpreter; arguments are checked, as `definition` has them.

    Products of float32 are computed in float32, of half precision with float32 sums; the probabilities are
    rounded to qkv's dtype before they meet v, the result once more.
    """
    batch, height, width, channels = qkv.shape
    value_size = a.value_size(channels)
    if a.key_tokens > MOST_TOKENS:
        raise InputError(f"WindowAttention: kv_window={a.kv_window} has more than {MOST_TOKENS} tokens")
    out = qkv.new_empty((batch, height, width, a.num_heads * value_size))
    padded = a.padded(height, width)
    shift = a.shift_at(padded)
    rolled = (height, width) if a.pad == "after_roll" else padded
    windows = (padded[0] // a.window[0]) * (padded[1] // a.window[1])
    tile = gpu.tile(a.query_tokens, a.key_tokens, qkv.dtype)
    programs = batch * windows * triton.cdiv(a.query_tokens, tile.queries) * a.num_heads
    if not programs:
        return out
    optional = [None if x is None else x.contiguous() for x in (bias, head_scale, pad_value)]
    flags = sum(
        flag
        for flag, given in zip(
            (HAS_BIAS, HAS_SCALE, HAS_PAD, HAS_MASK),
            (*(x is not None for x in optional), a.has_mask),
            strict=True,
        )
        if given
    )
    window_attention_kernel[(programs,)](
        qkv.contiguous(),
        *(qkv if x is None else x for x in optional),
        out,
        height,
        width,
        *padded,
        *rolled,
        *(each % size for each, size in zip(shift, rolled, strict=True)),
        *shift,
        a.num_heads,
        a.head_size,
        value_size,
        *a.window,
        *a.kv_window,
        flags,
        a.scale,
        a.mask_value,
        NORM=a.qk_norm == "l2",
        UPCAST=gpu.upcast(qkv.dtype),
        ALIGN=gpu.alignment(a.head_size, value_size),
        BLOCK_D=gpu.block(max(a.head_size, value_size)),
        **tile.options(),
    )
    return out
