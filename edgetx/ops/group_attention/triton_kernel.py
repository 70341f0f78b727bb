"""The Triton kernels of GroupAttention, and their launch.

    out[t] = softmax(scale · (q·k)) · v   or   max(scale · (q·k), 0)² · v,   for the slot inverse[t]

One program takes a block of slots of one head of one group: it gathers their queries, walks over the
group's keys block by block (an online softmax), and scatters each slot's result to the tokens that it
belongs to, so that no grouped tensor ever reaches memory. Usually that is one token, but nothing asks for
it: a first kernel chains the tokens of every slot (`first[slot]`, then `following[token]`), which needs no
sort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from edgetx.ops import gpu

if TYPE_CHECKING:
    from torch import Tensor

    from edgetx.ops.group_attention.attributes import GroupAttentionAttributes

BLOCK_TOKENS = 256


@triton.jit
def chain_kernel(inverse, first, following, tokens, BLOCK: tl.constexpr):
    """`first[slot]`: a token that takes the slot's output; `following[token]`: the next one, or -1."""
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(inverse + token, mask=token < tokens, other=-1)
    before = tl.atomic_xchg(first + slot, token, mask=slot >= 0)
    tl.store(following + token, before, mask=slot >= 0)


@triton.jit
def place_of_program(slots, heads, BLOCK_Q: tl.constexpr):
    """Group, head and slots of a program in a grid of groups · query blocks · heads."""
    program = tl.program_id(0)
    head = program % heads
    program = program // heads
    blocks = tl.cdiv(slots, BLOCK_Q)
    group = (program // blocks).to(tl.int64)
    return group, head, program % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)


@triton.jit
def attend(
    q,
    k,
    v,
    groups,
    query,
    head,
    slots,
    heads,
    size,
    value_size,
    scale,
    SOFTMAX: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """What one head's queries, the tokens `query` of one group or -1, get from the group's `slots` tokens.

    `groups` points to the group's first slot. Gives float32 `[BLOCK_Q, BLOCK_D]`.
    """
    channel = tl.arange(0, BLOCK_D)
    known = (channel < size)[None, :]
    value_known = (channel < value_size)[None, :]
    place = query[:, None] * (heads * size) + head * size + channel[None, :]
    queries = tl.load(q + place, mask=(query >= 0)[:, None] & known, other=0.0)

    highest = tl.full([BLOCK_Q], -1e30, tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    result = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    for start in range(0, slots, BLOCK_K):
        position = start + tl.arange(0, BLOCK_K)
        key = tl.load(groups + position, mask=position < slots, other=-1).to(tl.int64)
        there = key >= 0
        at_key = key[:, None] * (heads * size) + head * size + channel[None, :]
        keys = tl.load(k + at_key, mask=there[:, None] & known, other=0.0)
        at_value = key[:, None] * (heads * value_size) + head * value_size + channel[None, :]
        values = tl.load(v + at_value, mask=there[:, None] & value_known, other=0.0)
        if UPCAST:
            logits = tl.dot(queries.to(tl.float32), tl.trans(keys.to(tl.float32)), input_precision="ieee")
        else:
            logits = tl.dot(queries, tl.trans(keys), input_precision="ieee")
        logits *= scale
        if SOFTMAX:
            logits = tl.where(there[None, :], logits, float("-inf"))
            # Starts from a finite number, so that a block of empty slots gives 0 and not NaN.
            higher = tl.maximum(highest, tl.max(logits, 1))
            weights = tl.exp(logits - higher[:, None])
            decay = tl.exp(highest - higher)
            total = total * decay + tl.sum(weights, 1)
            result = result * decay[:, None]
            highest = higher
        else:
            positive = tl.where(there[None, :] & (logits > 0), logits, 0.0)
            weights = positive * positive
        weights = weights.to(values.dtype)
        if UPCAST:
            result += tl.dot(weights.to(tl.float32), values.to(tl.float32), input_precision="ieee")
        else:
            result += tl.dot(weights, values, input_precision="ieee")
    if SOFTMAX:
        result /= tl.where(total > 0, total, 1.0)[:, None]
    return result


@triton.jit(do_not_specialize=gpu.numbers(7, 12))
def group_attention_kernel(
    q,
    k,
    v,
    groups,
    first,
    following,
    out,
    slots,
    heads,
    size,
    value_size,
    scale,
    SOFTMAX: tl.constexpr,
    UPCAST: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid: groups · query blocks · heads; `slots` is S.

    `size` and `value_size` are multiples of ALIGN, and at most BLOCK_D.
    """
    size = size // ALIGN * ALIGN  # tells the compiler how wide its loads may be
    value_size = value_size // ALIGN * ALIGN
    group, head, slot = place_of_program(slots, heads, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)
    value_known = (channel < value_size)[None, :]

    groups += group * slots
    query = tl.load(groups + slot, mask=slot < slots, other=-1).to(tl.int64)
    result = attend(
        q,
        k,
        v,
        groups,
        query,
        head,
        slots,
        heads,
        size,
        value_size,
        scale,
        SOFTMAX,
        UPCAST,
        BLOCK_Q,
        BLOCK_K,
        BLOCK_D,
    )
    result = result.to(out.dtype.element_ty)

    token = tl.load(first + group * slots + slot, mask=query >= 0, other=-1).to(tl.int64)
    while tl.max(token, 0) >= 0:
        place = token[:, None] * (heads * value_size) + head * value_size + channel[None, :]
        tl.store(out + place, result, mask=(token >= 0)[:, None] & value_known)
        token = tl.load(following + token, mask=token >= 0, other=-1).to(tl.int64)


def group_attention(
    a: GroupAttentionAttributes, q: Tensor, k: Tensor, v: Tensor, groups: Tensor, inverse: Tensor
) -> Tensor:
    """The operator on a GPU, or in Triton's interpreter; arguments are checked, as `definition` has them.

    Indices out of range are not looked for: that would make the host wait for the device.
    """
    tokens, slots = q.shape[0], groups.shape[1]
    size, value_size = q.shape[1] // a.num_heads, v.shape[1] // a.num_heads
    out = v.new_zeros(v.shape)
    if not tokens or not groups.shape[0]:
        return out
    first = groups.new_full((groups.numel(),), -1)
    following = inverse.new_full((tokens,), -1)
    chain_kernel[(triton.cdiv(tokens, BLOCK_TOKENS),)](
        inverse.contiguous(), first, following, tokens, BLOCK=BLOCK_TOKENS
    )
    tile = gpu.tile(slots, slots, q.dtype)
    group_attention_kernel[(groups.shape[0] * triton.cdiv(slots, tile.queries) * a.num_heads,)](
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        groups.contiguous(),
        first,
        following,
        out,
        slots,
        a.num_heads,
        size,
        value_size,
        a.scale,
        SOFTMAX=a.activation == "softmax",
        UPCAST=gpu.upcast(q.dtype),
        ALIGN=gpu.alignment(size, value_size),
        BLOCK_D=gpu.block(max(size, value_size)),
        **tile.options(),
    )
    return out
