"""WindowAttention: attributes, checker, PyTorch operator, translation; tests/conformance has the numbers."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from edgetx.errors import InputError
from edgetx.ops import attach_bodies, translation_table
from edgetx.ops.window_attention import WindowAttentionAttributes, why_not

SHIFTED = WindowAttentionAttributes(3, 8, (4, 4), shift=(2, 2), mask="region", pad="after_roll")


# --------------------------------------------------------------------------- attributes


def test_defaults_follow_the_window_and_the_head_size() -> None:
    a = WindowAttentionAttributes(3, 16, (4, 8))
    assert (a.kv_window, a.pad_to, a.scale) == ((4, 8), (4, 8), 0.25)
    assert (a.query_tokens, a.key_tokens, a.value_size(3 * 40)) == (32, 32, 8)
    with pytest.raises(FrozenInstanceError):
        a.num_heads = 4  # type: ignore[misc]


def test_onnx_round_trip_is_exact() -> None:
    a = WindowAttentionAttributes(
        6, 30, (16, 16), (24, 24), (8, 8), "region", -200.0, "l2", "drop_both", None, "before_roll", (32, 32)
    )
    values = a.to_onnx()
    assert values["plugin_namespace"] == "edgetx"
    assert WindowAttentionAttributes.from_onnx(values) == a
    assert hash(WindowAttentionAttributes.from_onnx(values)) == hash(a)


def test_from_onnx_names_what_is_wrong() -> None:
    with pytest.raises(InputError, match="unknown attributes heads; accepted: num_heads"):
        WindowAttentionAttributes.from_onnx({**SHIFTED.to_onnx(), "heads": 3})
    with pytest.raises(InputError, match="lacks its attributes head_size, window"):
        WindowAttentionAttributes.from_onnx({"num_heads": 3})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 0}, "num_heads=0; expected a positive"),
        ({"head_size": -1}, "head_size=-1"),
        ({"window": (0, 4)}, r"window=\(0, 4\)"),
        ({"window": (4,)}, "expected two sizes"),
        ({"kv_window": (5, 4)}, "plus an even number"),
        ({"kv_window": (2, 4)}, "plus an even number"),
        ({"shift": (4, 0)}, "0 <= shift < window"),
        ({"shift": (0, -1)}, "0 <= shift < window"),
        ({"mask": "causal"}, "mask='causal'; accepted: none, region"),
        ({"qk_norm": "rms"}, "accepted: none, l2"),
        ({"shift_when_single": "drop"}, "accepted: keep, drop_axis, drop_both"),
        ({"pad": "same"}, "accepted: none, before_roll, after_roll"),
        ({"pad": "before_roll", "pad_to": (6, 4)}, "multiple of the window"),
        ({"pad_to": (8, 8)}, "no effect with pad='none'"),
        ({"mask_value": float("-inf")}, "finite float32"),
        ({"scale": float("nan")}, "finite float32"),
        ({"scale": 1e39}, "finite float32"),
        ({"scale": 0.0}, "expected a positive number"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WindowAttentionAttributes(**{"num_heads": 3, "head_size": 8, "window": (4, 4), **changes})


@pytest.mark.parametrize(
    ("rule", "padded", "shift"),
    [
        ("keep", (4, 4), (2, 2)),
        ("drop_axis", (4, 8), (0, 2)),
        ("drop_axis", (8, 8), (2, 2)),
        ("drop_both", (8, 4), (0, 0)),
        ("drop_both", (8, 8), (2, 2)),
    ],
)
def test_shift_of_a_single_window(rule: Any, padded: tuple[int, int], shift: tuple[int, int]) -> None:
    a = WindowAttentionAttributes(3, 8, (4, 4), shift=(2, 2), shift_when_single=rule)
    assert a.shift_at(padded) == shift


def test_padded_size() -> None:
    a = WindowAttentionAttributes(3, 8, (8, 32), pad="before_roll", pad_to=(32, 32))
    assert a.padded(40, 32) == (64, 32)
    assert WindowAttentionAttributes(3, 8, (4, 4)).padded(8, 12) == (8, 12)


# --------------------------------------------------------------------------- checker


def test_why_not_takes_symbols() -> None:
    assert (
        why_not(SHIFTED, {"qkv": ("batch", None, "width", 72), "bias": (3, 16, 16), "head_scale": None})
        is None
    )
    assert why_not(WindowAttentionAttributes(3, 8, (4, 4)), {"qkv": ("batch", "height", "width", 72)}) is None


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"qkv": (1, 8, 72)}, "qkv has shape [1, 8, 72]; expected [batch, height, width, channels]"),
        ({"qkv": (1, 8, 8, 71)}, "71 channels with num_heads=3, head_size=8"),
        ({"qkv": (1, 8, 8, 48)}, "48 channels"),
        ({"qkv": (1, 0, 8, 72)}, "the map has height 0"),
        ({"qkv": (1, 8, 8, 72), "bias": (16, 16)}, "bias has shape [16, 16]; expected [3, 16, 16]"),
        ({"qkv": (1, 8, 8, 72), "head_scale": (3, 1, 1)}, "head_scale has shape [3, 1, 1]; expected [3]"),
        ({"qkv": (1, 8, 8, 72), "pad_value": (24,)}, "pad_value has shape [24]; expected [72]"),
    ],
)
def test_why_not_shows_the_values(shapes: dict[str, Any], message: str) -> None:
    reason = why_not(SHIFTED, shapes)
    assert reason is not None
    assert message in reason
    assert "\n" not in reason


def test_why_not_names_the_way_out_of_a_wrong_size() -> None:
    reason = why_not(WindowAttentionAttributes(3, 8, (4, 4)), {"qkv": (1, 8, 9, 72)})
    assert reason is not None
    assert "width 9 is no multiple of the window 4 and pad='none'" in reason
    assert "before_roll" in reason


# --------------------------------------------------------------------------- PyTorch


@pytest.fixture
def block() -> Any:
    torch = pytest.importorskip("torch")
    from edgetx.ops.window_attention import apply

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = torch.nn.Linear(6, 72)
            self.bias = torch.nn.Parameter(torch.randn(3, 16, 16))
            self.present = {"bias": True, "pad_value": True}
            self.attributes = SHIFTED

        def forward(self, x: Any) -> Any:
            bias = self.bias if self.present["bias"] else None
            pad_value = self.qkv.bias if self.present["pad_value"] else None
            return apply(self.attributes, self.qkv(x), bias, None, pad_value)

    torch.manual_seed(0)
    return Block().eval()


def test_operator_passes_torchs_own_checks() -> None:
    torch = pytest.importorskip("torch")
    from edgetx.ops.window_attention import window_attention

    values = SHIFTED.to_onnx()
    values.pop("plugin_namespace")
    torch.library.opcheck(
        window_attention,
        (torch.randn(2, 9, 7, 72), torch.randn(3, 16, 16), None, torch.randn(72), *values_in_order(values)),
        test_utils=("test_schema", "test_faketensor"),
    )


def values_in_order(values: dict[str, Any]) -> list[Any]:
    from edgetx.ops.window_attention import window_attention

    return [values[argument.name] for argument in window_attention._schema.arguments[4:]]


def test_torch_export_keeps_sizes_symbolic(block: Any) -> None:
    torch = pytest.importorskip("torch")
    dynamic = {axis: torch.export.Dim.DYNAMIC for axis in range(3)}
    program = torch.export.export(block, (torch.randn(2, 9, 7, 6),), dynamic_shapes=(dynamic,))
    for size in ((1, 4, 4), (3, 13, 5)):
        x = torch.randn(*size, 6)
        torch.testing.assert_close(program.module()(x), block(x), rtol=0, atol=0)


def test_output_is_contiguous_and_new() -> None:
    torch = pytest.importorskip("torch")
    from edgetx.ops.window_attention import apply

    a = WindowAttentionAttributes(1, 1, (1, 1))
    qkv = torch.randn(1, 2, 2, 3)
    out = apply(a, qkv)
    assert out.is_contiguous()
    torch.testing.assert_close(out[..., 0], qkv[..., 2])
    out.zero_()
    assert qkv.any()


def test_integers_are_refused() -> None:
    torch = pytest.importorskip("torch")
    from edgetx.ops.window_attention import apply

    with pytest.raises(InputError, match=r"dtype torch\.int64; expected a floating-point"):
        apply(SHIFTED, torch.zeros(1, 8, 8, 72, dtype=torch.int64))


# --------------------------------------------------------------------------- translation


@pytest.mark.parametrize(
    ("bias", "pad_value", "inputs"), [(True, True, 4), (False, True, 4), (True, False, 2), (False, False, 1)]
)
def test_translation_emits_the_node_and_the_body_runs(
    block: Any, bias: bool, pad_value: bool, inputs: int
) -> None:
    torch = pytest.importorskip("torch")
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    import onnx_ir as ir

    block.present = {"bias": bias, "pad_value": pad_value}
    program = torch.onnx.export(
        block,
        (torch.randn(2, 9, 7, 6),),
        dynamo=True,
        verbose=False,
        opset_version=20,
        input_names=["x"],
        dynamic_shapes=({0: "batch", 1: "height", 2: "width"},),
        custom_translation_table=translation_table(),
    )
    [node] = [node for node in program.model.graph if node.domain == "edgetx"]
    assert node.op_type == "WindowAttention"
    assert len(node.inputs) == inputs
    assert all(value is not None for value in node.inputs)
    read = {name: attribute.value for name, attribute in node.attributes.items()}
    assert WindowAttentionAttributes.from_onnx(read) == SHIFTED
    assert set(read) == set(SHIFTED.to_onnx())

    attach_bodies(program.model, "primitive")
    model = ir.to_proto(program.model)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for size in ((1, 4, 4), (3, 13, 5)):
        x = torch.randn(*size, 6)
        with torch.inference_mode():
            expected = block(x)
        given = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
        torch.testing.assert_close(given, expected, rtol=0, atol=4e-6)


def test_translation_leaves_out_a_pad_value_that_is_never_read(block: Any) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    block.attributes = WindowAttentionAttributes(3, 8, (4, 4))
    program = torch.onnx.export(
        block,
        (torch.randn(2, 8, 4, 6),),
        dynamo=True,
        verbose=False,
        custom_translation_table=translation_table(),
    )
    [node] = [node for node in program.model.graph if node.domain == "edgetx"]
    assert len(node.inputs) == 2
