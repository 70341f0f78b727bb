"""DepthwiseConv: definition, body and kernel against plain loops in float64, at every instruction set."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ir = pytest.importorskip("onnx_ir")
ort = pytest.importorskip("onnxruntime")
special = pytest.importorskip("scipy.special")
torch = pytest.importorskip("torch")

from edgetx.errors import InputError  # noqa: E402
from edgetx.ops import attach_bodies, library  # noqa: E402
from edgetx.ops.depthwise_conv import DepthwiseConvAttributes, apply, why_not  # noqa: E402
from edgetx.ops.depthwise_conv.attributes import INPUTS  # noqa: E402

Array = np.ndarray[Any, Any]
LEVELS = ("baseline", "avx2", "avx512")  # a level the machine lacks is its best below
ROUNDING = {"FLOAT": 2.0**-24, "FLOAT16": 2.0**-11, "BFLOAT16": 2.0**-8}
DRAWN = settings(
    max_examples=200,
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
needs_library = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))


@dataclass(frozen=True)
class Case:
    shape: tuple[int, int, int]
    channels: int
    kernel: tuple[int, int]
    attributes: DepthwiseConvAttributes
    spare: int
    """Channels of x and other behind those that are used."""
    has_other: bool
    seed: int

    def tensors(self, dtype: str = "FLOAT") -> list[Array]:
        random = np.random.default_rng(self.seed)
        a = self.attributes
        drawn = [
            random.normal(size=(*self.shape, a.offset + self.channels + self.spare)),
            random.normal(size=(*self.kernel, self.channels)) / np.prod(self.kernel) ** 0.5,
            random.normal(size=self.channels),
        ]
        if self.has_other:
            drawn.append(random.normal(size=(*self.shape, a.other_offset + self.channels + self.spare)))
        inside = ir.DataType[dtype].numpy()
        return [each.astype(np.float32).astype(inside).astype(np.float32) for each in drawn]


def reference(a: DepthwiseConvAttributes, tensors: list[Array]) -> Array:
    """The formula of the README, pixel offset by pixel offset, in float64."""
    x, weight, bias, *other = (tensor.astype(np.float64) for tensor in tensors)
    rows, columns, channels = weight.shape
    _, height, width, _ = x.shape
    out = np.zeros((*x.shape[:3], channels)) + bias
    for i in range(rows):
        for j in range(columns):
            down, right = i - rows // 2, j - columns // 2
            for y in range(max(0, -down), min(height, height - down)):
                for z in range(max(0, -right), min(width, width - right)):
                    used = x[:, y + down, z + right, a.offset : a.offset + channels]
                    out[:, y, z] += weight[i, j] * used
    if a.activation == "gelu":
        out = out * special.ndtr(out)
    for joined in other:
        part = joined[..., a.other_offset : a.other_offset + channels]
        out = out + part if a.combine == "add" else out * part
    return out


def cases() -> st.SearchStrategy[Case]:
    odd = st.sampled_from((1, 3, 3, 3, 5, 7))
    return st.builds(
        Case,
        shape=st.tuples(st.integers(1, 2), st.integers(1, 7), st.integers(1, 13)),
        channels=st.one_of(st.integers(1, 40), st.sampled_from((16, 24, 32, 60))),
        kernel=st.one_of(st.just((3, 3)), st.tuples(odd, odd)),
        attributes=st.builds(
            DepthwiseConvAttributes,
            offset=st.sampled_from((0, 0, 3, 16)),
            activation=st.sampled_from(("none", "gelu")),
            combine=st.sampled_from(("add", "multiply")),
            other_offset=st.sampled_from((0, 0, 5)),
        ),
        spare=st.sampled_from((0, 0, 2)),
        has_other=st.booleans(),
        seed=st.integers(0, 2**32 - 1),
    )


def node_model(a: DepthwiseConvAttributes, shapes: list[tuple[int, ...]], dtype: str, opset: int) -> ir.Model:
    """One node with dynamic batch, height and width; float32 outside, `dtype` inside."""
    inside, outside = ir.TensorType(ir.DataType[dtype]), ir.TensorType(ir.DataType.FLOAT)
    inputs, casts = [], []
    for name, shape in zip(INPUTS, shapes, strict=False):
        dims = ["batch", "height", "width", shape[3]] if len(shape) == 4 else list(shape)
        inputs.append(ir.Value(name=name, type=outside, shape=ir.Shape(dims)))
        casts.append(ir.node("Cast", [inputs[-1]], {"to": int(inside.dtype)}))
        value = casts[-1].outputs[0]
        value.name, value.type, value.shape = f"{name}_in", inside, inputs[-1].shape
    node = ir.node("DepthwiseConv", [cast.outputs[0] for cast in casts], a.to_onnx(), domain="edgetx")
    node.outputs[0].name, node.outputs[0].type = "out_in", inside
    node.outputs[0].shape = ir.Shape(["batch", "height", "width", shapes[1][-1]])
    back = ir.node("Cast", [node.outputs[0]], {"to": int(outside.dtype)})
    back.outputs[0].name, back.outputs[0].type, back.outputs[0].shape = "out", outside, node.outputs[0].shape
    graph = ir.Graph(
        inputs,
        back.outputs,
        nodes=[*casts, node, back],
        opset_imports={"": opset, "edgetx": 1},
        name="graph",
    )
    return ir.Model(graph, ir_version=10)


def run(
    a: DepthwiseConvAttributes,
    tensors: list[Array],
    dtype: str = "FLOAT",
    *,
    native: bool,
    threads: int = 1,
    opset: int = 20,
) -> Array:
    model = node_model(a, [tensor.shape for tensor in tensors], dtype, opset)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if native:  # without a body, whatever runs is our kernel
        options.register_custom_ops_library(library.path())
    else:
        attach_bodies(model, "attention" if opset >= 23 else "primitive")
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    out: Array = session.run(None, dict(zip(INPUTS, tensors, strict=False)))[0]
    return out


def assert_close(actual: Array, expected: Array, dtype: str = "FLOAT") -> None:
    assert actual.shape == expected.shape
    size = np.maximum(1, np.abs(expected))
    allowed = np.maximum(np.abs(expected) * ROUNDING[dtype], 2.0**-25) + 4e-6 * size
    error = np.abs(actual - expected)
    assert (error <= allowed).all(), f"max abs error {error.max(initial=0):.2e}"


@DRAWN
@given(case=cases())
def test_definition_drawn(case: Case) -> None:
    tensors = case.tensors()
    actual = apply(case.attributes, *map(torch.from_numpy, tensors)).numpy()
    assert_close(actual, reference(case.attributes, tensors))


@DRAWN
@given(case=cases())
def test_body_drawn(case: Case) -> None:
    tensors = case.tensors()
    assert_close(run(case.attributes, tensors, native=False), reference(case.attributes, tensors))


@needs_library
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ROUNDING)
@DRAWN
@given(case=cases())
def test_native_drawn(monkeypatch: pytest.MonkeyPatch, dtype: str, level: str, case: Case) -> None:
    """Half precision is float32 rounded once."""
    monkeypatch.setenv("EDGETX_CPU", level)
    tensors = case.tensors(dtype)
    actual = run(case.attributes, tensors, dtype, native=True)
    assert_close(actual, reference(case.attributes, tensors), dtype)


@needs_library
def test_many_rows_on_several_threads() -> None:
    a = DepthwiseConvAttributes(offset=32, activation="gelu", combine="multiply")
    case = Case((2, 60, 33), 32, (3, 3), a, 0, True, 3)
    assert_close(run(a, case.tensors(), native=True, threads=3), reference(a, case.tensors()))


@needs_library
@pytest.mark.parametrize("shape", [(0, 4, 4), (1, 0, 4), (1, 4, 0)])
def test_nothing_in_nothing_out(shape: tuple[int, int, int]) -> None:
    a = DepthwiseConvAttributes()
    tensors = Case(shape, 8, (3, 3), a, 0, True, 0).tensors()
    assert run(a, tensors, native=True).shape == (*shape, 8)


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (0, (4, 4, 8), r"x has shape \[4, 4, 8\]; expected \[B, H, W, channels\]"),
        (1, (2, 3, 8), r"weight has shape \[2, 3, 8\]; expected .*odd kh and kw"),
        (2, (7,), r"bias has shape \[7\]; expected"),
        (0, (1, 4, 4, 9), r"x has .*9.*; expected at least 10"),
        (3, (1, 4, 5, 8), r"other has shape \[1, 4, 5, 8\]; expected batch, height and width of x"),
        (3, (1, 4, 4, 7), r"other has .*7.*; expected .*at least 8"),
    ],
)
def test_wrong_shapes_are_refused(position: int, shape: tuple[int, ...], message: str) -> None:
    a = DepthwiseConvAttributes(offset=2)
    tensors = Case((1, 4, 4), 8, (3, 3), a, 0, True, 0).tensors()
    tensors[position] = np.zeros(shape, np.float32)
    reason = why_not(a, {name: tensor.shape for name, tensor in zip(INPUTS, tensors, strict=True)})
    assert reason is not None
    assert re.search(message, reason)
    with pytest.raises(InputError, match=message):
        apply(a, *map(torch.from_numpy, tensors))
    if library.why_not() is None:
        with pytest.raises(Exception, match=f"DepthwiseConv: {message}"):
            run(a, tensors, native=True)


@pytest.mark.parametrize("wrong", [{"offset": -1}, {"activation": "relu"}, {"combine": "max"}])
def test_wrong_attributes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        DepthwiseConvAttributes(**wrong)


def test_torch_export_sees_the_operator() -> None:
    case = Case((2, 5, 6), 8, (3, 3), DepthwiseConvAttributes(), 0, False, 0)
    torch.library.opcheck(
        torch.ops.edgetx.depthwise_conv.default,
        (*map(torch.from_numpy, case.tensors()), None, 0, "none", "add", 0),
        test_utils=("test_schema", "test_faketensor"),
    )
