"""ONNX function bodies: the operator in standard operators, for engines without our kernel.

Two variants: `primitive` (opset 20: MatMul, Softmax, Gather, ...) and `attention` (opset 23's `Attention` in
its 3-D form; `relu2` has no such form and stays primitive). Tokens, groups and slots are dynamic.

A row of zeros behind the tokens stands for every empty slot, and one behind the slots for every token without
an output, so that no index is ever out of an empty tensor: T = 0 and G = 0 need no branch.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgetx.errors import ExportError
from edgetx.ops import rows
from edgetx.ops.builder import Builder
from edgetx.ops.group_attention.attributes import INPUTS, GroupAttentionAttributes, why_not
from edgetx.ops.operator import Variant

_LOWEST = {ir.DataType.FLOAT16: -6e4}
_LOWEST_ELSE = -1e30
"""Added to the logits of empty slots. Finite: a group of empty slots only must not become NaN."""


def body_of_node(node: ir.Node, variant: Variant, opset: int) -> ir.Function:
    """The body for one node of a model, whose value types must be known.

    Raises:
        ExportError: a missing input, shapes that do not fit together, or unknown dtype or channels.
        InputError: an attribute is missing, unknown or out of range.
    """
    attributes = GroupAttentionAttributes.from_onnx(
        {name: attribute.value for name, attribute in node.attributes.items()}
    )
    rows.check_node(node, INPUTS, lambda shapes: why_not(attributes, shapes))
    q, _, v = node.inputs[:3]
    channels = [None if x is None or x.shape is None else x.shape[1] for x in (q, v)]
    if q is None or q.dtype is None or not all(isinstance(each, int) for each in channels):
        raise ExportError(
            f"node {node.name!r}: the dtype of its input q or the number of channels of q or v is unknown; "
            "infer the model's shapes first"
        )
    head_size, value_size = (attributes.head_size(each) for each in channels if isinstance(each, int))
    return body(attributes, head_size, value_size, variant, opset=opset, dtype=q.dtype)


def body(
    attributes: GroupAttentionAttributes,
    head_size: int,
    value_size: int,
    variant: Variant,
    *,
    opset: int,
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> ir.Function:
    """One function.

    Args:
        attributes: baked in as constants.
        head_size: d.
        value_size: dv.
        variant: which standard operators to use.
        opset: the model's opset, which a function must share.
        dtype: of q, k, v and every intermediate result.

    Returns:
        A function whose `overload` is a short hash of all that tells it apart from another.
    """
    a = attributes.with_scale(attributes.num_heads * head_size)
    builder = Builder(dtype)
    groups = _Groups(builder, a, (head_size, value_size))
    if variant == "attention" and a.activation == "softmax":
        groups.fill()
        result = groups.tokens(groups.attention())
    else:
        result = groups.tokens(groups.primitive())
    key = [a.to_onnx(), head_size, value_size, dtype.name]
    return builder.function("GroupAttention", groups.inputs, result, key, opset)


class _Groups:
    """The tensors of one node, and how tokens go into slots and back."""

    def __init__(self, b: Builder, a: GroupAttentionAttributes, sizes: tuple[int, int]) -> None:
        self.b, self.a = b, a
        self.inputs = [ir.Value(name=name) for name in INPUTS]
        self.q, self.k, self.v, self.groups, self.inverse = self.inputs
        self.head_size, self.value_size = sizes
        self.empty = self._find_empty()

    def fill(self) -> None:
        """Where there is no group, add an empty one: ONNX Runtime's `Attention` refuses a batch of 0."""
        b = self.b
        missing = b.op("Sub", b.ints(1), b.op("Min", b.extent(self.groups, 0), b.ints(1)))
        shape = b.op("Concat", missing, b.extent(self.groups, 1), axis=0)
        self.groups = b.op("Concat", self.groups, b.op("Expand", b.constant(np.int32(-1)), shape), axis=0)
        self.empty = self._find_empty()

    def primitive(self) -> ir.Value:
        """The slots' outputs `[G·S, h·dv]`."""
        b = self.b
        q, k, v = (
            b.op("Reshape", part, b.ints(0, 0, self.a.num_heads, size))
            for part, size in zip(
                self._slots(b.op("Mul", self.q, b.real(self._scale()))),
                (self.head_size, self.head_size, self.value_size),
                strict=True,
            )
        )
        q, v = (b.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
        weights = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 2, 3, 1]))
        if self.a.activation == "softmax":
            weights = b.op("Softmax", b.op("Add", weights, self._mask()), axis=-1)
        else:
            # An empty slot's key is zero, and so is its weight.
            positive = b.op("Relu", weights)
            weights = b.op("Mul", positive, positive)
        out = b.op("Transpose", b.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        return b.op("Reshape", out, b.ints(-1, self.a.num_heads * self.value_size))

    def attention(self) -> ir.Value:
        """The same by `Attention`, for softmax."""
        b, heads = self.b, self.a.num_heads
        slots = b.extent(self.groups, 1)
        shape = b.op("Concat", b.extent(self.groups, 0), b.ints(1), slots, slots, axis=0)
        mask = b.op("Expand", self._mask(), shape)
        out = b.op(
            "Attention", *self._slots(self.q), mask,
            q_num_heads=heads, kv_num_heads=heads, scale=self._scale(),
        )  # fmt: skip
        return b.op("Reshape", out, b.ints(-1, heads * self.value_size))

    def tokens(self, slots: ir.Value) -> ir.Value:
        """`[T, h·dv]`: each token's row of `slots`; zeros from no slot and from an empty one."""
        b = self.b
        count = b.op("Mul", b.extent(self.groups, 0), b.extent(self.groups, 1))
        inverse = b.cast(self.inverse, ir.DataType.INT64)
        slot = b.op("Where", b.op("Less", inverse, b.ints(0)), count, inverse)
        flat = b.op("Reshape", self.empty, b.ints(-1))
        unused = b.op("Gather", b.op("Concat", flat, b.constant(np.ones(1, np.bool_)), axis=0), slot, axis=0)
        slot = b.op("Where", unused, count, slot)
        return b.op("Gather", self._with_zeros(slots, self.value_size), slot, axis=0)

    def _slots(self, q: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """q, k and v, each `[G, S, h·c]`."""
        b = self.b
        index = b.op("Where", self.empty, b.extent(self.q, 0), b.cast(self.groups, ir.DataType.INT64))
        q, k, v = (
            b.op("Gather", self._with_zeros(part, size), index, axis=0)
            for part, size in ((q, self.head_size), (self.k, self.head_size), (self.v, self.value_size))
        )
        return q, k, v

    def _find_empty(self) -> ir.Value:
        return self.b.op("Less", self.groups, self.b.constant(np.int32(0)))

    def _mask(self) -> ir.Value:
        """`[G, 1, 1, S]`, added to the logits."""
        b = self.b
        mask = b.op("Where", self.empty, b.real(_LOWEST.get(b.dtype, _LOWEST_ELSE)), b.real(0.0))
        return b.op("Unsqueeze", mask, b.ints(1, 2))

    def _with_zeros(self, x: ir.Value, size: int) -> ir.Value:
        zeros = self.b.constant(np.zeros((1, self.a.num_heads * size)), self.b.dtype)
        return self.b.op("Concat", x, zeros, axis=0)

    def _scale(self) -> float:
        assert self.a.scale is not None
        return self.a.scale
