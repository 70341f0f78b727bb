"""The float16 graph, and its twin that rounds as it does and computes in float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgetx import ops
from edgetx.fusion import MODULE_KEY
from edgetx.ops import Variant
from edgetx.precision._plan import Plan
from edgetx.precision._slots import FLOAT, HALF, is_float, set_output_type


def prepare(model: ir.Model) -> None:
    """Constants as initializers of the graph, unique names, and a type for every value."""
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for number, node in enumerate(model.graph.all_nodes()):
        node.name = node.name or f"node_{number}"
    passes.NameFixPass()(model)
    if any(value.dtype is None for node in model.graph for value in node.outputs):
        passes.ShapeInferencePass()(model)


def to_half(model: ir.Model, plan: Plan, bodies: Variant | None) -> ir.Model:
    """A copy of `model` (see `prepare`) in which the nodes of the plan are strongly typed float16.

    Args:
        model: stays as it is.
        plan: see `edgetx.precision._plan`.
        bodies: the variant to attach to the operators; None for none.
    """
    model = model.clone()
    edges = _Edges(model, plan)
    cast = _Casts(model.graph)
    for value in edges.half_constants():
        edges.redirect(value, _constant(model.graph, value, HALF), wanted=True)
    for value in edges.full_values():
        edges.redirect(value, cast.down, wanted=True)
    for value in edges.half_values():
        edges.redirect(value, cast.up, wanted=False)
        if value.is_graph_output():
            _keep_output(model.graph, value, cast.up(value))
    for value in edges.half_values():
        value.type = ir.TensorType(HALF)  # the copy shares the old one with the original
    for node in model.graph:
        slots = plan.half.get(node.name or "")
        if slots is not None and 0 in slots.outputs:
            set_output_type(node)
    _finish(model, bodies)
    return model


def rounded(model: ir.Model, plan: Plan, bodies: Variant | None) -> ir.Model:
    """A float32 copy of `model` whose float16 values, to be, are rounded to float16 where they arise.

    ONNX Runtime's CPU runs chains of float16 operators that it has no kernels for in float32, unrounded. This
    copy rounds, so that it overflows and loses what float16 hardware with float32 accumulators would.
    """
    model = model.clone()
    edges = _Edges(model, plan)
    cast = _Casts(model.graph)
    for value in edges.half_constants():
        edges.redirect(value, _constant(model.graph, value, FLOAT), wanted=True)
    for value in [*edges.full_values(), *edges.half_values()]:
        if value in edges.made_half:
            uses = list(value.uses())
            if uses or value.is_graph_output():
                replacement = cast.both(value)
                for user, index in uses:
                    user.replace_input_with(index, replacement)
                if value.is_graph_output():
                    _keep_output(model.graph, value, replacement)
        else:
            edges.redirect(value, cast.both, wanted=True)
    _finish(model, bodies)
    return model


class _Edges:
    """Which uses of which values are float16 ones, by the plan."""

    def __init__(self, model: ir.Model, plan: Plan) -> None:
        self._graph, self._plan = model.graph, plan
        self.made_half: dict[ir.Value, None] = {}
        for node in model.graph:
            slots = plan.half.get(node.name or "")
            for index in sorted(slots.outputs) if slots is not None else ():
                self.made_half[node.outputs[index]] = None

    def half_values(self) -> list[ir.Value]:
        """What float16 nodes make."""
        return list(self.made_half)

    def half_constants(self) -> list[ir.Value]:
        """Initializers that a float16 node takes."""
        constants = [value for value in self._graph.initializers.values() if is_float(value)]
        return [value for value in constants if any(self._uses(value, True))]

    def full_values(self) -> list[ir.Value]:
        """Inputs and what float32 nodes make, where a float16 node takes it."""
        values = [*self._graph.inputs, *(value for node in self._graph for value in node.outputs)]
        return [
            value
            for value in values
            if is_float(value)
            and not value.is_initializer()
            and value not in self.made_half
            and any(self._uses(value, True))
        ]

    def redirect(self, value: ir.Value, make: Callable[[ir.Value], ir.Value], *, wanted: bool) -> None:
        """Give the uses that are float16 ones (`wanted`), or all others, what `make` gives for `value`."""
        uses = self._uses(value, wanted)
        if uses:
            replacement = make(value)
            for user, index in uses:
                user.replace_input_with(index, replacement)

    def _uses(self, value: ir.Value, wanted: bool) -> list[tuple[ir.Node, int]]:
        found = []
        for user, index in value.uses():
            slots = self._plan.half.get(user.name or "")
            if (slots is not None and index in slots.inputs) == wanted:
                found.append((user, index))
        return found


class _Casts:
    """Casts right behind what they cast."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph

    def down(self, value: ir.Value) -> ir.Value:
        return self._cast(value, HALF)

    def up(self, value: ir.Value) -> ir.Value:
        return self._cast(value, FLOAT)

    def both(self, value: ir.Value) -> ir.Value:
        return self.up(self.down(value))

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        suffix = "half" if dtype == HALF else "full"
        node = ir.node("Cast", (value,), {"to": int(dtype)}, name=f"{value.name}_{suffix}")
        out = node.outputs[0]
        out.name, out.shape, out.type = f"{value.name}_{suffix}", value.shape, ir.TensorType(dtype)
        producer = value.producer()
        if producer is None:
            first = next(iter(self._graph), None)
            if first is None:
                self._graph.append(node)
            else:
                self._graph.insert_before(first, node)
            return out
        scopes = producer.metadata_props.get(MODULE_KEY, "").split("|")
        if scopes != [""]:
            node.metadata_props[MODULE_KEY] = scopes[min(value.index() or 0, len(scopes) - 1)]
        self._graph.insert_after(producer, node)
        return out


def _constant(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> Callable[[ir.Value], ir.Value]:
    def make(_value: ir.Value) -> ir.Value:
        assert value.const_value is not None
        array = value.const_value.numpy().astype(np.float16).astype(dtype.numpy())
        name = f"{value.name}_half"
        graph.register_initializer(ir.val(name, const_value=ir.tensor(array, name=name)))
        return graph.initializers[name]

    return make


def _keep_output(graph: ir.Graph, value: ir.Value, replacement: ir.Value) -> None:
    """The graph's output keeps its name and type."""
    name = value.name
    value.name = f"{name}_inner"
    replacement.name = name
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = replacement


def _finish(model: ir.Model, bodies: Variant | None) -> None:
    passes.RemoveUnusedNodesPass()(model)
    passes.NameFixPass()(model)
    ops.strip_bodies(model)
    if bodies is not None:
        ops.attach_bodies(model, bodies)
