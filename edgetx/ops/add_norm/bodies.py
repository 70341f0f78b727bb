"""AddNorm and NormAdd in standard operators; both variants are the same."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgetx.ops import rows
from edgetx.ops.add_norm.attributes import INPUTS, AddNormAttributes, why_not
from edgetx.ops.operator import DOMAIN, Variant


def body_of_node(node: ir.Node, variant: Variant, opset: int) -> ir.Function:
    """The body for one node of a model, AddNorm or NormAdd.

    Raises:
        ExportError: a missing input, or shapes that do not fit together.
        InputError: epsilon is missing or negative.
    """
    attributes = AddNormAttributes.from_onnx(node)
    rows.check_node(node, INPUTS, lambda shapes: why_not(attributes, shapes))
    values = [ir.Value(name=name) for name in INPUTS]
    x, branch, bias, scale, shift = values
    nodes: list[ir.Node] = []

    def op(name: str, inputs: Sequence[ir.Value], output: str, **given: float) -> ir.Value:
        nodes.append(ir.node(name, inputs, given))
        nodes[-1].outputs[0].name = output
        return nodes[-1].outputs[0]

    biased = op("Add", [branch, bias], "biased")
    norm = {"axis": -1, "epsilon": attributes.epsilon}
    if node.op_type == "AddNorm":
        total = op("Add", [x, biased], "sum")
        outputs = [total, op("LayerNormalization", [total, scale, shift], "norm", **norm)]
    else:
        normed = op("LayerNormalization", [biased, scale, shift], "normed", **norm)
        outputs = [op("Add", [x, normed], "out")]
    graph = ir.Graph(values, outputs, nodes=nodes, opset_imports={"": opset})
    overload = f"epsilon_{attributes.epsilon.hex()}"
    return ir.Function(DOMAIN, node.op_type, overload, graph=graph, attributes=[])
