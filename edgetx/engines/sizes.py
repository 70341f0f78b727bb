"""Sizes that are written the same are computed once (needs onnx_ir).

The body of every attention computes where its windows begin from the sizes of its own input. Blocks of one
stage have inputs of one size, and PyTorch's exporter says so: a symbol has one value in the whole graph.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass


def share(model: ir.Model) -> None:
    """Compute what depends on equal sizes once; what the model gives stays the same."""
    first: dict[tuple[str, ...], ir.Node] = {}
    for node in list(model.graph):
        sizes = _sizes(node)
        if sizes is None:
            continue
        kept = first.setdefault(sizes, node)
        if kept is not node and not node.outputs[0].is_graph_output():
            ir.convenience.replace_all_uses_with(node.outputs[0], kept.outputs[0])
            model.graph.remove(node, safe=True)
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)


def _sizes(node: ir.Node) -> tuple[str, ...] | None:
    """The sizes that a `Shape` node gives, as they are written; None if one has no name."""
    if node.op_type != "Shape" or node.domain != "" or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    dims = node.inputs[0].shape.dims
    dims = dims[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(dims))]
    known = [dim if isinstance(dim, int) else dim.value for dim in dims]
    return None if None in known else tuple(map(str, known))
