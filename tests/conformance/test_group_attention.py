"""GroupAttention: every implementation against a float64 reference that shares no code with them.

The reference serves token after token as the definition is written; sizes, groups and owners are drawn
at random, hand-written cases are those of published models, and PyTorch's attention module is a
second oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ir = pytest.importorskip("onnx_ir")
ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from edgetx.errors import EdgetxError  # noqa: E402
from edgetx.ops import attach_bodies, gpu, library, strip_bodies  # noqa: E402
from edgetx.ops.group_attention import GroupAttentionAttributes, apply  # noqa: E402

Array = np.ndarray[Any, Any]
NAMES = ("q", "k", "v", "groups", "inverse")
DRAWN = settings(
    max_examples=200,
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# --------------------------------------------------------------------------- reference


def reference(a: GroupAttentionAttributes, tensors: list[Array]) -> Array:
    """The definition, in float64, token by token and head by head."""
    q, k, v = (
        t.astype(np.float64).reshape(len(t), a.num_heads, t.shape[1] // a.num_heads) for t in tensors[:3]
    )
    groups, inverse = tensors[3:]
    scale = q.shape[2] ** -0.5 if a.scale is None else a.scale
    out = np.zeros_like(v)
    for token, slot in enumerate(inverse):
        if slot < 0:
            continue
        group, position = divmod(int(slot), groups.shape[1])
        query = groups[group, position]
        if query < 0:
            continue
        keys = [int(key) for key in groups[group] if key >= 0]
        for head in range(a.num_heads):
            logits = scale * (k[keys, head] @ q[query, head])
            if a.activation == "softmax":
                weights = np.exp(logits - logits.max())
                weights = weights / weights.sum()
            else:
                weights = np.where(logits > 0, logits, 0) ** 2
            out[token, head] = weights @ v[keys, head]
    return out.reshape(tensors[2].shape)


# --------------------------------------------------------------------------- backends


def node_model(
    a: GroupAttentionAttributes, tensors: list[Array], opset: int, dtype: str = "FLOAT"
) -> ir.Model:
    """One node with dynamic tokens, groups and slots; float32 outside, `dtype` inside."""
    inside, outside = ir.TensorType(ir.DataType[dtype]), ir.TensorType(ir.DataType.FLOAT)
    nodes = []

    def cast(value: ir.Value, kind: ir.TensorType, name: str) -> ir.Value:
        nodes.append(ir.node("Cast", [value], {"to": int(kind.dtype)}))
        out = nodes[-1].outputs[0]
        out.name, out.type, out.shape = name, kind, value.shape
        return out

    width, value_width = tensors[0].shape[1], tensors[2].shape[1]
    shapes = [("tokens", width), ("tokens", width), ("tokens", value_width), ("groups", "slots"), ("tokens",)]
    kinds = [outside] * 3 + [ir.TensorType(ir.DataType.INT32)] * 2
    inputs = [
        ir.Value(name=name, type=kind, shape=ir.Shape(shape))
        for name, kind, shape in zip(NAMES, kinds, shapes, strict=True)
    ]
    arguments = [cast(x, inside, f"{x.name}_inside") if x.type == outside != inside else x for x in inputs]
    node = ir.node("GroupAttention", arguments, a.with_scale(width).to_onnx(), domain="edgetx")
    nodes.append(node)
    out = node.outputs[0]
    out.name, out.type, out.shape = "raw", inside, ir.Shape(("tokens", value_width))
    out = cast(out, outside, "out")
    graph = ir.Graph(inputs, [out], nodes=nodes, opset_imports={"": opset, "edgetx": 1}, name="graph")
    return ir.Model(graph, ir_version=10)


def session(model: ir.Model, *, native: bool, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if native:
        options.register_custom_ops_library(library.path())
    return ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run_session(model: ir.Model, tensors: list[Array], *, native: bool, threads: int = 1) -> Array:
    return session(model, native=native, threads=threads).run(None, dict(zip(NAMES, tensors, strict=True)))[0]


def run_torch(a: GroupAttentionAttributes, tensors: list[Array]) -> Array:
    with torch.inference_mode():
        return apply(a, *map(torch.from_numpy, tensors)).numpy()


def run_primitive(a: GroupAttentionAttributes, tensors: list[Array]) -> Array:
    model = node_model(a, tensors, opset=20)
    attach_bodies(model, "primitive")
    return run_session(model, tensors, native=False)


def run_attention(a: GroupAttentionAttributes, tensors: list[Array]) -> Array:
    model = node_model(a, tensors, opset=23)
    attach_bodies(model, "attention")
    return run_session(model, tensors, native=False)


def run_native(
    a: GroupAttentionAttributes, tensors: list[Array], dtype: str = "FLOAT", threads: int = 1
) -> Array:
    # No body in the model: whatever runs is our kernel.
    model = node_model(a, tensors, opset=20, dtype=dtype)
    return run_session(model, tensors, native=True, threads=threads)


def run_triton(a: GroupAttentionAttributes, tensors: list[torch.Tensor]) -> torch.Tensor:
    from edgetx.ops.group_attention.triton_kernel import group_attention

    width = tensors[0].shape[1]
    return group_attention(a.with_scale(width), *(tensor.to(DEVICE) for tensor in tensors)).cpu()


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
no_triton = gpu.why_not(torch.zeros(1, device=DEVICE))
needs_triton = pytest.mark.skipif(no_triton is not None, reason=str(no_triton))
needs_library = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))
BACKENDS = [
    pytest.param(run_torch, id="torch"),
    pytest.param(run_primitive, id="primitive"),
    pytest.param(run_attention, id="attention"),
    pytest.param(run_native, id="native", marks=needs_library),
]
Backend = Callable[[GroupAttentionAttributes, list[Array]], Array]


def tolerance(expected: Array) -> float:
    """float32, for outputs of order 1; `relu2` is not normalised, so its sums may be larger."""
    return 4e-6 * max(1.0, float(np.abs(expected).max(initial=0)))


def assert_matches(backend: Backend, a: GroupAttentionAttributes, tensors: list[Array]) -> None:
    expected, given_ = reference(a, tensors), backend(a, tensors)
    assert given_.shape == expected.shape
    assert given_.dtype == np.float32
    assert not np.isnan(given_).any()
    error = float(np.abs(given_ - expected).max(initial=0))
    assert error <= tolerance(expected), f"max abs error {error:.2e}"


# --------------------------------------------------------------------------- drawn cases


def features(random: np.random.Generator, tokens: int, *channels: int) -> list[Array]:
    return [random.normal(size=(tokens, each)).astype(np.float32) for each in channels]


@dataclass(frozen=True)
class Case:
    """`filled` of the slots hold a token; `owned` of the tokens that stand in a slot have an output."""

    attributes: GroupAttentionAttributes
    head_size: int
    value_size: int
    tokens: int
    groups: int
    slots: int
    filled: float
    owned: float
    strange: bool
    seed: int

    def tensors(self) -> list[Array]:
        a, random = self.attributes, np.random.default_rng(self.seed)
        width, value_width = a.num_heads * self.head_size, a.num_heads * self.value_size
        q, k, v = features(random, self.tokens, width, width, value_width)
        shape = (self.groups, self.slots)
        groups = random.integers(0, max(self.tokens, 1), shape)
        groups[(random.random(shape) >= self.filled) | (self.tokens == 0)] = -1
        if self.groups > 1:
            groups[random.integers(self.groups)] = -1  # an empty group
        inverse = np.full(self.tokens, -1)
        if self.strange and groups.size:
            # Any slot at all, empty ones and those of other tokens included.
            inverse = random.integers(-1, groups.size, self.tokens)
        else:
            for slot in random.permutation(groups.size):
                if (token := groups.flat[slot]) >= 0 and random.random() < self.owned:
                    inverse[token] = slot
        return [q, k, v, groups.astype(np.int32), inverse.astype(np.int32)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    head_size = draw(st.sampled_from((16, 8, 1, 2, 3, 5, 13, 17, 30, 32)))
    slots = draw(st.sampled_from((5, 36, 1, 2, 16, 33, 69, 130)))
    activation = draw(st.sampled_from(("softmax", "relu2")))
    # relu2 sums over the group: this keeps most outputs of order 1.
    scale = draw(st.sampled_from((None, 0.5))) if activation == "softmax" else (head_size * slots) ** -0.5
    return Case(
        GroupAttentionAttributes(draw(st.integers(1, 4)), scale, activation),
        head_size,
        value_size=head_size if draw(st.booleans()) else draw(st.sampled_from((1, 4, 7, 15, 24, 33))),
        tokens=draw(st.sampled_from((29, 60, 7, 1, 2, 0))),
        groups=draw(st.sampled_from((3, 7, 1, 2, 0))),
        slots=slots,
        filled=draw(st.sampled_from((0.7, 1.0, 0.1, 0.0))),
        owned=draw(st.sampled_from((1.0, 0.6))),
        strange=draw(st.sampled_from((False, False, False, True))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@DRAWN
@given(case=cases())
def test_drawn(backend: Backend, case: Case) -> None:
    assert_matches(backend, case.attributes, case.tensors())


def interpretable(case: Case) -> Case:
    """The case with fewer heads and groups: the interpreter takes milliseconds per block of keys."""
    if DEVICE == "cuda":
        return case
    blocks = (-(-case.slots // 32)) ** 2
    heads = min(case.attributes.num_heads, 1 if blocks > 4 else 2)
    # One of several groups is empty.
    groups = min(case.groups, 2 if blocks > 4 else 3 if heads * blocks > 2 else 7)
    return replace(case, attributes=replace(case.attributes, num_heads=heads), groups=groups)


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize(
    ("dtype", "allowed"), [(torch.float32, 4e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)], ids=str
)
@DRAWN
@given(case=cases().map(interpretable))
def test_triton_drawn(
    dtype: torch.dtype, allowed: float, case: Case, interpreting: Callable[[bool], Any]
) -> None:
    tensors = [torch.from_numpy(tensor) for tensor in case.tensors()]
    tensors = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
    wide = [tensor.float().numpy() for tensor in tensors[:3]] + [tensor.numpy() for tensor in tensors[3:]]
    expected = reference(case.attributes, wide)
    # The integers are the same for every dtype.
    with interpreting(dtype == torch.float16):
        given_ = run_triton(case.attributes, tensors).float().numpy()
    assert given_.shape == expected.shape
    assert not np.isnan(given_).any()
    error = float(np.abs(given_ - expected).max(initial=0))
    assert error <= allowed * max(1.0, float(np.abs(expected).max(initial=0))), f"{error:.2e}"


ROUNDING = {"FLOAT16": 2.0**-11, "BFLOAT16": 2.0**-8}


def rounded(tensors: list[Array], dtype: str) -> list[Array]:
    half = ir.DataType[dtype].numpy()
    return [t.astype(half).astype(np.float32) for t in tensors[:3]] + tensors[3:]


@needs_library
@pytest.mark.parametrize("dtype", ROUNDING)
@DRAWN
@given(case=cases())
def test_native_half_is_float32_rounded_once(dtype: str, case: Case) -> None:
    tensors = rounded(case.tensors(), dtype)
    expected, given_ = reference(case.attributes, tensors), run_native(case.attributes, tensors, dtype)
    # half a unit in the last place (float16's smallest is 2^-24), after the float32 computation's own error
    allowed = np.maximum(np.abs(expected) * ROUNDING[dtype], 2.0**-25) + tolerance(expected)
    assert (np.abs(given_ - expected) <= allowed).all()


SMALL = Case(GroupAttentionAttributes(2), 8, 6, 20, 4, 9, 0.8, 1.0, False, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_torch_half_is_float32_rounded_once(dtype: torch.dtype) -> None:
    *data, groups, inverse = map(torch.from_numpy, SMALL.tensors())
    data = [t.to(dtype) for t in data]
    wide = apply(SMALL.attributes, *(t.float() for t in data), groups, inverse)
    given_ = apply(SMALL.attributes, *data, groups, inverse)
    assert given_.dtype == dtype
    torch.testing.assert_close(given_, wide.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize(("variant", "opset"), [("primitive", 20), ("attention", 23)])
@pytest.mark.parametrize("activation", ["softmax", "relu2"])
def test_bodies_in_float16(variant: str, opset: int, activation: str) -> None:
    a = GroupAttentionAttributes(2, None if activation == "softmax" else 72**-0.5, activation)
    tensors = rounded(SMALL.tensors(), "FLOAT16")
    model = node_model(a, tensors, opset, "FLOAT16")
    attach_bodies(model, variant)
    np.testing.assert_allclose(run_session(model, tensors, native=False), reference(a, tensors), atol=1e-2)


# --------------------------------------------------------------------------- published models


def chunks(tokens: int, slots: int, order: Array) -> tuple[Array, Array]:
    """Groups of `slots` tokens along an order, the last one filled by the tokens before it (FlatFormer)."""
    count = -(-tokens // slots)
    positions = np.arange(count * slots)
    positions[tokens:] -= slots
    owners = np.empty(tokens, np.int32)
    owners[order] = np.arange(tokens)
    return order[positions].reshape(count, slots).astype(np.int32), owners


def flatformer(slots: int) -> tuple[GroupAttentionAttributes, list[Array]]:
    random = np.random.default_rng(slots)
    groups, inverse = chunks(500, slots, random.permutation(500))
    return GroupAttentionAttributes(8), [*features(random, 500, 128, 128, 128), groups, inverse]


def dsvt() -> tuple[GroupAttentionAttributes, list[Array]]:
    """Sets of 36, evenly sampled with duplicates; the duplicates are masked as keys."""
    random = np.random.default_rng(36)
    groups = np.full((9, 36), -1, np.int32)
    inverse = np.empty(300, np.int32)
    for row, part in enumerate(np.array_split(random.permutation(300), 9)):
        inverse[part] = row * 36 + np.arange(len(part))
        groups[row, : len(part)] = part
    return GroupAttentionAttributes(8), [*features(random, 300, 192, 192, 192), groups, inverse]


def rat() -> tuple[GroupAttentionAttributes, list[Array]]:
    """Regions of a 28 x 28 map, of very different sizes, padded to the largest; scale h^-0.5."""
    random = np.random.default_rng(5)
    region = random.choice(6, 784, p=(0.55, 0.2, 0.15, 0.06, 0.03, 0.01))
    parts = [np.flatnonzero(region == each) for each in range(6)]
    groups = np.full((6, max(map(len, parts))), -1, np.int32)
    inverse = np.empty(784, np.int32)
    for row, part in enumerate(parts):
        groups[row, : len(part)] = part
        inverse[part] = row * groups.shape[1] + np.arange(len(part))
    return GroupAttentionAttributes(4, 4**-0.5), [*features(random, 784, 40, 40, 40), groups, inverse]


def mossformer() -> tuple[GroupAttentionAttributes, list[Array]]:
    """Local chunks of 256 along time, one head of 128, values twice as wide; scale 1/256."""
    random = np.random.default_rng(256)
    groups = np.full((2, 256), -1, np.int32)
    groups.flat[:400] = np.arange(400)
    inverse = np.arange(400, dtype=np.int32)
    return (
        GroupAttentionAttributes(1, 1 / 256, "relu2"),
        [*features(random, 400, 128, 128, 256), groups, inverse],
    )


PUBLISHED = {
    "flatformer_69": lambda: flatformer(69),
    "flatformer_144": lambda: flatformer(144),
    "dsvt": dsvt,
    "rat": rat,
    "mossformer": mossformer,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published(backend: Backend, name: str) -> None:
    assert_matches(backend, *PUBLISHED[name]())


def test_multihead_attention() -> None:
    """PyTorch's own module, on padded groups with a key mask."""
    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(24, 3, batch_first=True).eval()
    x = torch.randn(11, 24)
    groups = torch.tensor([[3, 1, 4, 0], [5, 9, 2, -1], [6, 8, -1, -1], [7, 10, 3, 4]], dtype=torch.int32)
    inverse = torch.tensor([3, 1, 6, 14, 2, 4, 8, 12, 9, 5, 13], dtype=torch.int32)
    with torch.inference_mode():
        q, k, v = torch.nn.functional.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
        given_ = module.out_proj(apply(GroupAttentionAttributes(3), q, k, v, groups, inverse))
        slots = module(*[x[groups.clamp(min=0)]] * 3, key_padding_mask=groups < 0, need_weights=False)[0]
        torch.testing.assert_close(given_, slots.flatten(0, 1)[inverse], rtol=0, atol=4e-6)


# --------------------------------------------------------------------------- what runs, and what is refused


@needs_library
def test_native_is_what_runs() -> None:
    """Without a body only our library can run the node; with one, the library still gives the same."""
    tensors = SMALL.tensors()
    model = node_model(SMALL.attributes, tensors, opset=20)
    with pytest.raises(Exception, match="GroupAttention"):
        session(model, native=False)
    native = run_session(model, tensors, native=True)
    attach_bodies(model, "primitive")
    np.testing.assert_array_equal(run_session(model, tensors, native=True), native)
    strip_bodies(model)
    np.testing.assert_array_equal(run_session(model, tensors, native=True), native)


@needs_library
@pytest.mark.parametrize("name", ["rat", "flatformer_69"])
def test_threads_do_not_change_the_result(name: str) -> None:
    a, tensors = PUBLISHED[name]()
    np.testing.assert_array_equal(run_native(a, tensors, threads=3), run_native(a, tensors))


@pytest.mark.parametrize("backend", [BACKENDS[0], BACKENDS[3]])
@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (3, 20, "groups holds 20; expected -1 or an index into the tokens, 0 to 19"),
        (3, -2, "groups holds -2"),
        (4, 36, "inverse holds 36; expected -1 or an index into the slots, 0 to 35"),
        (4, -(2**31), "inverse holds -2147483648"),
        (4, 2**31 - 1, "inverse holds 2147483647"),
    ],
)
def test_indices_out_of_range_are_refused(backend: Backend, position: int, value: int, message: str) -> None:
    tensors = SMALL.tensors()
    tensors[position].flat[5] = value
    with pytest.raises(Exception, match=message):
        backend(SMALL.attributes, tensors)


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (0, (20, 15), "q has 15 channels with num_heads=2"),
        (1, (20, 14), r"k has shape \[20, 14\]; expected \[20, 16\]"),
        (1, (19, 16), r"k has shape \[19, 16\]; expected \[20, 16\]"),
        (2, (20, 11), "v has 11 channels"),
        (2, (21, 12), r"v has shape \[21, 12\]; expected \[20, "),
        (3, (36,), r"groups has shape \[36\]; expected \[G, S\]"),
        (3, (4, 0), "at least one slot per group"),
        (4, (21,), r"inverse has shape \[21\]; expected \[20\]"),
        (4, (20, 1), r"inverse has shape \[20, 1\]; expected \[T\]"),
    ],
)
def test_wrong_shapes_are_refused(position: int, shape: tuple[int, ...], message: str) -> None:
    good = SMALL.tensors()
    tensors = list(good)
    tensors[position] = np.zeros(shape, good[position].dtype)
    with pytest.raises(EdgetxError, match=message):
        run_torch(SMALL.attributes, tensors)
    if library.why_not() is not None:
        return
    # Shapes of which the model says nothing reach the kernel.
    model = node_model(SMALL.attributes, good, opset=20)
    for value in model.graph.inputs:
        value.shape = None
    for node in model.graph:
        for out in node.outputs:
            out.shape = None
    with pytest.raises(Exception, match=message.replace(r"expected \[T\]", r"expected \[20\]")):
        run_session(model, tensors, native=True)
