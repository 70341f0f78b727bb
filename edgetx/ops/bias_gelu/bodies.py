"""The operator in standard operators; both variants are the same."""

from __future__ import annotations

import onnx_ir as ir

from edgetx.ops import rows
from edgetx.ops.bias_gelu.attributes import INPUTS, why_not
from edgetx.ops.operator import DOMAIN, Variant


def body_of_node(node: ir.Node, variant: Variant, opset: int) -> ir.Function:
    """The body for one node of a model.

    Raises:
        ExportError: a missing input, or shapes that do not fit together.
    """
    rows.check_node(node, INPUTS, lambda shapes: why_not(None, shapes))
    values = [ir.Value(name=name) for name in INPUTS]
    add = ir.node("Add", values)
    gelu = ir.node("Gelu", add.outputs, {"approximate": "none"})
    add.outputs[0].name, gelu.outputs[0].name = "biased", "y"
    graph = ir.Graph(values, gelu.outputs, nodes=[add, gelu], opset_imports={"": opset})
    return ir.Function(DOMAIN, "BiasGelu", "exact", graph=graph, attributes=[])
