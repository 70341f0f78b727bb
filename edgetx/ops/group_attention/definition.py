"""The PyTorch operator `edgetx::group_attention`; its eager implementation is the operator's definition.

Semantics read in: FlatFormer's flattened window attention (groups filled by repetition, one owner per token),
DSVT's and PointTransformer V3's set attention (empty slots and duplicates behind a key mask), MossFormer's
local chunks (`relu2`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from edgetx.errors import InputError
from edgetx.ops import gpu
from edgetx.ops.group_attention.attributes import INPUTS, Activation, GroupAttentionAttributes, why_not

SCHEMA = (
    "group_attention(Tensor q, Tensor k, Tensor v, Tensor groups, Tensor inverse, int num_heads, "
    "float scale, str activation) -> Tensor"
)


def apply(
    attributes: GroupAttentionAttributes,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Tensor,
    inverse: Tensor,
) -> Tensor:
    """Call the operator.

    Args:
        attributes: the operator's attributes.
        q: `[T, h·d]`, heads-major, float32, float16, bfloat16 or float64.
        k: as q.
        v: `[T, h·dv]`, of q's dtype.
        groups: `[G, S]`, int32: the tokens of each group, -1 for an empty slot.
        inverse: `[T]`, int32: the flat slot `g·S + s` that a token takes its output from; -1: zeros.

    Returns:
        `[T, h·dv]` of q's dtype.

    Raises:
        InputError: see `attributes.why_not`; a dtype or an index does not fit.
    """
    _check(attributes, q, k, v, groups, inverse)
    a = attributes.with_scale(int(q.shape[1]))
    return cast(
        Tensor,
        torch.ops.edgetx.group_attention.default(
            q, k, v, groups, inverse, a.num_heads, a.scale, a.activation
        ),
    )


def _eager(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Tensor,
    inverse: Tensor,
    num_heads: int,
    scale: float,
    activation: Activation,
) -> Tensor:
    attributes = _attributes(num_heads, scale, activation)
    _check(attributes, q, k, v, groups, inverse)
    if gpu.takes(q):
        from edgetx.ops.group_attention import triton_kernel

        return triton_kernel.group_attention(attributes, q, k, v, groups, inverse)
    _check_range("groups", groups, len(q), "the tokens")
    _check_range("inverse", inverse, groups.numel(), "the slots")
    return _define(attributes, q, k, v, groups, inverse)


def _define(
    a: GroupAttentionAttributes, q: Tensor, k: Tensor, v: Tensor, groups: Tensor, inverse: Tensor
) -> Tensor:
    # Half precision is computed in float32 and rounded once, at the end.
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    empty = groups < 0

    def gather(x: Tensor) -> Tensor:
        """`[T, h·c]` to `[G, h, S, c]`; zeros in empty slots."""
        rows = _with_zero_row(x.to(dtype))[groups.long()]  # -1 is the last row
        return torch.unflatten(rows, 2, (a.num_heads, -1)).transpose(1, 2)

    logits = (gather(q) * cast(float, a.scale)) @ gather(k).transpose(-1, -2)
    keys_empty = empty[:, None, None]
    if a.activation == "softmax":
        weights = logits.masked_fill(keys_empty, -torch.inf).softmax(dim=-1)
    else:
        weights = logits.relu().square()
    # An empty group's softmax is NaN; all of its keys are empty, so this clears it.
    weights = weights.masked_fill(keys_empty, 0.0)
    slots = (weights @ gather(v)).transpose(1, 2).flatten(2)
    slots = slots.masked_fill(empty[..., None], 0.0).flatten(0, 1)
    return _with_zero_row(slots)[inverse.long()].to(q.dtype)


def _with_zero_row(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (0, 0, 0, 1))


def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Tensor,
    inverse: Tensor,
    num_heads: int,
    scale: float,
    activation: Activation,
) -> Tensor:
    _check(_attributes(num_heads, scale, activation), q, k, v, groups, inverse)
    return v.new_empty((q.shape[0], v.shape[1]))


def _check(attributes: GroupAttentionAttributes, *tensors: Tensor) -> None:
    """Symbolic sizes are not ints, so tracing adds no guard."""
    if reason := why_not(attributes, {name: x.shape for name, x in zip(INPUTS, tensors, strict=True)}):
        raise InputError(reason)
    dtype = tensors[0].dtype
    if not dtype.is_floating_point:
        raise InputError(f"GroupAttention: q has dtype {dtype}; expected a floating-point tensor")
    for name, x in zip(INPUTS[1:], tensors[1:], strict=True):
        expected = torch.int32 if name in ("groups", "inverse") else dtype
        if x.dtype != expected:
            raise InputError(f"GroupAttention: {name} has dtype {x.dtype}; expected {expected}")


def _check_range(name: str, index: Tensor, end: int, of: str) -> None:
    if not index.numel():
        return
    lowest, highest = (int(bound) for bound in torch.aminmax(index))
    if lowest < -1 or highest >= end:
        wrong = lowest if lowest < -1 else highest
        raise InputError(
            f"GroupAttention: {name} holds {wrong}; expected -1 or an index into {of}, 0 to {end - 1}"
        )


@lru_cache(maxsize=256)
def _attributes(num_heads: int, scale: float, activation: Activation) -> GroupAttentionAttributes:
    return GroupAttentionAttributes(num_heads, scale, activation)


# A Library costs less per call than torch.library.custom_op, which wraps the call in Python.
_LIBRARY = torch.library.Library("edgetx", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
_LIBRARY.impl("group_attention", _eager, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("edgetx::group_attention", _fake, lib=_LIBRARY)

group_attention = torch.ops.edgetx.group_attention.default
