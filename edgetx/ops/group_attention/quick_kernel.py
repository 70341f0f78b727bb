"""The Triton kernel of GroupAttention as a quick-deployable plugin of TensorRT launches it.

Such a plugin has one kernel, whose output nobody has cleared, so the tokens are not scattered here: the
output has a row per slot, and a last row of zeros, which the index -1 of a token without a slot means. A
Gather by `inverse` after the plugin gives the operator's output.
"""

from __future__ import annotations

import triton
import triton.language as tl

from edgetx.ops.group_attention.triton_kernel import attend, place_of_program


@triton.jit(do_not_specialize=["count", "slots"])
def edgetx_group_attention(
    q,
    k,
    v,
    groups,
    count,
    slots,
    out,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    SCALE: tl.constexpr,
    SOFTMAX: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid: (groups + 1) · query blocks · heads; those behind the last group write the row of zeros.

    Args:
        count, slots: G and S.
        out: `[G·S + 1, HEADS·VALUE_SIZE]`.
    """
    group, head, slot = place_of_program(slots, HEADS, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)
    behind = group >= count

    groups += group * slots
    there = (slot < slots) & (not behind)
    query = tl.load(groups + slot, mask=there, other=-1).to(tl.int64)
    # Behind the last group there is nothing to read: no slots, which leaves zeros.
    result = attend(
        q,
        k,
        v,
        groups,
        query,
        head,
        tl.where(behind, 0, slots),
        HEADS,
        SIZE,
        VALUE_SIZE,
        SCALE,
        SOFTMAX,
        UPCAST,
        BLOCK_Q,
        BLOCK_K,
        BLOCK_D,
    )
    row = group * slots + slot
    place = row[:, None] * (HEADS * VALUE_SIZE) + head * VALUE_SIZE + channel[None, :]
    written = there | (behind & (slot == 0))
    tl.store(
        out + place, result.to(out.dtype.element_ty), mask=written[:, None] & (channel < VALUE_SIZE)[None, :]
    )
