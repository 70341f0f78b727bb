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

from edgetx.ops import gpu

if TYPE_CHECKING:
    from torch import Tensor

    from edgetx.ops.window_attention.attributes import WindowAttentionAttributes


@triton.jit
def _source(position_y, position_x, shift_y, shift_x, rolled_y, rolled_x, height, width):
    """Where tokens of the rolled, padded map lie in the map; and which of them are tokens of it, not pads."""
    y = (position_y + shift_y) % rolled_y
    x = (position_x + shift_x) % rolled_x
    real = (position_y < rolled_y) & (position_x < rolled_x) & (y < height) & (x < width)
    return y * width + x, real


@triton.jit
def _region(y, x, padded_y, padded_x, shift_y, shift_x, WINDOW_Y: tl.constexpr, WINDOW_X: tl.constexpr):
    """The region of the shifted map, 0 to 8; an axis without shift is one region."""
    row = (y >= padded_y - WINDOW_Y).to(tl.int32) + (y >= padded_y - shift_y).to(tl.int32)
    column = (x >= padded_x - WINDOW_X).to(tl.int32) + (x >= padded_x - shift_x).to(tl.int32)
    row = tl.where(shift_y > 0, row, 0)
    column = tl.where(shift_x > 0, column, 0)
    return row * 3 + column


@triton.jit
def _rows(
    base, pad, token, real, pads, channel, CHANNELS: tl.constexpr, SIZE: tl.constexpr, HAS_PAD: tl.constexpr
):
    """`[tokens, channels]`: the tokens' rows; the pad row where `pads`; zeros elsewhere."""
    columns = (channel < SIZE)[None, :]
    rows = tl.load(
        base + token[:, None] * CHANNELS + channel[None, :], mask=real[:, None] & columns, other=0.0
    )
    if HAS_PAD:
        row = tl.load(pad + channel, mask=channel < SIZE, other=0.0)
        rows = tl.where(pads[:, None], row[None, :], rows)
    return rows


@triton.jit
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
    shift_y,
    shift_x,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    WINDOW_Y: tl.constexpr,
    WINDOW_X: tl.constexpr,
    KV_Y: tl.constexpr,
    KV_X: tl.constexpr,
    SCALE: tl.constexpr,
    MASK_VALUE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_PAD: tl.constexpr,
    HAS_MASK: tl.constexpr,
    NORM: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """Grid: batch · windows · query blocks · heads. Sizes in tokens; `rolled` is the size of the roll."""
    QUERIES: tl.constexpr = WINDOW_Y * WINDOW_X
    KEYS: tl.constexpr = KV_Y * KV_X
    BLOCKS: tl.constexpr = (QUERIES + BLOCK_Q - 1) // BLOCK_Q
    CHANNELS: tl.constexpr = HEADS * (2 * SIZE + VALUE_SIZE)
    EPSILON: tl.constexpr = 1e-12

    program = tl.program_id(0)
    head = program % HEADS
    program = program // HEADS
    block = program % BLOCKS
    window = program // BLOCKS
    windows_x = (padded_x + WINDOW_X - 1) // WINDOW_X
    windows_y = (padded_y + WINDOW_Y - 1) // WINDOW_Y
    left = (window % windows_x) * WINDOW_X
    top = (window // windows_x % windows_y) * WINDOW_Y
    batch = (window // (windows_x * windows_y)).to(tl.int64)

    qkv += batch * height * width * CHANNELS
    out += batch * height * width * (HEADS * VALUE_SIZE)
    channel = tl.arange(0, BLOCK_D)
    value_channel = tl.arange(0, BLOCK_V)

    query = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    query_y = top + query // WINDOW_X
    query_x = left + query % WINDOW_X
    query_token, query_real = _source(query_y, query_x, shift_y, shift_x, rolled_y, rolled_x, height, width)
    query_real = query_real & (query < QUERIES)
    # A pad token's own result is dropped, so its query may be anything.
    q = _rows(qkv + head * SIZE, qkv, query_token, query_real, query_real, channel, CHANNELS, SIZE, False)
    factor = tl.full([BLOCK_Q], SCALE, tl.float32)
    if HAS_SCALE:
        factor *= tl.load(head_scale + head).to(tl.float32)
    if NORM:
        wide = q.to(tl.float32)
        factor /= tl.maximum(tl.sqrt(tl.sum(wide * wide, 1)), EPSILON)
    if HAS_MASK:
        query_region = _region(query_y, query_x, padded_y, padded_x, shift_y, shift_x, WINDOW_Y, WINDOW_X)

    highest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    result = tl.zeros([BLOCK_Q, BLOCK_V], tl.float32)
    for first in range(0, KEYS, BLOCK_K):
        key = first + tl.arange(0, BLOCK_K)
        key_y = top - (KV_Y - WINDOW_Y) // 2 + key // KV_X
        key_x = left - (KV_X - WINDOW_X) // 2 + key % KV_X
        inside = (key < KEYS) & (key_y >= 0) & (key_x >= 0) & (key_y < padded_y) & (key_x < padded_x)
        key_token, key_real = _source(key_y, key_x, shift_y, shift_x, rolled_y, rolled_x, height, width)
        key_pad = inside & (key_real == 0)
        key_real = inside & key_real
        at = (HEADS + head) * SIZE
        k = _rows(qkv + at, pad_value + at, key_token, key_real, key_pad, channel, CHANNELS, SIZE, HAS_PAD)
        at = 2 * HEADS * SIZE + head * VALUE_SIZE
        v = _rows(
            qkv + at,
            pad_value + at,
            key_token,
            key_real,
            key_pad,
            value_channel,
            CHANNELS,
            VALUE_SIZE,
            HAS_PAD,
        )
        if UPCAST:
            logits = tl.dot(q.to(tl.float32), tl.trans(k.to(tl.float32)), input_precision=PRECISION)
        else:
            logits = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        logits *= factor[:, None]
        if NORM:
            # The products are divided, not the keys: a normalised half-precision key loses half its digits.
            wide_key = k.to(tl.float32)
            logits /= tl.maximum(tl.sqrt(tl.sum(wide_key * wide_key, 1)), EPSILON)[None, :]
        if HAS_BIAS:
            place = (head * QUERIES + query[:, None]) * KEYS + key[None, :]
            known = (query < QUERIES)[:, None] & (key < KEYS)[None, :]
            logits += tl.load(bias + place, mask=known, other=0.0).to(tl.float32)
        if HAS_MASK:
            key_region = _region(key_y, key_x, padded_y, padded_x, shift_y, shift_x, WINDOW_Y, WINDOW_X)
            logits += tl.where(query_region[:, None] == key_region[None, :], 0.0, MASK_VALUE)
        logits = tl.where((key < KEYS)[None, :], logits, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, 1))
        weights = tl.exp(logits - higher[:, None])
        decay = tl.exp(highest - higher)
        total = total * decay + tl.sum(weights, 1)
        result = result * decay[:, None]
        weights = weights.to(v.dtype)
        if UPCAST:
            result += tl.dot(weights.to(tl.float32), v.to(tl.float32), input_precision=PRECISION)
        else:
            result += tl.dot(weights, v, input_precision=PRECISION)
        highest = higher
    result /= total[:, None]
    place = query_token[:, None] * (HEADS * VALUE_SIZE) + head * VALUE_SIZE + value_channel[None, :]
    written = query_real[:, None] & (value_channel < VALUE_SIZE)[None, :]
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
    out = qkv.new_empty((batch, height, width, a.num_heads * value_size))
    padded = a.padded(height, width)
    shift = a.shift_at(padded)
    windows = (padded[0] // a.window[0]) * (padded[1] // a.window[1])
    block_q, block_k = gpu.blocks(a.query_tokens, a.key_tokens, qkv.dtype)
    programs = batch * windows * triton.cdiv(a.query_tokens, block_q) * a.num_heads
    if not programs:
        return out
    optional = [None if x is None else x.contiguous() for x in (bias, head_scale, pad_value)]
    window_attention_kernel[(programs,)](
        qkv.contiguous(),
        *(qkv if x is None else x for x in optional),  # what is absent is never read
        out,
        height,
        width,
        *padded,
        *((height, width) if a.pad == "after_roll" else padded),
        *shift,
        HEADS=a.num_heads,
        SIZE=a.head_size,
        VALUE_SIZE=value_size,
        WINDOW_Y=a.window[0],
        WINDOW_X=a.window[1],
        KV_Y=a.kv_window[0],
        KV_X=a.kv_window[1],
        SCALE=a.scale,
        MASK_VALUE=a.mask_value,
        HAS_BIAS=bias is not None,
        HAS_SCALE=head_scale is not None,
        HAS_PAD=pad_value is not None,
        HAS_MASK=a.has_mask,
        NORM=a.qk_norm == "l2",
        PRECISION="ieee",
        UPCAST=gpu.upcast(qkv.dtype),
        BLOCK_Q=block_q,
        BLOCK_K=block_k,
        BLOCK_D=gpu.block(a.head_size, most=2**16),
        BLOCK_V=gpu.block(value_size, most=2**16),
    )
    return out
