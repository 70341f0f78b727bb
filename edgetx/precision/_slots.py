"""Which inputs and outputs of a node become float16, by the operator's schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from edgetx import ops

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16

MOVES = frozenset(
    (
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Reshape",
        "Shape",
        "Size",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    )
)
"""Operators that compute nothing: they take the precision of what is around them."""

EXACT = {
    "Range": "counts",
    "CumSum": "counts",
    "GridSample": "takes positions",
    "RoiAlign": "takes positions",
    "NonMaxSuppression": "takes positions",
    "QuantizeLinear": "takes scales of integers",
    "DequantizeLinear": "takes scales of integers",
    "DynamicQuantizeLinear": "takes scales of integers",
    "CastLike": "takes its type from another tensor",
}
"""Operators that stay in float32 whatever the values are, and what they do."""

_OUTPUT_ATTRIBUTE = ("Cast", "ConstantOfShape")
"""An attribute of theirs says what type the output has."""


@dataclass(frozen=True, slots=True)
class Slots:
    """The positions of a node's inputs and outputs that are float32 and may be float16."""

    inputs: frozenset[int]
    outputs: frozenset[int]


def touches_float(node: ir.Node) -> bool:
    """Whether an input or output is float32."""
    return any(is_float(value) for value in (*node.inputs, *node.outputs))


def is_float(value: ir.Value | None) -> bool:
    """Whether it is there and float32."""
    return value is not None and value.dtype == FLOAT


def has_graphs(node: ir.Node) -> bool:
    """Whether it is an If, a Loop or the like."""
    return any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for attribute in node.attributes.values()
    )


def slots_of(node: ir.Node, opset: int) -> Slots | str:
    """What of a node may be float16, or why nothing may."""
    if has_graphs(node):
        return "its subgraphs stay in float32"
    if node.domain == ops.DOMAIN:
        return Slots(_floats(node.inputs), _floats(node.outputs))
    if node.domain:
        return f"belongs to the domain {node.domain}, whose types are not known"
    if node.op_type in EXACT:
        return EXACT[node.op_type]
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    able = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if {"tensor(float)", "tensor(float16)"} <= set(constraint.allowed_type_strs)
    }
    inputs = {
        index: kind
        for index, kind in enumerate(_types(schema.inputs, len(node.inputs)))
        if is_float(node.inputs[index]) and kind in able
    }
    bound = set(able) if node.op_type in _OUTPUT_ATTRIBUTE else set(inputs.values())
    outputs = {
        index
        for index, kind in enumerate(_types(schema.outputs, len(node.outputs)))
        if is_float(node.outputs[index]) and kind in bound
    }
    if not inputs and not outputs:
        return "takes no float16"
    return Slots(frozenset(inputs), frozenset(outputs))


def set_output_type(node: ir.Node) -> None:
    """Make float16 of what `Cast` and `ConstantOfShape` give."""
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", int(HALF))
    elif node.op_type == "ConstantOfShape":
        given = node.attributes.get("value")
        value = 0.0 if given is None else given.as_tensor().numpy().item()
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor([value], dtype=HALF))


def _floats(values: Sequence[ir.Value | None]) -> frozenset[int]:
    return frozenset(index for index, value in enumerate(values) if is_float(value))


def _types(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], count: int) -> list[str]:
    """The type variable of each of `count` arguments; the last parameter may stand for several."""
    names = [parameter.type_str for parameter in parameters[:count]]
    return names + names[-1:] * (count - len(names))
