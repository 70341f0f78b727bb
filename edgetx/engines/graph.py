"""The graph as an engine's parser takes it: standard operators only, without functions (needs onnx_ir).

Bodies are attached and then inlined, because TensorRT-RTX 1.7 does not tell functions apart by their
`overload`: it takes the first body of an operator for all of its nodes, without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from edgetx.engines import sizes
from edgetx.ops import DOMAIN, OPERATORS, Variant, attach_bodies

MODULE_KEY = "edgetx.module"
"""Node metadata that `edgetx.fusion` writes: the PyTorch modules that a node stands for."""

NAMED = 5
"""Nodes of one operator that a message names."""


class Refusal(NamedTuple):
    """An operator that an engine does not take, why, and where it stands."""

    operator: str
    reason: str
    places: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {len(self.places) - NAMED} more" if len(self.places) > NAMED else ""
        return f"{self.operator} ({self.reason}) at {', '.join(self.places[:NAMED])}{more}"


OPERATOR_KEY = "edgetx.operator"
"""Node metadata: the operator of ours that a node of its body stands for."""


def standard(path: Path, variant: Variant, plugins: Collection[str] = ()) -> ir.Model:
    """The model with the bodies of `variant` in place of edgetx's operators; weights stay in their file.

    Operators named in `plugins` stay nodes, without a body. Every node has a name of its own, and knows the
    operator and the PyTorch module that it stands for.

    Raises:
        ExportError: see `edgetx.ops.Operator.attach_bodies`.
    """
    model = ir.load(path)
    attach_bodies(model, variant)
    for operator in OPERATORS:
        if operator.name in plugins:
            operator.strip_bodies(model)
    for node in model.graph:
        if node.domain == DOMAIN:
            node.metadata_props[OPERATOR_KEY] = node.op_type
    model = InlinePass()(model).model
    for node in [each for each in model.graph if each.op_type == "Attention" and each.domain == ""]:
        _expand(model.graph, node)
    sizes.share(model)
    taken: set[str] = set()
    for index, node in enumerate(ir.traversal.RecursiveGraphIterator(model.graph)):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}_{index}"
        taken.add(node.name)
    return model


def _expand(graph: ir.Graph, node: ir.Node) -> None:
    """Write `Attention` (opset 23) as products where values have another width than queries and keys.

    TensorRT-RTX 1.7 takes equal widths only. Nodes with a cache, a soft cap or packed heads stay.
    """
    inputs = (*node.inputs, None, None)[: max(4, len(node.inputs))]
    query, key, value, mask = inputs[:4]
    widths = [_width(each) for each in (query, key, value)]
    plain = all(name == "scale" or not each.value for name, each in node.attributes.items())
    if None in widths or widths[0] == widths[2] or any(inputs[4:]) or len(node.outputs) > 1 or not plain:
        return
    assert query is not None and widths[0] is not None and query.dtype is not None
    number = query.dtype.numpy()
    made: list[ir.Node] = []

    def op(kind: str, *values: ir.Value | None, **attributes: Any) -> ir.Value:
        made.append(ir.node(kind, values, attributes))
        return made[-1].outputs[0]

    def constant(data: float) -> ir.Value:
        return op("Constant", value=ir.tensor(np.asarray(data, number)))

    scale = node.attributes.get_float("scale", widths[0] ** -0.5)
    logits = op("MatMul", op("Mul", query, constant(scale)), op("Transpose", key, perm=[0, 1, 3, 2]))
    if mask is not None:
        allowed = mask.dtype == ir.DataType.BOOL
        added = op("Where", mask, constant(0.0), constant(-np.inf)) if allowed else mask
        logits = op("Add", logits, added)
    out = op("MatMul", op("Softmax", logits, axis=-1), value)
    for index, each in enumerate(made):
        each.name = f"{node.name}_{index}_{each.op_type}"
        each.metadata_props.update(node.metadata_props)
        each.outputs[0].name = f"{node.outputs[0].name}.product{index}"
    out.type, out.shape = node.outputs[0].type, node.outputs[0].shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], made, node.outputs, [out])


def _width(value: ir.Value | None) -> int | None:
    """The last of four dimensions, if it is known."""
    if value is None or value.shape is None or len(value.shape) != 4:
        return None
    return value.shape[3] if isinstance(value.shape[3], int) else None


def made_for(model: ir.Model) -> dict[str, tuple[str | None, str]]:
    """Name of each node of a `standard` graph -> PyTorch module (None where unknown) and kind of operator.

    The nodes of a body are of the kind of edgetx's operator, as `edgetx::WindowAttention`.
    """
    found: dict[str, tuple[str | None, str]] = {}
    for node in model.graph:
        module = node.metadata_props.get(MODULE_KEY)
        operator = node.metadata_props.get(OPERATOR_KEY)
        kind = f"{DOMAIN}::{operator}" if operator is not None else node.op_type
        found[str(node.name)] = (None if module is None else module.split("|")[0], kind)
    return found


def save(model: ir.Model, path: Path) -> None:
    """Write the model, its weights into a file beside it."""
    ir.save(model, path, external_data=f"{path.name}.data")


def serialize(model: ir.Model) -> bytes:
    """The model as ONNX; weights in a file of their own stay there, relative to the model's path."""
    return bytes(ir.to_proto(model).SerializeToString())


def constant(value: ir.Value | None) -> int | None:
    """The largest number of a constant, or None where the value is not constant."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else int(tensor.numpy().max())


def refusals(model: ir.Model, why_not: Callable[[ir.Node], str | None]) -> list[Refusal]:
    """The nodes for which `why_not` gives a reason, by operator and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if (reason := why_not(node)) is not None:
            found.setdefault((node.op_type, reason), []).append(place(node))
    return [Refusal(operator, reason, tuple(places)) for (operator, reason), places in found.items()]


def place(node: ir.Node) -> str:
    """A node's name and the PyTorch module that it belongs to."""
    module = node.metadata_props.get(MODULE_KEY, "").strip("|")
    return f"{node.name} in {module}" if module else str(node.name)


def mentioned(model: ir.Model, text: str) -> Iterator[ir.Node]:
    """The nodes whose names stand in a message, longest name first."""
    nodes = [node for node in model.graph if node.name and node.name in text]
    yield from sorted(nodes, key=lambda node: -len(node.name or ""))
