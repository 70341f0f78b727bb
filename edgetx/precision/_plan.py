"""Which nodes compute in float16, and why the others do not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from edgetx import ops
from edgetx.precision._observe import Observed, Ranges
from edgetx.precision._slots import MOVES, Slots, is_float, slots_of, touches_float

LARGEST = 65504.0
"""Float16's largest finite number."""
SAFETY = 8.0
"""Other inputs may give values so many times as large as the golden ones: three bits of the exponent."""
LOST = 2.0**-10
"""Accepted rounding error of a tensor, relative, root mean square; numbers in float16's normal range lose
less than 2^-11, so more means that the tensor's bulk lies below 2^-14, on its way to zero."""
TERMS = 2048
"""Elements that a reduction may add up: beyond 2^11 equal terms, a float16 sum no longer changes."""

_GUARDED = frozenset(("Div", "Reciprocal", "Log", "Pow"))
_PASSES_GUARD = MOVES | {"Sqrt", "Max", "Clip", "Abs"}
_GROWING = MOVES | {"Cast", "MatMul", "Gemm", "ReduceSum", "Concat", "Where"}
_GROWING |= {"Abs", "Add", "Clip", "Div", "Max", "Mul", "Neg", "Pow", "Sqrt", "Sub"}
_SCATTERS = frozenset(("ScatterElements", "ScatterND"))
_LEARNED = frozenset(("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "Attention"))
_INTEGERS = frozenset(
    (
        ir.DataType.INT8,
        ir.DataType.INT16,
        ir.DataType.INT32,
        ir.DataType.INT64,
        ir.DataType.UINT8,
        ir.DataType.UINT16,
        ir.DataType.UINT32,
        ir.DataType.UINT64,
    )
)
_ADDED = {
    "Conv": (2,),
    "ConvTranspose": (2,),
    "Gemm": (2,),
    "LayerNormalization": (2,),
    "AddNorm": (2, 4),
    "NormAdd": (2, 4),
    "BiasGelu": (1,),
    "DepthwiseConv": (2,),
    "WindowAttention": (1, 3),
}
"""Inputs that are only added: what is tiny beside the other addend may be lost."""


@dataclass
class Plan:
    """The split of a graph's nodes, by name.

    Attributes:
        half: the nodes that compute in float16, and which of their inputs and outputs are.
        kept: the nodes that stay in float32, and why; what only moves data between them has no reason.
    """

    half: dict[str, Slots] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


def plan(model: ir.Model, ranges: Ranges) -> Plan:
    """Decide for every node of `model` (unique names, known types, constants as initializers)."""
    graph, opset = model.graph, model.opset_imports[""]
    result = Plan()
    for node in graph:
        if not touches_float(node):
            continue
        slots = slots_of(node, opset)
        reason = slots if isinstance(slots, str) else _why_not(node, slots, ranges)
        if reason is None:
            assert isinstance(slots, Slots)
            result.half[node.name or ""] = slots
        else:
            result.kept[node.name or ""] = reason
    for node in graph:
        if node.op_type == "Cast" and node.outputs[0].dtype in _INTEGERS and is_float(node.inputs[0]):
            _keep_positions(node, result)
        elif "in float16" in result.kept.get(node.name or "", ""):
            _keep_guarded(node, result)
    _keep_growing(graph, result)
    _settle_moves(graph, result)
    return result


def _why_not(node: ir.Node, slots: Slots, ranges: Ranges) -> str | None:
    name = node.name or ""
    if node.op_type in _SCATTERS and node.attributes.get_string("reduction", "none") != "none":
        return "combines what lands in one place, which ONNX Runtime's CPU provider does not do in float16"
    for index in sorted(slots.inputs):
        value = node.inputs[index]
        assert value is not None
        if value.const_value is not None and value.is_initializer():
            if reason := _why_no_constant(node, index, value.const_value):
                return reason
        elif value.name in ranges.values and (reason := _why_no_value("takes", ranges.values[value.name])):
            return reason
    for index in sorted(slots.outputs):
        value = node.outputs[index]
        if value.name in ranges.values and (reason := _why_no_value("gives", ranges.values[value.name])):
            return reason
    for what, table in (
        ("inner values up to", ranges.inner),
        ("squares up to", ranges.squares),
        ("sums of magnitudes up to", ranges.sums),
    ):
        if table.get(name, 0.0) * SAFETY > LARGEST:
            return f"{what} {table[name]:.2g}"
    if ranges.terms.get(name, 0.0) > TERMS:
        return f"adds up {ranges.terms[name]:.0f} elements"
    return None


def _why_no_value(verb: str, seen: Observed) -> str | None:
    if math.isnan(seen.lost):
        return f"{verb} NaN"
    if seen.largest * SAFETY > LARGEST:
        return f"{verb} values up to {seen.largest:.2g}"
    if seen.lost > LOST:
        return f"{verb} values so small that rounding takes {seen.lost:.2%}"
    return None


def _why_no_constant(node: ir.Node, index: int, constant: ir.TensorProtocol) -> str | None:
    array = constant.numpy()
    seen = Observed.of(array)
    if seen.largest > LARGEST:
        return f"a constant of {seen.largest:.2g}, beyond float16"
    added = index in _ADDED.get(node.op_type, ()) or (node.op_type in ("Add", "Sub") and array.size > 1)
    if seen.lost <= LOST or added:
        return None
    if array.size == 1:
        return f"a constant of {seen.largest:.2g}, {float(array.astype('float16').item()):.2g} in float16"
    return f"a constant so small that {seen.lost:.2%} of it are lost in float16"


def _keep_positions(node: ir.Node, result: Plan) -> None:
    """What becomes an integer is exact: back to where numbers come from weights or from outside."""
    pending = [node]
    while pending:
        current = pending.pop()
        result.half.pop(current.name or "", None)
        result.kept.setdefault(current.name or "", "becomes an integer")
        for value in current.inputs:
            producer = value.producer() if is_float(value) and value is not None else None
            if (
                producer is not None
                and producer.name in result.half
                and producer.op_type not in _LEARNED
                and producer.domain != ops.DOMAIN
            ):
                pending.append(producer)


def _keep_guarded(node: ir.Node, result: Plan) -> None:
    """A constant that float16 flushes to zero keeps another number from zero: what divides by that number."""
    pending = [user for value in node.outputs for user, _ in value.uses()]
    while pending:
        current = pending.pop()
        if current.name not in result.half:
            continue
        if current.op_type in _GUARDED:
            result.half.pop(current.name)
            result.kept[current.name] = "divides by what a tiny constant keeps from zero"
        elif current.op_type in _PASSES_GUARD:
            result.half.pop(current.name)
            result.kept[current.name] = "hands on what a tiny constant keeps from zero"
            pending += [user for value in current.outputs for user, _ in value.uses()]


def _keep_growing(graph: ir.Graph, result: Plan) -> None:
    """Sums over sizes that are not fixed, counts, and what is made of them until one divides another.

    They grow with the input, so golden inputs cannot stand for them.
    """
    growing: set[ir.Value | None] = set()
    for node in graph:
        taken = any(value in growing for value in node.inputs)
        why = _why_growing(node) or ("takes what grows with the input" if taken else None)
        if why is None:
            continue
        if result.half.pop(node.name or "", None) is not None:
            result.kept[node.name or ""] = why
        settled = node.op_type == "Div" and node.inputs[1] in growing
        if node.op_type in _GROWING and not node.domain and not settled:
            growing.update(value for value in node.outputs if is_float(value))


def _why_growing(node: ir.Node) -> str | None:
    if node.op_type == "Cast" and is_float(node.outputs[0]):
        value = node.inputs[0]
        return "counts" if value is not None and value.dtype in _INTEGERS else None
    if node.domain or node.op_type not in ("MatMul", "ReduceMean", "ReduceSum", "GlobalAveragePool"):
        return None
    x = node.inputs[0]
    if x is None or x.shape is None or not is_float(x):
        return None
    axes: list[int]
    if node.op_type == "MatMul":
        other = node.inputs[1]
        if other is None or other.shape is None:
            return None
        fixed = isinstance(x.shape[-1], int) or isinstance(other.shape[max(len(other.shape) - 2, 0)], int)
    else:
        given = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
        axes = list(range(len(x.shape))) if given is None else given.numpy().tolist()
        axes = axes[2:] if node.op_type == "GlobalAveragePool" else axes
        fixed = all(isinstance(x.shape[axis], int) for axis in axes)
    return None if fixed else "adds up more elements the larger the input is"


def _settle_moves(graph: ir.Graph, result: Plan) -> None:
    """What only moves data from float32 to float32 does so in float32, without casts around it."""
    changed = True
    while changed:
        changed = False
        for node in graph:
            if node.name in result.half and node.op_type in MOVES and not node.domain:
                inside = all(_is_full(value, result) for value in node.inputs if is_float(value))
                if inside and all(_wants_full(value, result) for value in node.outputs):
                    del result.half[node.name]
                    changed = True


def _is_full(value: ir.Value | None, result: Plan) -> bool:
    producer = None if value is None else value.producer()
    if producer is None:
        return value is None or not value.is_initializer()
    slots = result.half.get(producer.name or "")
    return slots is None or value is None or value.index() not in slots.outputs


def _wants_full(value: ir.Value, result: Plan) -> bool:
    users = [(result.half.get(user.name or ""), index) for user, index in value.uses()]
    return all(slots is None or index not in slots.inputs for slots, index in users)


def floats(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes that compute with float32 numbers; what only moves them does not count."""
    for node in graph:
        if touches_float(node) and (node.op_type not in MOVES or node.domain):
            yield node
