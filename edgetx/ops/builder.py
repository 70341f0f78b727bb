"""Building of function bodies, node by node; what the operators' `bodies` share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgetx.ops.operator import DOMAIN


class Builder:
    """Collects a function's nodes; equal constants and equal extents are emitted once."""

    def __init__(self, dtype: ir.DataType) -> None:
        self.dtype = dtype
        self.nodes: list[ir.Node] = []
        self._known: dict[Any, ir.Value] = {}

    def function(
        self, name: str, inputs: Sequence[ir.Value], result: ir.Value, key: Any, opset: int
    ) -> ir.Function:
        """The body of operator `name`; its `overload` is a short hash of `key`, whatever JSON can hold."""
        result.name = "out"
        text = json.dumps(key, sort_keys=True)
        return ir.Function(
            DOMAIN,
            name,
            hashlib.sha256(text.encode()).hexdigest()[:12],
            graph=ir.Graph(inputs, [result], nodes=self.nodes, opset_imports={"": opset}),
            attributes=[],
        )

    def op(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """The output of a new node."""
        return self._emit(op_type, inputs, attributes, 1)[0]

    def split(self, x: ir.Value, sizes: list[int], axis: int = -1) -> tuple[ir.Value, ...]:
        """`x` cut into parts of these sizes."""
        return self._emit("Split", (x, self.ints(*sizes)), {"axis": axis}, len(sizes))

    def cast(self, x: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`x` as another dtype."""
        return self.op("Cast", x, to=int(dtype))

    def constant(self, value: Any, dtype: ir.DataType | None = None) -> ir.Value:
        """What numpy makes of `value`, or an array of `dtype`."""
        array = np.asarray(value) if dtype is None else np.asarray(value).astype(dtype.numpy())
        key = (array.dtype.str, array.shape, array.tobytes(), dtype)
        if key not in self._known:
            self._known[key] = self.op("Constant", value=ir.tensor(array))
        return self._known[key]

    def ints(self, *values: int) -> ir.Value:
        """A 1-D int64 constant."""
        return self.constant(np.array(values, np.int64))

    def real(self, value: float) -> ir.Value:
        """A scalar of the tensors' dtype."""
        return self.constant(value, self.dtype)

    def extent(self, x: ir.Value, axis: int) -> ir.Value:
        """`[1]`, the size of one axis."""
        key = ("extent", id(x), axis)
        if key not in self._known:
            self._known[key] = self.op("Shape", x, start=axis, end=axis + 1)
        return self._known[key]

    def range(self, count: ir.Value) -> ir.Value:
        """0 .. count - 1 for a `[1]` tensor."""
        key = ("range", id(count))
        if key not in self._known:
            zero, one = (self.constant(np.int64(value)) for value in (0, 1))
            self._known[key] = self.op("Range", zero, self.op("Squeeze", count), one)
        return self._known[key]

    def _emit(
        self, op_type: str, inputs: tuple[ir.Value, ...], attributes: dict[str, Any], outputs: int
    ) -> tuple[ir.Value, ...]:
        values = [ir.Value(name=f"v{len(self.nodes)}_{index}") for index in range(outputs)]
        node = ir.node(op_type, inputs, attributes, outputs=values)
        self.nodes.append(node)
        return tuple(values)
