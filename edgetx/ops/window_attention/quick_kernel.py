"""The Triton kernel of WindowAttention as a quick-deployable plugin of TensorRT launches it.

Such a plugin passes pointers of inputs, 32-bit integers and the pointer of the output, in this order, and
nothing else: what follows from a node's attributes is compiled in, and sizes of the padded map are computed
from those of the map.
"""

from __future__ import annotations

import triton
import triton.language as tl

from edgetx.ops.window_attention.triton_kernel import window_attention_kernel

KEEP, DROP_AXIS, DROP_BOTH = 0, 1, 2
"""`shift_when_single`, as SINGLE says it."""


@triton.jit(do_not_specialize=["height", "width"])
def edgetx_window_attention(
    qkv,
    bias,
    head_scale,
    pad_value,
    height,
    width,
    out,
    PAD_Y: tl.constexpr,
    PAD_X: tl.constexpr,
    ROLLS_PADDED: tl.constexpr,
    SHIFT_Y: tl.constexpr,
    SHIFT_X: tl.constexpr,
    SINGLE: tl.constexpr,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    WINDOW_Y: tl.constexpr,
    WINDOW_X: tl.constexpr,
    KV_Y: tl.constexpr,
    KV_X: tl.constexpr,
    FLAGS: tl.constexpr,
    SCALE: tl.constexpr,
    MASK_VALUE: tl.constexpr,
    NORM: tl.constexpr,
    UPCAST: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid: as `window_attention_kernel`'s.

    Args:
        bias: as the other optional inputs never read where FLAGS does not tell of it; its place in the list
            of arguments is then taken out of the PTX.
        PAD_Y: what the map is padded to a multiple of; 1 without padding.
        ROLLS_PADDED: whether the padded map is rolled, or the map itself.
        FLAGS: as `window_attention_kernel`'s.
    """
    if FLAGS & 1 == 0:
        bias = qkv
    if FLAGS & 2 == 0:
        head_scale = qkv
    if FLAGS & 4 == 0:
        pad_value = qkv
    padded_y = (height + PAD_Y - 1) // PAD_Y * PAD_Y
    padded_x = (width + PAD_X - 1) // PAD_X * PAD_X
    shift_y = height * 0 + SHIFT_Y
    shift_x = width * 0 + SHIFT_X
    single_y = padded_y <= WINDOW_Y
    single_x = padded_x <= WINDOW_X
    if SINGLE == 1:
        shift_y = tl.where(single_y, 0, shift_y)
        shift_x = tl.where(single_x, 0, shift_x)
    if SINGLE == 2:
        shift_y = tl.where(single_y | single_x, 0, shift_y)
        shift_x = tl.where(single_y | single_x, 0, shift_x)
    rolled_y = height
    rolled_x = width
    if ROLLS_PADDED:
        rolled_y = padded_y
        rolled_x = padded_x
    window_attention_kernel(
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
        shift_y % rolled_y,
        shift_x % rolled_x,
        shift_y,
        shift_x,
        HEADS,
        SIZE,
        VALUE_SIZE,
        WINDOW_Y,
        WINDOW_X,
        KV_Y,
        KV_X,
        FLAGS,
        SCALE,
        MASK_VALUE,
        NORM,
        UPCAST,
        ALIGN,
        BLOCK_Q,
        BLOCK_K,
        BLOCK_D,
    )
