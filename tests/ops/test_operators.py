"""The operator table: imports, bodies attached to and stripped from a model, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from edgetx.errors import ExportError
from edgetx.ops import OPERATORS, Operator, attach_bodies, strip_bodies
from edgetx.ops.window_attention import WindowAttentionAttributes

ir = pytest.importorskip("onnx_ir")
onnx = pytest.importorskip("onnx")

PLAIN = WindowAttentionAttributes(2, 8, (4, 4))
SHIFTED = WindowAttentionAttributes(2, 8, (4, 4), shift=(2, 2), mask="region", pad="after_roll")


def chain(*attributes: WindowAttentionAttributes, opset: int = 20, ir_version: int = 10) -> ir.Model:
    """Attention after attention, each from the same qkv, summed by Concat."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    qkv = ir.Value(name="qkv", type=kind, shape=ir.Shape(("batch", "height", "width", 48)))
    nodes = [ir.node("WindowAttention", [qkv], a.to_onnx(), domain="edgetx") for a in attributes]
    for index, node in enumerate(nodes):
        node.outputs[0].name = f"part_{index}"
    nodes.append(ir.node("Concat", [node.outputs[0] for node in nodes], {"axis": -1}))
    out = nodes[-1].outputs[0]
    out.name, out.type = "out", kind
    out.shape = ir.Shape(("batch", "height", "width", 16 * len(attributes)))
    graph = ir.Graph([qkv], [out], nodes=nodes, opset_imports={"": opset, "edgetx": 1}, name="graph")
    return ir.Model(graph, ir_version=ir_version)


def operator_types(model: ir.Model) -> set[str]:
    return {node.op_type for function in model.functions.values() for node in function}


def test_importing_needs_no_framework() -> None:
    code = (
        "import sys, edgetx.ops, edgetx.ops.window_attention\n"
        "heavy = {'numpy', 'torch', 'onnx', 'onnx_ir', 'onnxscript', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_every_operator_has_its_parts(operator: Operator) -> None:
    pytest.importorskip("torch")
    assert callable(import_module(f"{operator.package}.bodies").body_of_node)
    assert operator.summary
    if operator.torch_name is None:
        return
    assert str(operator.torch_overload()) == f"{operator.torch_name.replace('::', '.')}.default"
    assert callable(operator.translation())


def test_equal_nodes_share_a_body() -> None:
    model = chain(PLAIN, SHIFTED, PLAIN)
    attach_bodies(model, "primitive")
    overloads = [node.overload for node in OPERATORS[0].nodes(model)]
    assert overloads[0] == overloads[2] != overloads[1]
    assert {identifier[2] for identifier in model.functions} == set(overloads)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_overload_is_stable() -> None:
    """Packages name it: it may change only with the attributes."""
    model = chain(PLAIN)
    attach_bodies(model, "primitive")
    [first] = model.functions
    attach_bodies(model, "primitive")
    assert list(model.functions) == [first]


def test_strip_undoes_attach() -> None:
    model = chain(PLAIN, SHIFTED)
    before = ir.to_proto(model).SerializeToString()
    attach_bodies(model, "primitive")
    strip_bodies(model)
    assert ir.to_proto(model).SerializeToString() == before


def test_old_ir_version_is_raised_for_overloads() -> None:
    model = chain(PLAIN, ir_version=8)
    attach_bodies(model, "primitive")
    assert model.ir_version == 10


def test_model_without_the_operator_is_left_alone() -> None:
    model = chain(PLAIN, ir_version=8)
    model.graph.opset_imports.pop("edgetx")
    for node in list(model.graph):
        node.domain = ""
    before = ir.to_proto(model).SerializeToString()
    attach_bodies(model, "attention")
    assert ir.to_proto(model).SerializeToString() == before


def test_old_opset_is_refused() -> None:
    with pytest.raises(ExportError, match=r"opset 20; 'attention' bodies need 23 .* 'primitive'"):
        attach_bodies(chain(PLAIN), "attention")
    with pytest.raises(ExportError, match="opset 17; 'primitive' bodies need 20"):
        attach_bodies(chain(PLAIN, opset=17), "primitive")


def test_unknown_type_is_refused() -> None:
    model = chain(PLAIN)
    model.graph.inputs[0].shape = None
    with pytest.raises(ExportError, match="number of channels of its input qkv is unknown"):
        attach_bodies(model, "primitive")


def test_body_holds_only_what_the_attributes_need() -> None:
    """Without shift and padding: no index arithmetic, no mask."""
    model = chain(PLAIN)
    attach_bodies(model, "primitive")
    assert not operator_types(model) & {"Gather", "Range", "Mod", "Where", "Min"}
    model = chain(SHIFTED)
    attach_bodies(model, "primitive")
    assert {"Gather", "Range", "Mod", "Where"} <= operator_types(model)


@pytest.mark.parametrize("attributes", [PLAIN, SHIFTED], ids=["plain", "shifted"])
def test_primitive_body_uses_what_engines_have(attributes: WindowAttentionAttributes) -> None:
    """TensorRT has no Roll, and its parser rejects ScatterND and NonZero."""
    model = chain(attributes)
    attach_bodies(model, "primitive")
    types = operator_types(model)
    assert not types & {
        "Attention",
        "ScatterND",
        "ScatterElements",
        "NonZero",
        "Einsum",
        "CastLike",
        "If",
        "Loop",
    }
    for function in model.functions.values():
        assert function.opset_imports[""] == model.opset_imports[""]
        for node in function:
            assert onnx.defs.get_schema(node.op_type, 20, node.domain) is not None


def test_attention_body_is_one_attention() -> None:
    model = chain(SHIFTED, opset=23)
    attach_bodies(model, "attention")
    [function] = model.functions.values()
    assert sum(node.op_type == "Attention" for node in function) == 1
    assert "Softmax" not in operator_types(model)
