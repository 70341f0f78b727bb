"""Neighbouring standard operators of a traced graph become one edgetx operator that moves fewer bytes.

    BiasGelu   gelu(x + bias)
    AddNorm    s = x + (branch + bias);  n = LayerNorm(s)          pre-norm residual: s and n are both used;
                                                                   a branch without bias gets zeros
    NormAdd    x + LayerNorm(branch + bias)                        post-norm residual

Each rule starts at the last node of its pattern and leaves the graph alone unless every condition holds: the
bias, scale and shift are constant vectors over the last axis, the residual is added without broadcasting, and
no value that would disappear is used elsewhere. The functions that stand behind the operators (`Operator.
attach_bodies`) are the same standard operators again, for engines without our kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgetx.ops import DOMAIN, VERSION

MODULE_KEY = "edgetx.module"
"""Node metadata: for each output, the dotted path of the PyTorch module that computed it, joined by `|`."""

PARTIAL_KEY = "edgetx.partial"
"""Node metadata: modules whose output exists only inside the node, joined by `|`."""


def fuse(model: ir.Model) -> None:
    """Apply every rule to `model`, whose values must have shapes and dtypes, in place."""
    for node in list(model.graph):
        if node.graph is None:  # already part of a fused node
            continue
        if node.op_type == "Gelu":
            _bias_gelu(node)
        elif node.op_type == "LayerNormalization":
            _ = _add_norm(node) or _norm_add(node)
    model.opset_imports[DOMAIN] = VERSION


def _bias_gelu(gelu: ir.Node) -> bool:
    approximate = gelu.attributes.get("approximate")
    if approximate is not None and approximate.as_string() != "none":
        return False
    parts = _biased(gelu.inputs[0])
    if parts is None or not _only_used_by(gelu.inputs[0], gelu):
        return False
    add, x, bias = parts
    _replace([add, gelu], "BiasGelu", [x, bias], [gelu.outputs[0]], [])
    return True


def _add_norm(norm: ir.Node) -> bool:
    vectors = _norm_vectors(norm)
    total = norm.inputs[0]
    residual = _added_without_broadcasting(total)
    if vectors is None or residual is None or total is None:
        return False
    add, left, right = residual
    for x, branch in ((left, right), (right, left)):
        parts = _biased(branch)
        if parts is not None and _only_used_by(branch, add):
            bias_add, unbiased, bias = parts
            inputs = [x, unbiased, bias, *vectors]
            _replace([bias_add, add, norm], "AddNorm", inputs, [total, norm.outputs[0]], [_epsilon(norm)])
            return True
    inputs = [left, right, _zeros(vectors[0]), *vectors]
    _replace([add, norm], "AddNorm", inputs, [total, norm.outputs[0]], [_epsilon(norm)])
    return True


def _norm_add(norm: ir.Node) -> bool:
    vectors = _norm_vectors(norm)
    parts = _biased(norm.inputs[0])
    users = list(norm.outputs[0].uses())
    if vectors is None or parts is None or len(users) != 1 or not _only_used_by(norm.inputs[0], norm):
        return False
    residual = _added_without_broadcasting(users[0][0].outputs[0])
    if residual is None or not _only_used_by(norm.outputs[0], users[0][0]):
        return False
    add, left, right = residual
    x = right if left is norm.outputs[0] else left
    bias_add, branch, bias = parts
    _replace(
        [bias_add, norm, add], "NormAdd", [x, branch, bias, *vectors], [add.outputs[0]], [_epsilon(norm)]
    )
    return True


def _biased(value: ir.Value | None) -> tuple[ir.Node, ir.Value, ir.Value] | None:
    """The Add, its data and its constant bias over the last axis, where `value` is such a sum."""
    add = None if value is None else value.producer()
    if add is None or add.op_type != "Add" or add.domain:
        return None
    for x, bias in ((add.inputs[0], add.inputs[1]), (add.inputs[1], add.inputs[0])):
        if x is not None and x.shape is not None and len(x.shape) > 1 and _is_vector(bias, x.shape[-1]):
            assert bias is not None
            return add, x, bias
    return None


def _added_without_broadcasting(value: ir.Value | None) -> tuple[ir.Node, ir.Value, ir.Value] | None:
    add = None if value is None else value.producer()
    if add is None or add.op_type != "Add" or add.domain:
        return None
    left, right = add.inputs
    if left is None or right is None or left.shape is None or right.shape is None:
        return None
    known = all(isinstance(dim, int) or dim.value is not None for dim in left.shape)
    return (add, left, right) if known and left.shape == right.shape else None


def _norm_vectors(norm: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Scale and shift of a LayerNormalization over the last axis with one output."""
    x = norm.inputs[0]
    if x is None or x.shape is None or len(norm.inputs) != 3 or len(norm.outputs) != 1:
        return None
    axis = norm.attributes.get("axis")
    if axis is not None and axis.as_int() not in (-1, len(x.shape) - 1):
        return None
    scale, shift = norm.inputs[1], norm.inputs[2]
    if (
        scale is None
        or shift is None
        or not (_is_vector(scale, x.shape[-1]) and _is_vector(shift, x.shape[-1]))
    ):
        return None
    return scale, shift


def _epsilon(norm: ir.Node) -> ir.Attr:
    given = norm.attributes.get("epsilon")
    return ir.AttrFloat32("epsilon", 1e-5 if given is None else given.as_float())


def _zeros(like: ir.Value) -> ir.Value:
    """The bias of a branch that has none: a vector of zeros, one for all nodes of its size and dtype."""
    graph, dtype = like.graph, like.dtype
    assert graph is not None and like.shape is not None and dtype is not None
    name = f"edgetx.zeros_{like.shape[0]}_{dtype.name.lower()}"
    if name not in graph.initializers:
        zeros = ir.tensor(np.zeros(like.shape.numpy(), dtype.numpy()), dtype=dtype, name=name)
        graph.register_initializer(ir.val(name, const_value=zeros))
    return graph.initializers[name]


def _is_vector(value: ir.Value | None, size: object) -> bool:
    return (
        value is not None
        and value.is_initializer()
        and value.shape is not None
        and isinstance(size, int)
        and tuple(value.shape) == (size,)
    )


def _only_used_by(value: ir.Value | None, node: ir.Node) -> bool:
    return value is not None and not value.is_graph_output() and {user for user, _ in value.uses()} == {node}


def _replace(
    nodes: Sequence[ir.Node],
    op_type: str,
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    attributes: Sequence[ir.Attr],
) -> None:
    """Put one operator in the place of `nodes`, in graph order, whose surviving values are `outputs`."""
    last = nodes[-1]
    graph = last.graph
    assert graph is not None
    scopes = [_scope(value) for value in outputs]
    kept = {ancestor for scope in scopes for ancestor in ancestors(scope)}
    inside = {ancestor for node in nodes for ancestor in ancestors(_scope(node.outputs[0]))} - kept
    fused = ir.Node(
        DOMAIN,
        op_type,
        inputs,
        [*attributes, ir.AttrString("plugin_namespace", DOMAIN)],
        num_outputs=len(outputs),
        version=VERSION,
        name=f"{op_type}_{last.name}",
    )
    fused.metadata_props[MODULE_KEY] = "|".join(scopes)
    if inside:
        fused.metadata_props[PARTIAL_KEY] = "|".join(sorted(inside))
    # Every input of the pattern precedes its first node, which is not so for its last node's other users.
    graph.insert_before(nodes[_earliest_safe(nodes, outputs)], fused)
    for old, new in zip(outputs, fused.outputs, strict=True):
        new.name, new.shape, new.type = old.name, old.shape, old.type
        old.name = f"{old.name}_fused"
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    for node in reversed(nodes):
        graph.remove(node, safe=True)


def _earliest_safe(nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> int:
    """Where the fused node goes: before the node that makes the first surviving value.

    All inputs exist there except constants, which live outside the order: the earlier nodes of the pattern
    only add a bias.
    """
    return min(index for index, node in enumerate(nodes) if any(value in outputs for value in node.outputs))


def _scope(value: ir.Value) -> str:
    node = value.producer()
    return "" if node is None else node.metadata_props.get(MODULE_KEY, "")


def ancestors(scope: str) -> list[str]:
    """`a.b.c` -> `a`, `a.b`, `a.b.c`; nothing for the whole model."""
    parts = scope.split(".") if scope else []
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
