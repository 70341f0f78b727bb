"""BiasGelu, AddNorm and NormAdd: bodies and kernels against a float64 reference, at every instruction set."""

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

from edgetx.errors import EdgetxError  # noqa: E402
from edgetx.ops import OPERATORS, attach_bodies, library  # noqa: E402

Tensors = list[np.ndarray[Any, Any]]
INPUTS = {
    "BiasGelu": ("x", "bias"),
    **dict.fromkeys(("AddNorm", "NormAdd"), ("x", "branch", "bias", "scale", "shift")),
}
OUTPUTS = {"BiasGelu": ("y",), "AddNorm": ("sum", "norm"), "NormAdd": ("out",)}
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
operators = pytest.mark.parametrize("name", INPUTS)


def reference(name: str, tensors: Tensors, epsilon: float = 0.0) -> Tensors:
    """The definition, in float64."""
    x, *rest = (tensor.astype(np.float64) for tensor in tensors)

    def normalised(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        centred = values - values.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return centred / deviation * scale + shift

    if name == "BiasGelu":
        value = x + rest[0]
        return [value * special.ndtr(value)]
    branch, bias, scale, shift = rest
    if name == "NormAdd":
        return [x + normalised(branch + bias)]
    total = x + branch + bias
    return [total, normalised(total)]


def node_model(
    name: str,
    shapes: list[tuple[int, ...]],
    epsilon: float,
    dtype: str,
    opset: int = 20,
    *,
    static: bool = False,
) -> ir.Model:
    """One node, by default with dynamic leading axes; float32 outside, `dtype` inside."""
    inside, outside = ir.TensorType(ir.DataType[dtype]), ir.TensorType(ir.DataType.FLOAT)

    def shape_of(shape: tuple[int, ...]) -> ir.Shape:
        if static:
            return ir.Shape(shape)
        return ir.Shape([f"axis_{axis}" for axis in range(len(shape) - 1)] + list(shape[-1:]))

    inputs = [
        ir.Value(name=each, type=outside, shape=shape_of(shape))
        for each, shape in zip(INPUTS[name], shapes, strict=True)
    ]
    nodes = [ir.node("Cast", [value], {"to": int(inside.dtype)}) for value in inputs]
    for cast, value in zip(nodes, inputs, strict=True):
        cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = (
            f"{value.name}_in",
            inside,
            value.shape,
        )
    attributes = {} if name == "BiasGelu" else {"epsilon": epsilon}
    fused = ir.node(
        name, [cast.outputs[0] for cast in nodes], attributes, domain="edgetx", num_outputs=len(OUTPUTS[name])
    )
    casts = [ir.node("Cast", [value], {"to": int(outside.dtype)}) for value in fused.outputs]
    for each, value, cast in zip(OUTPUTS[name], fused.outputs, casts, strict=True):
        value.name, value.type, value.shape = f"{each}_in", inside, shape_of(shapes[0])
        cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = each, outside, shape_of(shapes[0])
    graph = ir.Graph(
        inputs,
        [cast.outputs[0] for cast in casts],
        nodes=[*nodes, fused, *casts],
        opset_imports={"": opset, "edgetx": 1},
        name="graph",
    )
    return ir.Model(graph, ir_version=10)


def run(
    name: str,
    tensors: Tensors,
    epsilon: float,
    dtype: str = "FLOAT",
    *,
    native: bool,
    threads: int = 1,
    opset: int = 20,
) -> Tensors:
    model = node_model(name, [tensor.shape for tensor in tensors], epsilon, dtype, opset)
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
    return session.run(None, dict(zip(INPUTS[name], tensors, strict=True)))


def assert_close(name: str, tensors: Tensors, given_: Tensors, epsilon: float, dtype: str = "FLOAT") -> None:
    for output, actual, expected in zip(
        OUTPUTS[name], given_, reference(name, tensors, epsilon), strict=True
    ):
        assert actual.shape == expected.shape
        error = np.abs(actual - expected)
        # half a unit in the last place, after the float32 computation's own error
        allowed = np.maximum(np.abs(expected) * ROUNDING[dtype], 2.0**-25) + 4e-6 * np.maximum(
            1, np.abs(expected)
        )
        assert (error <= allowed).all(), f"{output}: max abs error {error.max(initial=0):.2e}"


@dataclass(frozen=True)
class Case:
    name: str
    leading: tuple[int, ...]
    channels: int
    epsilon: float
    offset: float
    seed: int

    def tensors(self, dtype: str = "FLOAT") -> Tensors:
        random = np.random.default_rng(self.seed)
        shape = (*self.leading, self.channels)
        if self.name == "BiasGelu":
            drawn = [random.normal(scale=3, size=shape), random.normal(size=self.channels)]
        else:
            # An offset common to a row is what a one-pass variance cannot bear.
            drawn = [random.normal(size=shape), self.offset + random.normal(size=shape)]
            drawn += [random.normal(size=self.channels) for _ in range(3)]
        inside = ir.DataType[dtype].numpy()
        return [each.astype(np.float32).astype(inside).astype(np.float32) for each in drawn]


def cases() -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        name=st.sampled_from(tuple(INPUTS)),
        leading=st.lists(st.integers(1, 6), max_size=3).map(tuple),
        channels=st.one_of(st.integers(8, 140), st.sampled_from((8, 16, 64, 96, 768))),
        epsilon=st.sampled_from((1e-5, 1e-6, 1e-3)),
        offset=st.sampled_from((0.0, 3.0)),
        seed=st.integers(0, 2**32 - 1),
    )


@DRAWN
@given(case=cases())
def test_body_drawn(case: Case) -> None:
    assert_close(
        case.name, case.tensors(), run(case.name, case.tensors(), case.epsilon, native=False), case.epsilon
    )


@needs_library
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ROUNDING)
@DRAWN
@given(case=cases())
def test_native_drawn(monkeypatch: pytest.MonkeyPatch, dtype: str, level: str, case: Case) -> None:
    """Half precision is float32 rounded once."""
    monkeypatch.setenv("EDGETX_CPU", level)
    tensors = case.tensors(dtype)
    given_ = run(case.name, tensors, case.epsilon, dtype, native=True)
    assert_close(case.name, tensors, given_, case.epsilon, dtype)


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=needs_library)])
@pytest.mark.parametrize("dtype", ["FLOAT", "FLOAT16"])
@operators
def test_body_and_kernel_agree(name: str, dtype: str, native: bool) -> None:
    tensors = Case(name, (2, 7), 48, 1e-5, 0.0, 1).tensors(dtype)
    for actual, expected in zip(
        run(name, tensors, 1e-5, dtype, native=native, opset=23), reference(name, tensors, 1e-5), strict=True
    ):
        np.testing.assert_allclose(actual, expected, atol=4e-6 if dtype == "FLOAT" else 2e-2, rtol=0)


@needs_library
@pytest.mark.parametrize("level", LEVELS)
def test_gelu_on_its_whole_range(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """Within 1e-6 of float64 (relatively beyond 1), exact in the tails, NaN where NaN goes in."""
    monkeypatch.setenv("EDGETX_CPU", level)
    huge = np.float32([0, -0.0, 1e-30, 5.5, -5.5, 20, -20, 1e4, -1e4, 1e30, -1e30])
    x = np.concatenate((np.linspace(-7, 7, 200_005, dtype=np.float32), huge)).reshape(8, -1)
    bias = np.zeros(x.shape[1], np.float32)
    (y,) = run("BiasGelu", [x, bias], 0.0, native=True)
    (expected,) = reference("BiasGelu", [x, bias])
    assert (np.abs(y - expected) <= 1e-6 * np.maximum(1, np.abs(expected))).all()
    assert (y[x <= -20] == 0).all() and (y[x >= 20] == x[x >= 20]).all()
    special_values = np.float32([[np.nan, np.inf, -np.inf, 1]])
    (y,) = run("BiasGelu", [special_values, np.zeros(4, np.float32)], 0.0, native=True)
    np.testing.assert_array_equal(y[0, :3], [np.nan, np.inf, 0])


@needs_library
@operators
def test_many_rows_on_several_threads(name: str) -> None:
    """As many tasks as there can be, and their borders."""
    tensors = Case(name, (1, 12_347), 96, 1e-5, 0.0, 2).tensors()
    assert_close(name, tensors, run(name, tensors, 1e-5, native=True, threads=3), 1e-5)


@needs_library
@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8), (3, 0)])
@operators
def test_nothing_in_nothing_out(name: str, shape: tuple[int, ...]) -> None:
    vectors = len(INPUTS[name]) - (1 if name == "BiasGelu" else 2)
    full = len(INPUTS[name]) - vectors
    tensors = [np.zeros(shape, np.float32)] * full + [np.zeros(shape[-1:], np.float32)] * vectors
    for output in run(name, tensors, 1e-5, native=True):
        assert output.shape == shape


@needs_library
def test_constant_rows_are_shifts() -> None:
    """Variance 0: the norm is the shift, not NaN."""
    x = np.full((3, 40), 7, np.float32)
    vectors = list(np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32))
    vectors[0][:] = 0
    _, norm = run("AddNorm", [x, x, *vectors], 1e-5, native=True)
    np.testing.assert_array_equal(norm, np.broadcast_to(vectors[2], norm.shape))


@pytest.mark.parametrize(
    ("name", "position", "shape", "message"),
    [
        (
            "BiasGelu",
            1,
            (7,),
            r"bias has shape \[7\]; expected \[8\], since x has shape \[2, 3, 8\]",
        ),
        ("BiasGelu", 1, (1, 8), r"bias has shape \[1, 8\]; expected \[8\]"),
        ("AddNorm", 1, (1, 3, 8), r"branch has shape \[1, 3, 8\]; expected \[2, 3, 8\]"),
        ("NormAdd", 3, (1,), r"scale has shape \[1\]; expected \[8\]"),
        ("AddNorm", 4, (9,), r"shift has shape \[9\]; expected \[8\]"),
    ],
)
def test_wrong_shapes_are_refused(name: str, position: int, shape: tuple[int, ...], message: str) -> None:
    full = 1 if name == "BiasGelu" else 2
    tensors = [
        np.zeros((2, 3, 8) if index < full else (8,), np.float32) for index in range(len(INPUTS[name]))
    ]
    tensors[position] = np.zeros(shape, np.float32)
    operator = next(each for each in OPERATORS if each.name == name)
    reason = operator.why_not(
        None, dict(zip(INPUTS[name], (tensor.shape for tensor in tensors), strict=True))
    )
    assert reason is not None
    assert re.match(message, reason)
    with pytest.raises(EdgetxError, match=message):
        attach_bodies(
            node_model(name, [tensor.shape for tensor in tensors], 1e-5, "FLOAT", static=True), "primitive"
        )
    if library.why_not() is None:
        with pytest.raises(Exception, match=f"{name}: {message}"):
            run(name, tensors, 1e-5, native=True)


def test_negative_epsilon_is_refused() -> None:
    tensors = Case("AddNorm", (2,), 8, 1e-5, 0.0, 0).tensors()
    with pytest.raises(EdgetxError, match=r"epsilon=-1\.0; accepted: 0 or more"):
        run("AddNorm", tensors, -1.0, native=False)
    if library.why_not() is None:
        with pytest.raises(Exception, match=r"AddNorm: epsilon=-1.*accepted: 0 or more"):
            run("AddNorm", tensors, -1.0, native=True)
