"""Quantize and Dequantize around products: for good, or behind a switch per product."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgetx import ops
from edgetx.ops import Variant
from edgetx.quantization._layers import (
    Layer,
    Precision,
    activation_scale,
    code_dtype,
    constant,
    quantize_weights,
    replace,
)

SWITCHES = "edgetx.switches"
"""The input of a switchable graph: bool `[layers]`, which of them are quantised."""


def quantized(
    model: ir.Model,
    layers: Iterable[Layer],
    largest: Mapping[str, float],
    precision: Precision,
    bodies: Variant | None,
) -> ir.Model:
    """A copy of `model` in which `layers` take 8-bit numbers.

    Args:
        model: prepared (see `edgetx.precision`), without `Gemm`s that are among the layers; stays as it is.
        layers: what `find` found in it.
        largest: the magnitude that an activation is clipped at, by its name.
        precision: of activations and weights.
        bodies: the variant to attach to edgetx's operators; None for none.
    """
    model = model.clone()
    nodes = {node.name: node for node in model.graph}
    activations: dict[str, ir.Value] = {}
    for layer in layers:
        node = nodes[layer.node]
        x = node.inputs[0]
        assert x is not None
        if layer.activation not in activations:
            pair = _activation(model.graph, x, largest[layer.activation], precision)
            _insert_behind(model.graph, x, pair)
            activations[layer.activation] = pair[-1].outputs[0]
        weight = _weights(model.graph, layer, precision)
        model.graph.insert_before(node, weight)
        for made in (weight, *(each for each, _ in x.uses() if each.op_type == "QuantizeLinear")):
            made.metadata_props.update(node.metadata_props)
        node.replace_input_with(0, activations[layer.activation])
        node.replace_input_with(1, weight.outputs[0])
    _keep_fusible(model.graph)
    passes.RemoveUnusedNodesPass()(model)
    passes.NameFixPass()(model)
    ops.strip_bodies(model)
    if bodies is not None:
        ops.attach_bodies(model, bodies)
    return model


def _keep_fusible(graph: ir.Graph) -> None:
    """Rewrite what stands behind a quantised product and hides it from ONNX Runtime 1.32, into its equal.

    Where the product is hidden its weights are restored to float32 in every run, which takes longer than it.

    - `Relu`: the two are taken for a product with 8-bit output, which it has not. `LeakyRelu` of slope 0.
    - `Add` of a bias to a product of two dimensions: the two become a `Gemm`, which wants 8-bit output.
      `Sub` of the negative bias.
    """
    for node in list(graph):
        product = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        weight = product.inputs[1] if product is not None and product.op_type == "MatMul" else None
        source = None if weight is None else weight.producer()
        if node.domain or source is None or source.op_type != "DequantizeLinear":
            continue
        if node.op_type == "Relu":
            node.op_type = "LeakyRelu"
            node.attributes["alpha"] = ir.AttrFloat32("alpha", 0.0)
        elif node.op_type == "Add":
            bias = node.inputs[1]
            if bias is not None and bias.is_initializer() and bias.const_value is not None:
                negative = constant(graph, f"{bias.name}_negative", -bias.const_value.numpy())
                node.op_type = "Sub"
                node.replace_input_with(1, negative)


def switchable(
    model: ir.Model, layers: Sequence[Layer], largest: Mapping[str, float], precision: Precision
) -> ir.Model:
    """A copy of `model` with both forms of every layer, chosen by the input `SWITCHES`.

    One ONNX Runtime session so measures any choice of layers, with the kernels that the chosen form gets.
    """
    model = model.clone()
    graph = model.graph
    switches = ir.val(SWITCHES, dtype=ir.DataType.BOOL, shape=ir.Shape([len(layers)]))
    graph.inputs.append(switches)
    nodes = {node.name: node for node in graph}
    for index, layer in enumerate(layers):
        node = nodes[layer.node]
        x, weight = node.inputs
        assert x is not None and weight is not None
        at = constant(graph, f"edgetx.switch_{index}", np.int64(index))
        chosen = ir.node("Gather", (switches, at), {"axis": 0}, name=f"{layer.node}_switch")
        chosen.outputs[0].name = f"{layer.node}_switch"
        branches = {}
        for name in ("then_branch", "else_branch"):
            branch = ir.Graph((), (), nodes=(), name=f"{layer.node}_{name}")
            if name == "then_branch":
                pair = _activation(branch, x, largest[layer.activation], precision)
                weights = _weights(branch, layer, precision, simulated=precision == "fp8")
                branch.extend([*pair, weights])
                operands = (pair[-1].outputs[0], weights.outputs[0])
                product = ir.node("MatMul", operands, name=f"{layer.node}_eight")
            else:
                product = ir.node("MatMul", (x, weight), name=f"{layer.node}_full")
            branch.append(product)
            out = product.outputs[0]
            out.name, out.type = f"{product.name}_out", ir.TensorType(ir.DataType.FLOAT)
            branch.outputs.append(out)
            branches[name] = ir.AttrGraph(name, branch)
        switch = ir.Node("", "If", chosen.outputs, list(branches.values()), num_outputs=1, name=layer.node)
        switch.outputs[0].shape, switch.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        node.name = f"{layer.node}_replaced"
        replace(node, [chosen, switch], switch.outputs[0])
    return model


def _activation(graph: ir.Graph, x: ir.Value, largest: float, precision: Precision) -> list[ir.Node]:
    scale = constant(graph, f"{x.name}_scale", activation_scale(largest, precision))
    zero = constant(graph, f"{x.name}_zero", np.zeros((), code_dtype(precision)))
    down = ir.node("QuantizeLinear", (x, scale, zero), name=f"{x.name}_quantize")
    up = ir.node("DequantizeLinear", (down.outputs[0], scale, zero), name=f"{x.name}_dequantize")
    down.outputs[0].name, up.outputs[0].name = f"{x.name}_codes", f"{x.name}_restored"
    down.outputs[0].type = ir.TensorType(zero.dtype or ir.DataType.UNDEFINED)
    up.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    for node in (down, up):
        node.outputs[0].shape = x.shape
    return [down, up]


def _weights(graph: ir.Graph, layer: Layer, precision: Precision, *, simulated: bool = False) -> ir.Node:
    codes, scale = quantize_weights(layer.weights, precision)
    if simulated:
        # What the node would give, given as float32: ONNX Runtime computes it anew in every run.
        restored = codes.astype(np.float32) * scale
        same = ir.node("Identity", (constant(graph, f"{layer.node}_restored", restored),))
        same.outputs[0].name = f"{layer.node}_weight"
        return same
    node = ir.node(
        "DequantizeLinear",
        (
            constant(graph, f"{layer.node}_codes", codes),
            constant(graph, f"{layer.node}_scale", scale),
            constant(graph, f"{layer.node}_zero", np.zeros(scale.shape, codes.dtype)),
        ),
        {"axis": 1},
        name=f"{layer.node}_dequantize",
    )
    out = node.outputs[0]
    out.name, out.type, out.shape = (
        f"{layer.node}_weight",
        ir.TensorType(ir.DataType.FLOAT),
        ir.Shape(codes.shape),
    )
    return node


def _insert_behind(graph: ir.Graph, x: ir.Value, nodes: Sequence[ir.Node]) -> None:
    producer = x.producer()
    if producer is not None:
        graph.insert_after(producer, nodes)
        return
    first = next(iter(graph))
    graph.insert_before(first, nodes)
