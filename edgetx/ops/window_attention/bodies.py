"""ONNX function bodies: the operator in standard operators, for engines without our kernel.

Two variants: `primitive` (opset 20: MatMul, Softmax, Gather, ...) and `attention` (opset 23's `Attention` in
its 3-D form, the fastest standard form on ONNX Runtime's CPU provider). Batch, height and width are dynamic.

Partition, roll and padding are one Gather over tokens, and so are crop, roll back and merge; a map that is
neither shifted nor padded needs only Transpose. What the attributes rule out is not in the body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgetx.errors import ExportError
from edgetx.ops.builder import Builder
from edgetx.ops.operator import Variant
from edgetx.ops.window_attention.attributes import Pair, WindowAttentionAttributes, why_not

INPUTS = ("qkv", "bias", "head_scale", "pad_value")
EPSILON = 1e-12
_OUTSIDE = 1 << 40  # a source index that no map reaches, and that stays one after adding another


def body_of_node(node: ir.Node, variant: Variant, opset: int) -> ir.Function:
    """The body for one node of a model, whose value types must be known.

    Raises:
        ExportError: an empty middle input, or unknown dtype or channels.
        InputError: the attributes or shapes do not fit together.
    """
    attributes = WindowAttentionAttributes.from_onnx(
        {name: attribute.value for name, attribute in node.attributes.items()}
    )
    inputs = (*node.inputs, *(None,) * (len(INPUTS) - len(node.inputs)))
    given = len(node.inputs)
    if any(value is None for value in node.inputs):
        raise ExportError(
            f"node {node.name!r} has an empty input before a present one; give it zeros (bias, pad_value) "
            "or ones (head_scale)"
        )
    qkv = inputs[0]
    channels = qkv.shape[3] if qkv is not None and qkv.shape is not None and len(qkv.shape) == 4 else None
    if qkv is None or qkv.dtype is None or not isinstance(channels, int):
        raise ExportError(
            f"node {node.name!r}: the dtype or the number of channels of its input qkv is unknown; "
            "infer the model's shapes first"
        )
    shapes = {
        name: None if value is None or value.shape is None else tuple(value.shape)
        for name, value in zip(INPUTS, inputs, strict=True)
    }
    if reason := why_not(attributes, shapes):
        raise ExportError(f"node {node.name!r}: {reason}")
    return body(attributes, given, attributes.value_size(channels), variant, opset=opset, dtype=qkv.dtype)


def body(
    attributes: WindowAttentionAttributes,
    inputs: int,
    value_size: int,
    variant: Variant,
    *,
    opset: int,
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> ir.Function:
    """One function.

    Args:
        attributes: baked in as constants.
        inputs: how many of qkv, bias, head_scale, pad_value the node has; the function has the same.
        value_size: dv.
        variant: which standard operators to use.
        opset: the model's opset, which a function must share.
        dtype: of every tensor; cosine attention's norms are computed in float32 whatever it is.

    Returns:
        A function whose `overload` is a short hash of all that tells it apart from another.
    """
    builder = Builder(dtype)
    values = [ir.Value(name=name) for name in INPUTS[:inputs]]
    tensors = _Inputs(*values)
    build = _attention if variant == "attention" else _primitive
    result = build(builder, attributes, tensors, value_size)
    key = [attributes.to_onnx(), inputs, value_size, dtype.name]
    return builder.function("WindowAttention", values, result, key, opset)


@dataclass(frozen=True)
class _Inputs:
    qkv: ir.Value
    bias: ir.Value | None = None
    head_scale: ir.Value | None = None
    pad_value: ir.Value | None = None


def _primitive(b: Builder, a: WindowAttentionAttributes, x: _Inputs, value_size: int) -> ir.Value:
    heads, size = a.num_heads, a.head_size
    layout = _Layout(b, a, x)
    if a.overlaps or value_size != size:
        parts = zip(_project(b, a, layout, value_size), (size, size, value_size), strict=True)
        q, k, v = (
            b.op("Transpose", b.op("Reshape", part, b.ints(0, 0, 0, heads, each)), perm=[0, 1, 3, 2, 4])
            for part, each in parts
        )
    else:
        # q, k and v look alike, so one transpose serves the three.
        packed = b.op("Reshape", layout.queries(layout.source()), b.ints(0, 0, 0, 3 * heads, size))
        q, k, v = b.split(b.op("Transpose", packed, perm=[0, 1, 3, 2, 4]), [heads] * 3, axis=2)
    q, k = _scaled(b, a, x, q, k, head_axis=2)
    logits = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 2, 4, 3]))
    addend = _addend(b, a, x, layout)
    if addend is not None:
        logits = b.op("Add", logits, addend)
    out = b.op("MatMul", b.op("Softmax", logits, axis=-1), v)
    out = b.op("Transpose", out, perm=[0, 1, 3, 2, 4])
    return layout.merge(out, heads * value_size)


def _attention(b: Builder, a: WindowAttentionAttributes, x: _Inputs, value_size: int) -> ir.Value:
    heads, size = a.num_heads, a.head_size
    layout = _Layout(b, a, x)
    q, k, v = _project(b, a, layout, value_size)
    scale = a.scale
    if a.qk_norm == "l2" or x.head_scale is not None:
        q, k = (b.op("Reshape", part, b.ints(0, 0, 0, heads, size)) for part in (q, k))
        q, k = _scaled(b, a, x, q, k, head_axis=3)
        scale = 1.0
    q = b.op("Reshape", q, b.ints(-1, a.query_tokens, heads * size))
    k = b.op("Reshape", k, b.ints(-1, a.key_tokens, heads * size))
    v = b.op("Reshape", v, b.ints(-1, a.key_tokens, heads * value_size))
    addend = _addend(b, a, x, layout)
    if addend is not None and a.has_mask:
        # one mask per window and sample: [windows, h, Nq, Nk] -> [B·windows, h, Nq, Nk]
        repeats = b.op("Concat", b.extent(x.qkv, 0), b.ints(1, 1, 1), axis=0)
        addend = b.op("Tile", addend, repeats)
    elif addend is not None:
        addend = b.op("Unsqueeze", addend, b.ints(0))
    optional = [] if addend is None else [addend]
    out = b.op("Attention", q, k, v, *optional, q_num_heads=heads, kv_num_heads=heads, scale=scale)
    return layout.merge(out, heads * value_size)


def _project(
    b: Builder, a: WindowAttentionAttributes, layout: _Layout, value_size: int
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """q, k and v, each `[B, windows, tokens, h·c]`."""
    width = a.num_heads * a.head_size
    tail = a.num_heads * value_size
    if not a.overlaps:
        q, k, v = b.split(layout.queries(layout.source()), [width, width, tail])
        return q, k, v
    q, rest = b.split(layout.source(), [width, width + tail])
    k, v = b.split(layout.keys(rest), [width, tail])
    return layout.queries(q), k, v


def _scaled(
    b: Builder, a: WindowAttentionAttributes, x: _Inputs, q: ir.Value, k: ir.Value, head_axis: int
) -> tuple[ir.Value, ir.Value]:
    """5-D q and k, channels last: normalised if asked for, q multiplied by scale and head_scale."""
    if a.qk_norm == "l2":
        q, k = (_normalised(b, part) for part in (q, k))
    if x.head_scale is not None:
        factor = b.op("Mul", x.head_scale, b.real(a.scale)) if a.scale != 1.0 else x.head_scale
        q = b.op("Mul", q, b.op("Unsqueeze", factor, b.ints(*range(1, 5 - head_axis))))
    elif a.scale != 1.0:
        q = b.op("Mul", q, b.real(a.scale))
    return q, k


def _normalised(b: Builder, x: ir.Value) -> ir.Value:
    x = b.cast(x, ir.DataType.FLOAT)
    norm = b.op("ReduceL2", x, b.ints(-1), keepdims=1)
    unit = b.op("Div", x, b.op("Max", norm, b.constant(np.float32(EPSILON))))
    return unit if b.dtype == ir.DataType.FLOAT else b.cast(unit, b.dtype)


def _addend(b: Builder, a: WindowAttentionAttributes, x: _Inputs, layout: _Layout) -> ir.Value | None:
    """What is added to the logits: bias `[h, Nq, Nk]`, or with region mask `[windows, h or 1, Nq, Nk]`."""
    if not a.has_mask:
        return x.bias
    if a.overlaps:
        mask = b.op("Where", layout.same_region(), b.real(0.0), b.real(a.mask_value))
        return mask if x.bias is None else b.op("Add", x.bias, mask)
    # A region ends inside a window only in the last row and the last column of windows, so there are four
    # masks. Bias and masks are constants: engines fold their sum, and the run only picks one per window.
    regions = b.constant(_regions_of_window(a))
    same = b.op("Equal", b.op("Unsqueeze", regions, b.ints(1, 3)), b.op("Unsqueeze", regions, b.ints(1, 2)))
    masks = b.op("Where", same, b.real(0.0), b.real(a.mask_value))
    if x.bias is not None:
        masks = b.op("Add", x.bias, masks)
    return b.op("Gather", masks, layout.kinds(), axis=0)


def _regions_of_window(a: WindowAttentionAttributes) -> np.ndarray[Any, Any]:
    """`[4, Nq]`: a region number per token of an inner, last-column, last-row and last window."""
    (wh, ww), (sh, sw) = a.window, a.shift
    row = (np.arange(wh) >= wh - sh).repeat(ww).astype(np.int64)
    column = np.tile(np.arange(ww) >= ww - sw, wh).astype(np.int64)
    return np.stack([0 * row, column, row, 2 * row + column])


class _Layout:
    """How tokens of the map go into windows and back; index arithmetic on a few small int64 tensors."""

    def __init__(self, b: Builder, a: WindowAttentionAttributes, x: _Inputs) -> None:
        self.b, self.a, self.x = b, a, x
        self.plain = not (a.has_shift or a.overlaps or a.pad != "none")
        self.pads = a.overlaps or a.pad != "none"
        self.size = [b.extent(x.qkv, axis) for axis in (1, 2)]
        self.padded = [self._padded(axis) for axis in range(2)]
        self.count = [b.op("Div", self.padded[axis], b.ints(a.window[axis])) for axis in range(2)]
        self.active = [self._active(axis) for axis in range(2)]
        self.shift = [self._shift(axis) for axis in range(2)]

    def source(self) -> ir.Value:
        """The map `[B, H, W, K]`, or as tokens `[B, H·W (+ pad token) (+ zero token), K]`."""
        b, x = self.b, self.x
        if self.plain:
            return x.qkv
        tokens = b.op("Reshape", x.qkv, b.op("Concat", b.ints(0, -1), b.extent(x.qkv, 3), axis=0))
        if not self.pads:
            return tokens
        row = b.op("Concat", b.extent(x.qkv, 0), b.ints(1), b.extent(x.qkv, 3), axis=0)
        zeros = b.op("Expand", b.real(0.0), row)
        extra = [zeros]
        if x.pad_value is not None and self.a.pad != "none":
            extra = [b.op("Expand", x.pad_value, row), *([zeros] if self.a.overlaps else [])]
        return b.op("Concat", tokens, *extra, axis=1)

    def queries(self, source: ir.Value) -> ir.Value:
        """`[B, windows, Nq, channels]` of a source."""
        b, (wh, ww) = self.b, self.a.window
        if self.plain:
            shape = b.op(
                "Concat", b.ints(0), self.count[0], b.ints(wh), self.count[1], b.ints(ww),
                b.extent(source, 3), axis=0,
            )  # fmt: skip
            x = b.op("Transpose", b.op("Reshape", source, shape), perm=[0, 1, 3, 2, 4, 5])
            shape = b.op("Concat", b.ints(0, -1, wh * ww), b.extent(source, 3), axis=0)
            return b.op("Reshape", x, shape)
        positions = [self._query_positions(axis) for axis in range(2)]
        return b.op("Gather", source, self._indices(positions, (wh, ww)), axis=1)

    def keys(self, source: ir.Value) -> ir.Value:
        """`[B, windows, Nk, channels]` of a source; only where key windows overlap."""
        return self.b.op("Gather", source, self._indices(self._key_positions(), self.a.kv_window), axis=1)

    def merge(self, windows: ir.Value, channels: int) -> ir.Value:
        """`[..windows.., Nq, ..channels..]` back to the map `[B, H, W, channels]`."""
        b, (wh, ww) = self.b, self.a.window
        if self.plain:
            shape = b.op("Concat", b.ints(-1), *self.count, b.ints(wh, ww, channels), axis=0)
            x = b.op("Transpose", b.op("Reshape", windows, shape), perm=[0, 1, 3, 2, 4, 5])
            shape = b.op("Concat", b.op("Shape", self.x.qkv, end=3), b.ints(channels), axis=0)
            return b.op("Reshape", x, shape)
        shape = b.op("Concat", b.extent(self.x.qkv, 0), b.ints(-1, channels), axis=0)
        tokens = b.op("Reshape", windows, shape)
        terms = []
        area = b.ints(wh * ww)
        for axis, (across, inside) in enumerate(((b.op("Mul", self.count[1], area), ww), (area, 1))):
            rolled = self._modulo(b.range(self.size[axis]), axis, "Sub")
            window = b.ints(self.a.window[axis])
            term = b.op("Mul", b.op("Div", rolled, window), across)
            offset = b.op("Mod", rolled, window)
            if inside != 1:
                offset = b.op("Mul", offset, b.ints(inside))
            terms.append(b.op("Add", term, offset))
        index = b.op("Add", b.op("Unsqueeze", terms[0], b.ints(1)), terms[1])
        return b.op("Gather", tokens, index, axis=1)

    def kinds(self) -> ir.Value:
        """`[windows]`: 0 inside, + 1 in the last column, + 2 in the last row, where that axis is shifted."""
        b = self.b
        flags = []
        for axis, weight in ((0, 2), (1, 1)):
            last = b.op("Sub", self.count[axis], b.ints(1))
            flag = b.cast(b.op("Equal", b.range(self.count[axis]), last), ir.DataType.INT64)
            active = self.active[axis]
            if active is not None:
                flag = b.op("Mul", flag, active)
            flags.append(b.op("Mul", flag, b.ints(weight)) if weight != 1 else flag)
        both = b.op("Add", b.op("Unsqueeze", flags[0], b.ints(1)), flags[1])
        return b.op("Reshape", both, b.ints(-1))

    def same_region(self) -> ir.Value:
        """`[windows, 1, Nq, Nk]`, for windows of any overlap."""
        b, a = self.b, self.a
        same = []
        for axis, keys in enumerate(self._key_positions()):
            query, key = self._region(self._query_positions(axis), axis), self._region(keys, axis)
            same.append(b.op("Equal", b.op("Unsqueeze", query, b.ints(2)), b.op("Unsqueeze", key, b.ints(1))))
        rows = b.op("Unsqueeze", same[0], b.ints(1, 3, 5))
        columns = b.op("Unsqueeze", same[1], b.ints(0, 2, 4))
        return b.op("Reshape", b.op("And", rows, columns), b.ints(-1, 1, a.query_tokens, a.key_tokens))

    def _padded(self, axis: int) -> ir.Value:
        b, multiple = self.b, self.a.pad_to[axis]
        if self.a.pad == "none":
            return self.size[axis]
        up = b.op("Add", self.size[axis], b.ints(multiple - 1))
        return b.op("Mul", b.op("Div", up, b.ints(multiple)), b.ints(multiple))

    def _active(self, axis: int) -> ir.Value | None:
        """1 if the axis is shifted at this size, else 0; None if that does not depend on the size."""
        b, rule = self.b, self.a.shift_when_single
        if rule == "keep" or not self.a.shift[axis]:
            return None
        counts = self.count if rule == "drop_both" else [self.count[axis]]
        return b.op("Min", *(b.op("Sub", count, b.ints(1)) for count in counts), b.ints(1))

    def _shift(self, axis: int) -> ir.Value | None:
        if not self.a.shift[axis]:
            return None
        shift, active = self.b.ints(self.a.shift[axis]), self.active[axis]
        return shift if active is None else self.b.op("Mul", shift, active)

    def _modulo(self, positions: ir.Value, axis: int, direction: str) -> ir.Value:
        """Positions of the map rolled back (`Add`: rolled to source) or forth (`Sub`: source to rolled)."""
        shift = self.shift[axis]
        if shift is None:
            return positions
        modulus = self.size[axis] if self.a.pad == "after_roll" else self.padded[axis]
        return self.b.op("Mod", self.b.op(direction, positions, shift), modulus)

    def _sources(self, positions: ir.Value, axis: int) -> ir.Value:
        """Row or column of the map; the map's size or more for a pad token, `_OUTSIDE` for no token."""
        b, a = self.b, self.a
        source = self._modulo(positions, axis, "Add")
        if a.pad == "after_roll" and self.shift[axis] is not None:
            source = b.op("Where", b.op("Less", positions, self.size[axis]), source, self.size[axis])
        if a.overlaps:
            start = b.op("GreaterOrEqual", positions, b.ints(0))
            end = b.op("Less", positions, self.padded[axis])
            source = b.op("Where", b.op("And", start, end), source, b.ints(_OUTSIDE))
        return source

    def _indices(self, positions: list[ir.Value], window: Pair) -> ir.Value:
        """`[windows, tokens]` into the source's tokens, from rolled positions `[count, window]` per axis."""
        b, a = self.b, self.a
        rows, columns = (self._sources(positions[axis], axis) for axis in range(2))
        tokens = b.op("Mul", *self.size)
        rows = b.op("Mul", rows, self.size[1])
        if self.pads:
            past = b.op("Max", columns, tokens)
            columns = b.op("Where", b.op("Less", columns, self.size[1]), columns, past)
        index = b.op("Add", b.op("Unsqueeze", rows, b.ints(1, 3)), b.op("Unsqueeze", columns, b.ints(0, 2)))
        index = b.op("Reshape", index, b.ints(-1, window[0] * window[1]))
        if not self.pads:
            return index
        token = b.op("Min", index, tokens)
        if a.overlaps and a.pad != "none" and self.x.pad_value is not None:
            zero = b.op("Add", tokens, b.ints(1))
            token = b.op("Where", b.op("Less", index, b.ints(_OUTSIDE)), token, zero)
        return token

    def _query_positions(self, axis: int) -> ir.Value:
        """`[count, window]` in the rolled map; Reshape fails if the map is no multiple of the window."""
        b = self.b
        shape = b.op("Concat", self.count[axis], b.ints(self.a.window[axis]), axis=0)
        return b.op("Reshape", b.range(self.padded[axis]), shape)

    def _key_positions(self) -> list[ir.Value]:
        """`[count, key window]` per axis, in the rolled map; negative or past its end outside."""
        b, a = self.b, self.a
        positions = []
        for axis, (window, kv) in enumerate(zip(a.window, a.kv_window, strict=True)):
            starts = b.op("Mul", b.range(self.count[axis]), b.ints(window))
            offsets = b.ints(*(offset - (kv - window) // 2 for offset in range(kv)))
            positions.append(b.op("Add", b.op("Unsqueeze", starts, b.ints(1)), offsets))
        return positions

    def _region(self, positions: ir.Value, axis: int) -> ir.Value:
        b = self.b
        shift = self.shift[axis]
        if shift is None:
            return b.op("Mul", positions, b.ints(0))
        steps = [
            b.cast(b.op("GreaterOrEqual", positions, b.op("Sub", self.padded[axis], step)), ir.DataType.INT64)
            for step in (b.ints(self.a.window[axis]), shift)
        ]
        region, active = b.op("Add", *steps), self.active[axis]
        return region if active is None else b.op("Mul", region, active)
