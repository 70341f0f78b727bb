"""The matrix products that may be quantised, and how their numbers become 8-bit ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from edgetx.fusion import MODULE_KEY

Precision = Literal["int8", "fp8"]

LARGEST: dict[Precision, float] = {"int8": 127.0, "fp8": 448.0}
"""The largest magnitude of a code: -128 is left out, so that negative and positive numbers have equal steps;
E4M3FN has no infinity and ends at 448."""
SMALLEST_WEIGHT = 1024
"""Products with fewer weights stay as they are: quantising their input costs more than it saves."""


@dataclass(frozen=True)
class Layer:
    """A `MatMul` of a float32 activation with constant weights `[k, n]`.

    Attributes:
        node: the node's name.
        module: the PyTorch module that it belongs to; `""` for the model itself.
        activation: the name of the left operand.
        weights: float32 `[k, n]`.
    """

    node: str
    module: str
    activation: str
    weights: np.ndarray[Any, Any]


def unpack_gemms(graph: ir.Graph) -> None:
    """Write every plain `Gemm` with constant weights as `MatMul` and `Add`.

    ONNX Runtime quantises a `Gemm` only if its output is 8-bit too; a `MatMul` gives float32.
    """
    for node in list(graph):
        if node.op_type != "Gemm" or node.domain or not _is_weight(node.inputs[1]):
            continue
        attributes = node.attributes
        plain = attributes.get_float("alpha", 1.0) == 1.0 and attributes.get_float("beta", 1.0) == 1.0
        if not plain or attributes.get_int("transA"):
            continue
        x, weight = node.inputs[:2]
        assert weight is not None and weight.const_value is not None
        if attributes.get_int("transB"):
            turned = np.ascontiguousarray(weight.const_value.numpy().T)
            weight = constant(graph, f"{node.name}_weight", turned)
        product = ir.node("MatMul", (x, weight), name=f"{node.name}_product")
        out, last = node.outputs[0], product
        product.outputs[0].name = f"{out.name}_product"
        made = [product]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            last = ir.node("Add", (product.outputs[0], node.inputs[2]), name=f"{node.name}_bias")
            made.append(last)
        for each in made:
            each.metadata_props.update(node.metadata_props)
            each.outputs[0].shape, each.outputs[0].type = out.shape, out.type
        replace(node, made, last.outputs[0])


def find(graph: ir.Graph) -> list[Layer]:
    """The products that may be quantised, in graph order."""
    found = []
    for node in graph:
        if node.op_type != "MatMul" or node.domain or not _is_weight(node.inputs[1]):
            continue
        x, weight = node.inputs
        if x is None or x.dtype != ir.DataType.FLOAT or x.is_initializer() or x.name is None:
            continue
        assert weight is not None and weight.const_value is not None
        weights = weight.const_value.numpy()
        if weights.size >= SMALLEST_WEIGHT and np.isfinite(weights).all():
            module = node.metadata_props.get(MODULE_KEY, "").split("|")[0]
            found.append(Layer(node.name or "", module, x.name, weights))
    return found


def _is_weight(value: ir.Value | None) -> bool:
    return (
        value is not None
        and value.is_initializer()
        and value.const_value is not None
        and value.dtype == ir.DataType.FLOAT
        and len(value.const_value.shape) == 2
    )


def replace(node: ir.Node, made: list[ir.Node], out: ir.Value) -> None:
    """Put `made`, whose last value is `out`, in the place of a node with one output."""
    graph, old = node.graph, node.outputs[0]
    assert graph is not None
    graph.insert_before(node, made)
    name, old.name = old.name, f"{old.name}_float"
    out.name = name
    ir.convenience.replace_all_uses_with(old, out, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def constant(graph: ir.Graph, name: str, array: Any, dtype: ir.DataType | None = None) -> ir.Value:
    """An initializer; one that has this name already is taken."""
    if name not in graph.initializers:
        tensor = ir.tensor(array, dtype=dtype, name=name)
        graph.register_initializer(ir.val(name, const_value=tensor))
    return graph.initializers[name]


def code_dtype(precision: Precision) -> Any:
    """The numpy dtype of the 8-bit numbers."""
    import ml_dtypes

    return np.dtype(np.int8) if precision == "int8" else np.dtype(ml_dtypes.float8_e4m3fn)


def quantize_weights(
    weights: np.ndarray[Any, Any], precision: Precision
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Symmetric, a scale per output channel: 8-bit `[k, n]` and float32 `[n]`; their product is `weights`."""
    largest = np.abs(weights).max(axis=0)
    scale = np.where(largest > 0, largest / LARGEST[precision], 1.0).astype(np.float32)
    codes = weights / scale
    if precision == "int8":
        codes = np.clip(np.rint(codes), -127, 127)
    return codes.astype(code_dtype(precision)), scale


def activation_scale(largest: float, precision: Precision) -> np.float32:
    """Symmetric, one scale per tensor, as TensorRT takes it."""
    return np.float32(largest / LARGEST[precision] if largest > 0 else 1.0)
