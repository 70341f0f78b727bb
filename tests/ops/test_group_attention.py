"""GroupAttention: attributes, checker, PyTorch operator, translation; tests/conformance has the numbers."""

from __future__ import annotations

from typing import Any

import pytest

from edgetx.errors import ExportError, InputError
from edgetx.ops import attach_bodies, translation_table
from edgetx.ops.group_attention import GroupAttentionAttributes, why_not

SHAPES = {"q": (20, 16), "k": (20, 16), "v": (20, 12), "groups": (4, 9), "inverse": (20,)}


# --------------------------------------------------------------------------- attributes


def test_scale_follows_the_head_size() -> None:
    a = GroupAttentionAttributes(2)
    assert a.head_size(32) == 16
    assert a.with_scale(32) == GroupAttentionAttributes(2, 0.25)
    assert GroupAttentionAttributes(2, 0.5).with_scale(32).scale == 0.5


def test_onnx_round_trip_is_exact() -> None:
    a = GroupAttentionAttributes(6, 6**-0.5, "relu2")
    values = a.to_onnx()
    assert values["plugin_namespace"] == "edgetx"
    assert GroupAttentionAttributes.from_onnx(values) == a
    assert GroupAttentionAttributes.from_onnx({"num_heads": 6}) == GroupAttentionAttributes(6)


def test_node_states_its_scale() -> None:
    with pytest.raises(InputError, match="call with_scale"):
        GroupAttentionAttributes(2).to_onnx()


def test_from_onnx_names_what_is_wrong() -> None:
    with pytest.raises(InputError, match="unknown attributes heads; accepted: num_heads"):
        GroupAttentionAttributes.from_onnx({"num_heads": 2, "heads": 3})
    with pytest.raises(InputError, match="lacks its attribute num_heads"):
        GroupAttentionAttributes.from_onnx({"scale": 1.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 0}, "num_heads=0; expected a positive"),
        ({"activation": "relu"}, "activation='relu'; accepted: softmax, relu2"),
        ({"scale": 0.0}, "scale=0.0; expected a positive"),
        ({"scale": float("nan")}, "finite float32"),
        ({"scale": 1e39}, "finite float32"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GroupAttentionAttributes(**{"num_heads": 3, **changes})


# --------------------------------------------------------------------------- checker


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"q": ("t", 16), "k": ("t", 16), "v": (None, 12), "groups": ("g", "s"), "inverse": ("t",)},
        {"q": None},
        {"groups": (0, 9)},
        {"q": (0, 16), "k": (0, 16), "v": (0, 12), "inverse": (0,)},
    ],
)
def test_why_not_takes(changes: dict[str, Any]) -> None:
    assert why_not(GroupAttentionAttributes(2), {**SHAPES, **changes}) is None


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("q", (2, 20, 16), "q has shape [2, 20, 16]; expected [T, h·d]"),
        ("q", (20, 15), "15 channels with num_heads=2; expected 2·d for some d >= 1"),
        ("k", (20, 14), "k has shape [20, 14]; expected [20, 16], since q has shape [20, 16]"),
        ("v", (20, 0), "v has 0 channels"),
        ("v", (21, 12), "v has shape [21, 12]; expected [20, h·dv]"),
        ("groups", (36,), "groups has shape [36]; expected [G, S]"),
        ("groups", ("g", 0), "at least one slot per group"),
        ("inverse", (21,), "inverse has shape [21]; expected [20]"),
    ],
)
def test_why_not_shows_the_values(name: str, shape: tuple[Any, ...], message: str) -> None:
    reason = why_not(GroupAttentionAttributes(2), {**SHAPES, name: shape})
    assert reason is not None
    assert message in reason
    assert "\n" not in reason


# --------------------------------------------------------------------------- PyTorch


def tensors(torch: Any, tokens: int = 20, groups: int = 4, slots: int = 9) -> tuple[Any, ...]:
    """Groups of random tokens and empty slots; tokens in no group have no owner."""
    torch.manual_seed(tokens)
    listed = torch.randint(-1, max(tokens, 1), (groups, slots), dtype=torch.int32)
    if not tokens:
        listed.fill_(-1)
    inverse = torch.full((tokens,), -1, dtype=torch.int32)
    for slot, token in enumerate(listed.flatten().tolist()):
        if token >= 0:
            inverse[token] = slot
    return torch.randn(tokens, 16), torch.randn(tokens, 16), torch.randn(tokens, 12), listed, inverse


@pytest.fixture
def block() -> Any:
    torch = pytest.importorskip("torch")
    from edgetx.ops.group_attention import apply

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attributes = GroupAttentionAttributes(2)

        def forward(self, q: Any, k: Any, v: Any, groups: Any, inverse: Any) -> Any:
            return apply(self.attributes, q, k, v, groups, inverse)

    return Block().eval()


def test_operator_passes_torchs_own_checks() -> None:
    torch = pytest.importorskip("torch")
    from edgetx.ops.group_attention import group_attention

    torch.library.opcheck(
        group_attention,
        (*tensors(torch), 2, 0.25, "softmax"),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_torch_export_keeps_sizes_symbolic(block: Any) -> None:
    torch = pytest.importorskip("torch")
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic}, {0: dynamic}, {0: dynamic}, {0: dynamic, 1: dynamic}, {0: dynamic})
    program = torch.export.export(block, tensors(torch), dynamic_shapes=shapes)
    for size in ((31, 5, 3), (7, 2, 12)):
        given = tensors(torch, *size)
        torch.testing.assert_close(program.module()(*given), block(*given), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("position", "dtype", "message"),
    [
        (0, "int64", r"q has dtype torch\.int64; expected a floating-point"),
        (2, "float16", r"v has dtype torch\.float16; expected torch\.float32"),
        (3, "int64", r"groups has dtype torch\.int64; expected torch\.int32"),
        (4, "int64", r"inverse has dtype torch\.int64; expected torch\.int32"),
    ],
)
def test_other_dtypes_are_refused(block: Any, position: int, dtype: str, message: str) -> None:
    torch = pytest.importorskip("torch")
    given = list(tensors(torch))
    given[position] = given[position].to(getattr(torch, dtype))
    with pytest.raises(InputError, match=message):
        block(*given)


# --------------------------------------------------------------------------- translation and bodies


@pytest.mark.parametrize(
    ("variant", "opset", "activation", "fused"),
    [
        ("primitive", 20, "softmax", False),
        ("primitive", 20, "relu2", False),
        ("attention", 23, "softmax", True),
        ("attention", 23, "relu2", False),
    ],
)
def test_translation_emits_the_node_and_the_body_runs(
    block: Any, variant: Any, opset: int, activation: Any, fused: bool
) -> None:
    torch = pytest.importorskip("torch")
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    import onnx_ir as ir

    block.attributes = GroupAttentionAttributes(2, None, activation)
    names = ["q", "k", "v", "groups", "inverse"]
    program = torch.onnx.export(
        block,
        tensors(torch),
        dynamo=True,
        verbose=False,
        opset_version=opset,
        input_names=names,
        dynamic_shapes=({0: "T"}, {0: "T"}, {0: "T"}, {0: "G", 1: "S"}, {0: "T"}),
        custom_translation_table=translation_table(),
    )
    [node] = [node for node in program.model.graph if node.domain == "edgetx"]
    assert node.op_type == "GroupAttention"
    read = {name: attribute.value for name, attribute in node.attributes.items()}
    expected = GroupAttentionAttributes(2, 8**-0.5, activation)
    assert GroupAttentionAttributes.from_onnx(read) == expected
    assert set(read) == set(expected.to_onnx())

    attach_bodies(program.model, variant)
    [body] = program.model.functions.values()
    types = {node.op_type for node in body}
    assert ("Attention" in types) == fused
    # TensorRT's parser rejects these.
    assert not types & {"ScatterND", "ScatterElements", "NonZero", "Einsum", "If", "Loop"}
    model = ir.to_proto(program.model)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for size in ((31, 5, 3), (7, 2, 12), (7, 0, 4), (0, 3, 5), (0, 0, 1)):
        given = tensors(torch, *size)
        [out] = session.run(None, {name: x.numpy() for name, x in zip(names, given, strict=True)})
        torch.testing.assert_close(torch.from_numpy(out), block(*given), rtol=1e-6, atol=4e-6)


def node(**changes: Any) -> Any:
    """A node with the inputs of `SHAPES`; `None` takes an input's shape away."""
    ir = pytest.importorskip("onnx_ir")
    inputs = []
    for name, shape in {**SHAPES, **changes}.items():
        dtype = ir.DataType.INT32 if name in ("groups", "inverse") else ir.DataType.FLOAT
        known = None if shape is None else ir.Shape(shape)
        inputs.append(ir.Value(name=name, type=ir.TensorType(dtype), shape=known))
    return ir.node(
        "GroupAttention", inputs, GroupAttentionAttributes(2, 0.25).to_onnx(), domain="edgetx", name="n"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"v": None}, "number of channels of q or v is unknown"),
        ({"q": ("t", "c")}, "number of channels of q or v is unknown"),
        ({"k": (20, 14)}, r"k has shape \[20, 14\]"),
    ],
)
def test_body_refuses_what_it_cannot_know(changes: dict[str, Any], message: str) -> None:
    from edgetx.ops.group_attention.bodies import body_of_node

    with pytest.raises(ExportError, match=message):
        body_of_node(node(**changes), "primitive", 20)


def test_bodies_differ_by_what_they_bake_in() -> None:
    from edgetx.ops.group_attention.bodies import body_of_node

    first = body_of_node(node(), "primitive", 20).overload
    assert body_of_node(node(groups=(7, 3)), "primitive", 20).overload == first
    assert body_of_node(node(v=(20, 8)), "primitive", 20).overload != first
