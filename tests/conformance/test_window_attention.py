"""WindowAttention: every implementation against a float64 reference that shares no code with them.

The reference walks over windows and tokens as the definition is written; shapes and attributes are drawn
at random, hand-written cases are those of published models, and the libraries' own code is a second oracle.
"""

from __future__ import annotations

import itertools
import math
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
from edgetx.ops.window_attention import WindowAttentionAttributes, apply  # noqa: E402

Tensors = list[np.ndarray[Any, Any]]
NAMES = ("qkv", "bias", "head_scale", "pad_value")
CASES = 200
DRAWN = settings(
    max_examples=CASES,
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# --------------------------------------------------------------------------- reference


def reference(a: WindowAttentionAttributes, tensors: Tensors) -> np.ndarray[Any, Any]:
    """The definition, in float64, window by window and token by token."""
    qkv, bias, head_scale, pad_value = [*(t.astype(np.float64) for t in tensors), None, None, None][:4]
    batch, height, width, channels = qkv.shape
    h, d = a.num_heads, a.head_size
    dv = channels // h - 2 * d
    size = (height, width)
    padded = size
    if a.pad != "none":
        padded = tuple(
            -(-extent // multiple) * multiple for extent, multiple in zip(size, a.pad_to, strict=True)
        )
    single = [padded[axis] == a.window[axis] for axis in (0, 1)]
    shift = list(a.shift)
    if a.shift_when_single == "drop_axis":
        shift = [0 if single[axis] else shift[axis] for axis in (0, 1)]
    elif a.shift_when_single == "drop_both" and any(single):
        shift = [0, 0]
    rolled_size = size if a.pad == "after_roll" else padded

    def origin(position: tuple[int, int]) -> tuple[int, int] | None:
        """Where a token of the rolled, padded map comes from; None for a pad token."""
        if any(position[axis] >= rolled_size[axis] for axis in (0, 1)):
            return None
        source = tuple((position[axis] + shift[axis]) % rolled_size[axis] for axis in (0, 1))
        return None if any(source[axis] >= size[axis] for axis in (0, 1)) else source

    def token(position: tuple[int, int]) -> np.ndarray[Any, Any]:
        if any(not 0 <= position[axis] < padded[axis] for axis in (0, 1)):
            return np.zeros((batch, channels))
        source = origin(position)
        if source is None:
            return np.zeros((batch, channels)) + (0.0 if pad_value is None else pad_value)
        return qkv[:, source[0], source[1]]

    def region(position: tuple[int, int]) -> tuple[int, int]:
        found = []
        for axis in (0, 1):
            if not shift[axis] or position[axis] < padded[axis] - a.window[axis]:
                found.append(0)
            else:
                found.append(1 if position[axis] < padded[axis] - shift[axis] else 2)
        return found[0], found[1]

    out = np.full((batch, height, width, h * dv), np.nan)
    for top, left in itertools.product(range(0, padded[0], a.window[0]), range(0, padded[1], a.window[1])):
        keys_top = top - (a.kv_window[0] - a.window[0]) // 2
        keys_left = left - (a.kv_window[1] - a.window[1]) // 2
        keys = [(keys_top + y, keys_left + x) for y in range(a.kv_window[0]) for x in range(a.kv_window[1])]
        rows = np.stack([token(position) for position in keys], 1)
        k = rows[..., h * d : 2 * h * d].reshape(batch, len(keys), h, d)
        v = rows[..., 2 * h * d :].reshape(batch, len(keys), h, dv)
        regions = [region(position) for position in keys]
        for query in range(a.window[0] * a.window[1]):
            position = (top + query // a.window[1], left + query % a.window[1])
            target = origin(position)
            if target is None:
                continue
            q = token(position)[:, : h * d].reshape(batch, 1, h, d)
            products = (q * k).sum(-1)
            if a.qk_norm == "l2":
                norms = [np.maximum(np.sqrt((part * part).sum(-1)), 1e-12) for part in (q, k)]
                products = products / norms[0] / norms[1]
            logits = products * a.scale
            if head_scale is not None:
                logits = logits * head_scale
            if bias is not None:
                logits = logits + bias[:, query].T
            if a.mask == "region":
                mine = region(position)
                mask = [0.0 if other == mine else a.mask_value for other in regions]
                logits = logits + np.array(mask)[:, None]
            weights = np.exp(logits - logits.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            out[:, target[0], target[1]] = (weights[..., None] * v).sum(1).reshape(batch, -1)
    assert not np.isnan(out).any()
    return out


# --------------------------------------------------------------------------- backends


def node_model(a: WindowAttentionAttributes, tensors: Tensors, opset: int, dtype: str = "FLOAT") -> ir.Model:
    """One node with dynamic batch, height and width; float32 outside, `dtype` inside."""
    inside = ir.DataType[dtype]
    channels = tensors[0].shape[3]
    shapes = [("batch", "height", "width", channels), *(t.shape for t in tensors[1:])]
    inputs = [
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
        for name, shape in zip(NAMES, shapes, strict=False)
    ]
    nodes, arguments = [], inputs
    if dtype != "FLOAT":
        nodes = [ir.node("Cast", [value], {"to": int(inside)}) for value in inputs]
        arguments = [node.outputs[0] for node in nodes]
        for value, outer in zip(arguments, inputs, strict=True):
            value.name, value.shape, value.type = f"{outer.name}_inside", outer.shape, ir.TensorType(inside)
    node = ir.node("WindowAttention", arguments, a.to_onnx(), domain="edgetx")
    nodes.append(node)
    out = node.outputs[0]
    out_shape = ir.Shape(("batch", "height", "width", a.num_heads * a.value_size(channels)))
    out.name, out.type, out.shape = "out", ir.TensorType(inside), out_shape
    if dtype != "FLOAT":
        out.name = "out_inside"
        nodes.append(ir.node("Cast", [out], {"to": int(ir.DataType.FLOAT)}))
        out = nodes[-1].outputs[0]
        out.name, out.type, out.shape = "out", ir.TensorType(ir.DataType.FLOAT), out_shape
    graph = ir.Graph(inputs, [out], nodes=nodes, opset_imports={"": opset, "edgetx": 1}, name="graph")
    return ir.Model(graph, ir_version=10)


def session(model: ir.Model, *, native: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if native:
        options.register_custom_ops_library(library.path())
    return ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run_session(model: ir.Model, tensors: Tensors, *, native: bool) -> np.ndarray[Any, Any]:
    feeds = dict(zip(NAMES, tensors, strict=False))
    return session(model, native=native).run(None, feeds)[0]


def run_torch(a: WindowAttentionAttributes, tensors: Tensors) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        return apply(a, *map(torch.from_numpy, tensors)).numpy()


def run_primitive(a: WindowAttentionAttributes, tensors: Tensors) -> np.ndarray[Any, Any]:
    model = node_model(a, tensors, opset=20)
    attach_bodies(model, "primitive")
    return run_session(model, tensors, native=False)


def run_attention(a: WindowAttentionAttributes, tensors: Tensors) -> np.ndarray[Any, Any]:
    model = node_model(a, tensors, opset=23)
    attach_bodies(model, "attention")
    return run_session(model, tensors, native=False)


def run_native(a: WindowAttentionAttributes, tensors: Tensors, dtype: str = "FLOAT") -> np.ndarray[Any, Any]:
    # No body in the model: whatever runs is our kernel.
    return run_session(node_model(a, tensors, opset=20, dtype=dtype), tensors, native=True)


def run_triton(a: WindowAttentionAttributes, tensors: list[torch.Tensor]) -> torch.Tensor:
    from edgetx.ops.window_attention.triton_kernel import window_attention

    given_ = [tensor.to(DEVICE) for tensor in tensors]
    return window_attention(a, *[*given_, None, None, None][:4]).cpu()


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
Backend = Callable[[WindowAttentionAttributes, Tensors], np.ndarray[Any, Any]]


def tolerance(a: WindowAttentionAttributes, tensors: Tensors) -> float:
    """float32, outputs of order 1; cosine attention's logits are as exact as head_scale is large."""
    largest = float(np.abs(tensors[2]).max()) if a.qk_norm == "l2" and len(tensors) > 2 else 1.0
    return 4e-6 * max(1.0, largest / 10)


def assert_matches(backend: Backend, a: WindowAttentionAttributes, tensors: Tensors) -> None:
    expected, given_ = reference(a, tensors), backend(a, tensors)
    assert given_.shape == expected.shape
    assert given_.dtype == np.float32
    error = float(np.abs(given_ - expected).max())
    assert error <= tolerance(a, tensors), f"max abs error {error:.2e}"


# --------------------------------------------------------------------------- drawn cases


@dataclass(frozen=True)
class Case:
    attributes: WindowAttentionAttributes
    batch: int
    size: tuple[int, int]
    value_size: int
    inputs: int
    seed: int

    def tensors(self) -> Tensors:
        a, random = self.attributes, np.random.default_rng(self.seed)
        channels = a.num_heads * (2 * a.head_size + self.value_size)
        head_scale = random.uniform(0.5, 2.0, a.num_heads)
        if a.qk_norm == "l2":
            head_scale = 10 ** random.uniform(0, 2, a.num_heads)
        tensors = [
            random.normal(size=(self.batch, *self.size, channels)),
            random.normal(size=(a.num_heads, a.query_tokens, a.key_tokens)),
            head_scale,
            random.normal(size=channels),
        ]
        return [tensor.astype(np.float32) for tensor in tensors[: self.inputs]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def pair(strategy: Callable[[int], st.SearchStrategy[int]]) -> tuple[int, int]:
        return draw(strategy(0)), draw(strategy(1))

    # Draws favour what stands first, so the richer choice does.
    window = pair(lambda _: st.sampled_from((4, 3, 2, 5, 7, 1)))
    overlap = draw(st.sampled_from((0, 0, 0, 1, 2)))
    kv_window = pair(lambda axis: st.sampled_from((window[axis], window[axis] + 2 * overlap)))
    shift = draw(st.sampled_from(("any", "half", "none")))
    pad = draw(st.sampled_from(("after_roll", "before_roll", "none")))
    pad_to = (
        window if pad == "none" else pair(lambda axis: st.sampled_from((1, 1, 2)).map(window[axis].__mul__))
    )
    norm = draw(st.sampled_from(("none", "l2")))
    sizes = st.sampled_from((2, 3, 1)) if pad == "none" else st.integers(1, 13)
    attributes = WindowAttentionAttributes(
        num_heads=draw(st.integers(1, 4)),
        head_size=draw(st.sampled_from((1, 2, 3, 5, 8, 13, 16, 17, 30, 32))),
        window=window,
        kv_window=kv_window,
        shift={
            "none": lambda: (0, 0),
            "half": lambda: (window[0] // 2, window[1] // 2),
            "any": lambda: pair(
                lambda axis: st.integers(0, window[axis] - 1).map(
                    lambda s: (s + window[axis] // 2) % window[axis]
                )
            ),
        }[shift](),
        mask=draw(st.sampled_from(("region", "region", "none"))),
        mask_value=draw(st.sampled_from((-100.0, -100.0, -200.0, -2.5))),
        qk_norm=norm,
        shift_when_single=draw(st.sampled_from(("keep", "drop_axis", "drop_both"))),
        scale=1.0 if norm == "l2" else draw(st.sampled_from((None, 0.25))),
        pad=pad,
        pad_to=pad_to,
    )
    size = pair(lambda _: sizes)
    same_values = draw(st.booleans())
    return Case(
        attributes,
        batch=draw(st.integers(1, 3)),
        size=(size[0] * window[0], size[1] * window[1]) if pad == "none" else size,
        value_size=attributes.head_size if same_values else draw(st.sampled_from((1, 4, 7, 15, 24, 33))),
        inputs=draw(st.sampled_from((4, 2, 3, 1))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@DRAWN
@given(case=cases())
def test_drawn(backend: Backend, case: Case) -> None:
    assert_matches(backend, case.attributes, case.tensors())


def interpretable(case: Case) -> Case:
    """The case on a smaller map with fewer heads: the interpreter takes milliseconds per block of keys."""
    if DEVICE == "cuda":
        return case
    a = case.attributes
    size = tuple(min(size, 2 * window) for size, window in zip(case.size, a.window, strict=True))
    windows = math.prod(-(-extent // window) for extent, window in zip(size, a.window, strict=True))
    blocks = windows * -(-a.query_tokens // 32) * -(-a.key_tokens // 32)
    # Several heads or several maps of several windows, in turn.
    heads = min(a.num_heads, 2) if blocks <= 2 or (case.seed % 2 and blocks <= 4) else 1
    batch = min(case.batch, 2) if blocks * heads <= 2 or (case.seed % 4 == 0 and blocks <= 4) else 1
    return replace(case, attributes=replace(a, num_heads=heads), batch=batch, size=size)


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize(
    ("dtype", "allowed"), [(torch.float32, None), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)], ids=str
)
@DRAWN
@given(case=cases().map(interpretable))
def test_triton_drawn(
    dtype: torch.dtype, allowed: float | None, case: Case, interpreting: Callable[[bool], Any]
) -> None:
    a = case.attributes
    tensors = [torch.from_numpy(tensor).to(dtype) for tensor in case.tensors()]
    expected = reference(a, [tensor.float().numpy() for tensor in tensors])
    # The integers are the same for every dtype.
    with interpreting(dtype == torch.float16):
        given_ = run_triton(a, tensors).float().numpy()
    assert given_.shape == expected.shape
    error = float(np.abs(given_ - expected).max())
    largest = max(1.0, float(np.abs(expected).max()))
    assert error <= (tolerance(a, case.tensors()) if allowed is None else allowed * largest), f"{error:.2e}"


ROUNDING = {"FLOAT16": 2.0**-11, "BFLOAT16": 2.0**-8}


@needs_library
@pytest.mark.parametrize("dtype", ROUNDING)
@DRAWN
@given(case=cases())
def test_native_half_is_float32_rounded_once(dtype: str, case: Case) -> None:
    a = case.attributes
    rounded = [t.astype(ir.DataType[dtype].numpy()).astype(np.float32) for t in case.tensors()]
    expected, given_ = reference(a, rounded), run_native(a, rounded, dtype)
    # half a unit in the last place (float16's smallest is 2^-24), after the float32 computation's own error
    allowed = np.maximum(np.abs(expected) * ROUNDING[dtype], 2.0**-25) + tolerance(a, rounded)
    assert (np.abs(given_ - expected) <= allowed).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_torch_half_is_float32_rounded_once(dtype: torch.dtype) -> None:
    a = WindowAttentionAttributes(
        2, 8, (4, 4), shift=(2, 2), mask="region", qk_norm="l2", scale=1, pad="after_roll"
    )
    tensors = [torch.from_numpy(t).to(dtype) for t in Case(a, 2, (7, 9), 8, 4, 0).tensors()]
    wide = apply(a, *(t.float() for t in tensors))
    given_ = apply(a, *tensors)
    assert given_.dtype == dtype
    torch.testing.assert_close(given_, wide.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize(("variant", "opset"), [("primitive", 20), ("attention", 23)])
@pytest.mark.parametrize("norm", ["none", "l2"])
def test_bodies_in_float16(variant: str, opset: int, norm: str) -> None:
    a = WindowAttentionAttributes(2, 8, (4, 4), shift=(2, 2), mask="region", qk_norm=norm, pad="after_roll")
    tensors = Case(replace(a, qk_norm="none"), 2, (7, 9), 8, 4, 0).tensors()
    rounded = [t.astype(np.float16).astype(np.float32) for t in tensors]
    model = node_model(a, rounded, opset, "FLOAT16")
    attach_bodies(model, variant)
    np.testing.assert_allclose(run_session(model, rounded, native=False), reference(a, rounded), atol=1e-2)


# --------------------------------------------------------------------------- published models

PUBLISHED = {
    **{
        f"swin_t_stage_{stage}{'_shifted' if shift else ''}": Case(
            WindowAttentionAttributes(heads, 32, (7, 7), shift=(shift, shift), mask="region", pad=pad),
            1, (size, size), 32, 2, stage,
        )
        for stage, (heads, size, pad) in enumerate(
            ((3, 56, "none"), (6, 28, "after_roll"), (12, 14, "before_roll"), (24, 7, "none")), 1
        )
        for shift in ((0, 3) if size > 7 else (0,))
    },
    "swinv2_padded": Case(
        WindowAttentionAttributes(
            3, 32, (8, 8), shift=(4, 4), mask="region", qk_norm="l2", scale=1.0, pad="after_roll"
        ),
        1, (20, 19), 32, 4, 5,
    ),
    "transformers_swin_one_row_of_windows": Case(
        WindowAttentionAttributes(
            3, 32, (7, 7), shift=(3, 3), mask="region", shift_when_single="drop_both", pad="before_roll"
        ),
        2, (5, 17), 32, 4, 6,
    ),
    "hat_overlapping": Case(WindowAttentionAttributes(6, 30, (16, 16), (24, 24)), 1, (32, 16), 30, 2, 7),
    "craft_unmasked": Case(WindowAttentionAttributes(3, 8, (4, 16), shift=(2, 8)), 1, (16, 32), 8, 2, 8),
    "rgt_padded_to_its_larger_side": Case(
        WindowAttentionAttributes(
            3, 30, (8, 32), shift=(4, 16), mask="region", pad="before_roll", pad_to=(32, 32)
        ),
        1, (40, 48), 30, 2, 9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published(backend: Backend, name: str) -> None:
    case = PUBLISHED[name]
    assert_matches(backend, case.attributes, case.tensors())


# --------------------------------------------------------------------------- the libraries' own code


@pytest.fixture(scope="module")
def libraries() -> None:
    from edgetx import _torchvision

    _torchvision.install()


@pytest.mark.parametrize("size", [(14, 21), (9, 17), (5, 16), (7, 7)])
@pytest.mark.parametrize("version", [1, 2])
def test_timm_block(libraries: None, version: int, size: tuple[int, int]) -> None:
    """Roll, pad, partition and attention of timm's block, by its `strict_img_size=False` path."""
    pytest.importorskip("timm")
    from timm.models.swin_transformer import SwinTransformerBlock
    from timm.models.swin_transformer_v2 import SwinTransformerV2Block

    torch.manual_seed(0)
    kind = SwinTransformerBlock if version == 1 else SwinTransformerV2Block
    block = kind(
        24, (28, 28), num_heads=3, window_size=7, shift_size=3, always_partition=True, dynamic_mask=True
    ).eval()
    attention = block.attn
    torch.nn.init.normal_(attention.qkv.weight, std=0.3)
    if version == 1:
        torch.nn.init.normal_(attention.qkv.bias)
        torch.nn.init.normal_(attention.relative_position_bias_table)
        projection_bias, head_scale = attention.qkv.bias, None
        bias = attention._get_rel_pos_bias()[0]
        a = WindowAttentionAttributes(3, 8, (7, 7), shift=(3, 3), mask="region", pad="after_roll")
    else:
        torch.nn.init.normal_(attention.q_bias)
        torch.nn.init.normal_(attention.v_bias)
        projection_bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
        head_scale = attention.logit_scale.clamp(max=np.log(100.0)).exp().flatten()
        table = attention.cpb_mlp(attention.relative_coords_table).view(-1, 3)[
            attention.relative_position_index
        ]
        bias = 16 * table.permute(2, 0, 1).sigmoid()
        a = WindowAttentionAttributes(
            3, 8, (7, 7), shift=(3, 3), mask="region", qk_norm="l2", scale=1.0, pad="after_roll"
        )
    x = torch.randn(2, *size, 24)
    with torch.inference_mode():
        qkv = torch.nn.functional.linear(x, attention.qkv.weight, projection_bias)
        given_ = attention.proj(apply(a, qkv, bias, head_scale, projection_bias))
        torch.testing.assert_close(given_, block._attn(x), rtol=0, atol=4e-6)


@pytest.mark.parametrize("size", [(14, 21), (9, 17), (5, 16), (7, 7)])
def test_torchvision_attention(libraries: None, size: tuple[int, int]) -> None:
    """Pad, then roll; the shift of an axis with a single window is dropped."""
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    torch.manual_seed(0)
    module = swin.ShiftedWindowAttention(24, [7, 7], [3, 3], 3).eval()
    for parameter in (module.qkv.weight, module.qkv.bias, module.relative_position_bias_table):
        torch.nn.init.normal_(parameter, std=0.5)
    a = WindowAttentionAttributes(
        3, 8, (7, 7), shift=(3, 3), mask="region", shift_when_single="drop_axis", pad="before_roll"
    )
    x = torch.randn(2, *size, 24)
    with torch.inference_mode():
        bias = module.get_relative_position_bias()[0]
        given_ = module.proj(apply(a, module.qkv(x), bias, None, module.qkv.bias))
        torch.testing.assert_close(given_, module(x), rtol=0, atol=4e-6)


@pytest.mark.parametrize("size", [(14, 21), (9, 17), (7, 16), (7, 7)])
def test_transformers_layer(libraries: None, size: tuple[int, int]) -> None:
    """Pad, then roll; a map with a single window along either axis is not shifted at all."""
    swin = pytest.importorskip("transformers.models.swin.modeling_swin")
    torch.manual_seed(0)
    config = swin.SwinConfig(
        window_size=7, num_heads=[3], depths=[1], embed_dim=24, attn_implementation="eager"
    )
    layer = swin.SwinLayer(config, 24, (28, 28), 3, shift_size=3).eval()
    attention = layer.attention.self
    for parameter in layer.attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    captured = {}
    layer.layernorm_before = torch.nn.Identity()
    layer.layernorm_after.register_forward_hook(lambda _, inputs, __: captured.update(x=inputs[0]))
    a = WindowAttentionAttributes(
        3, 8, (7, 7), shift=(3, 3), mask="region", shift_when_single="drop_both", pad="before_roll"
    )
    x = torch.randn(2, size[0] * size[1], 24)
    with torch.inference_mode():
        layer(x, size)
        parts = (attention.query, attention.key, attention.value)
        weight, projection_bias = (
            torch.cat([getattr(p, name) for p in parts]) for name in ("weight", "bias")
        )
        table = attention.relative_position_bias_table[attention.relative_position_index.flatten()]
        bias = table.view(49, 49, 3).permute(2, 0, 1)
        qkv = torch.nn.functional.linear(x.view(2, *size, 24), weight, projection_bias)
        given_ = layer.attention.output.dense(apply(a, qkv, bias, None, projection_bias)).view_as(x)
        torch.testing.assert_close(x + given_, captured["x"], rtol=0, atol=8e-6)


def test_hat_overlapping_windows() -> None:
    """torch.nn.Unfold, as HAT's overlapping cross-attention takes its keys."""
    torch.manual_seed(0)
    h, d, w, kv, size = 2, 6, 4, 6, (8, 12)
    qkv = torch.randn(1, *size, 3 * h * d)
    bias = torch.randn(h, w * w, kv * kv)
    q, k, v = qkv.permute(0, 3, 1, 2).chunk(3, 1)

    def windows(x: torch.Tensor, side: int) -> torch.Tensor:
        columns = torch.nn.functional.unfold(x, side, stride=w, padding=(side - w) // 2)
        return columns.view(h, d, side * side, -1).permute(3, 0, 2, 1)

    attended = ((windows(q, w) @ windows(k, kv).mT) * d**-0.5 + bias).softmax(-1) @ windows(v, kv)
    expected = torch.nn.functional.fold(
        attended.permute(1, 3, 2, 0).reshape(1, h * d * w * w, -1), size, w, stride=w
    ).permute(0, 2, 3, 1)
    a = WindowAttentionAttributes(h, d, (w, w), (kv, kv))
    torch.testing.assert_close(apply(a, qkv, bias), expected, rtol=0, atol=4e-6)


# --------------------------------------------------------------------------- what runs, and what is refused

SMALL = Case(WindowAttentionAttributes(2, 8, (4, 4), shift=(2, 2), mask="region"), 1, (8, 8), 8, 2, 0)


@needs_library
def test_native_is_what_runs() -> None:
    """Without a body only our library can run the node; with one, the library still gives the same."""
    tensors = SMALL.tensors()
    model = node_model(SMALL.attributes, tensors, opset=20)
    with pytest.raises(Exception, match="WindowAttention"):
        session(model, native=False)
    native = run_session(model, tensors, native=True)
    attach_bodies(model, "primitive")
    np.testing.assert_array_equal(run_session(model, tensors, native=True), native)
    strip_bodies(model)
    np.testing.assert_array_equal(run_session(model, tensors, native=True), native)


@pytest.mark.parametrize("backend", BACKENDS)
def test_size_that_is_no_multiple_is_refused(backend: Backend) -> None:
    """pad="none": an error, never a wrong answer, even where the number of tokens would fit."""
    case = replace(SMALL, size=(10, 8))
    with pytest.raises(Exception, match=r"multiple of|[Rr]eshape"):
        backend(case.attributes, case.tensors())
    plain = replace(case, attributes=replace(case.attributes, shift=(0, 0)), size=(6, 16))
    with pytest.raises(Exception, match=r"multiple of|[Rr]eshape"):
        backend(plain.attributes, plain.tensors())


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (0, (1, 8, 8, 47), "47 channels"),
        (0, (1, 8, 8, 32), "32 channels"),
        (1, (2, 16, 15), r"bias has shape \[2, 16, 15\]; expected \[2, 16, 16\]"),
        (2, (3,), r"head_scale has shape \[3\]; expected \[2\]"),
        (3, (47,), r"pad_value has shape \[47\]; expected \[48\]"),
    ],
)
def test_wrong_shapes_are_refused(position: int, shape: tuple[int, ...], message: str) -> None:
    tensors = replace(SMALL, inputs=4).tensors()
    tensors[position] = np.zeros(shape, np.float32)
    with pytest.raises(EdgetxError, match=message):
        run_torch(SMALL.attributes, tensors)
    model = node_model(SMALL.attributes, tensors, opset=20)
    with pytest.raises(EdgetxError, match=message):
        attach_bodies(model, "primitive")
