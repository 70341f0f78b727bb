"""Quick-deployable plugins: the kernel in Triton's interpreter, its PTX, and what TensorRT's API is told."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgetx.errors import EdgetxError, InputError
from edgetx.ops import gpu
from edgetx.ops.group_attention.attributes import GroupAttentionAttributes
from edgetx.ops.window_attention.attributes import WindowAttentionAttributes

pytest.importorskip("triton")
from edgetx.ops import quick
from edgetx.ops.group_attention import quick as quick_group
from edgetx.ops.window_attention import quick as quick_window

CHILD = Path(__file__).with_name("quick_child.py")
LINKED = {
    "nvinfer": ("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
                "getBuilderPluginRegistry", "getPluginRegistry"),
    "nvonnxparser": ("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL",
                     "getNvOnnxParserVersion"),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
}  # fmt: skip
"""Libraries of TensorRT and the symbols of theirs that its Python bindings link to."""


def child(what: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, str(CHILD), what]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0", **environment}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(not gpu.interpreted(), reason="needs TRITON_INTERPRET=1")
@pytest.mark.parametrize(
    ("a", "size", "inputs"),
    [
        ({"shift": (2, 1), "mask": "region"}, (8, 8), 2),
        (
            {"shift": (2, 2), "mask": "region", "pad": "after_roll", "shift_when_single": "drop_axis"},
            (4, 9),
            4,
        ),
        (
            {"shift": (2, 2), "mask": "region", "pad": "before_roll", "shift_when_single": "drop_both"},
            (3, 10),
            2,
        ),
        ({"kv_window": (6, 6), "pad": "before_roll", "pad_to": (8, 4), "qk_norm": "l2"}, (5, 4), 3),
        ({}, (4, 8), 1),
    ],
)
def test_the_kernel_agrees_with_the_definition(a: dict[str, Any], size: tuple[int, int], inputs: int) -> None:
    torch = pytest.importorskip("torch")
    import triton

    from edgetx.ops import window_attention
    from edgetx.ops.window_attention import quick_kernel, triton_kernel

    attributes = WindowAttentionAttributes(num_heads=2, head_size=8, window=(4, 4), **a)
    torch.manual_seed(0)
    qkv = torch.randn(1, *size, 48)
    given = [
        torch.randn(2, attributes.query_tokens, attributes.key_tokens),
        0.5 + torch.rand(2),
        torch.randn(48),
    ][: inputs - 1]
    wanted = window_attention.apply(attributes, qkv, *given)
    config = SimpleNamespace(align=8, tile=gpu.Tile(16, 16), size=16)
    flags = sum(
        flag
        for flag, there in (
            (triton_kernel.HAS_BIAS, inputs > 1),
            (triton_kernel.HAS_SCALE, inputs > 2),
            (triton_kernel.HAS_PAD, inputs > 3),
            (triton_kernel.HAS_MASK, attributes.has_mask),
        )
        if there
    )
    out = torch.full((1, *size, 16), torch.nan)
    padded = attributes.padded(*size)
    grid = (padded[0] // 4) * (padded[1] // 4) * triton.cdiv(16, 16) * 2
    pointers = [qkv, *given, *[qkv] * (4 - inputs)]
    constants = quick_window.constants_of(attributes, 48, config, flags)  # type: ignore[arg-type]
    quick_kernel.edgetx_window_attention[(grid,)](*pointers, *size, out, **constants)
    torch.testing.assert_close(out, wanted, atol=4e-6, rtol=1e-5)


@pytest.mark.skipif(not gpu.interpreted(), reason="needs TRITON_INTERPRET=1")
@pytest.mark.parametrize(
    ("activation", "groups", "slots", "sizes"),
    [
        ("softmax", 3, 20, (8, 8)),
        ("relu2", 2, 37, (8, 16)),
        ("softmax", 1, 1, (16, 8)),
        ("softmax", 0, 4, (8, 8)),
    ],
)
def test_groups_agree_with_the_definition(
    activation: Any, groups: int, slots: int, sizes: tuple[int, int]
) -> None:
    """Slots of a group, empty slots, tokens in two groups and in none; then the Gather by `inverse`."""
    torch = pytest.importorskip("torch")
    import triton

    from edgetx.ops import group_attention
    from edgetx.ops.group_attention import quick_kernel

    attributes = GroupAttentionAttributes(num_heads=2, activation=activation).with_scale(2 * sizes[0])
    torch.manual_seed(0)
    tokens = 50
    q, k = torch.randn(2, tokens, 2 * sizes[0])
    v = torch.randn(tokens, 2 * sizes[1])
    members = torch.randint(-1, tokens - 5, (groups, slots), dtype=torch.int32)  # five are in no group
    inverse = torch.full((tokens,), -1, dtype=torch.int32)
    for slot, token in enumerate(members.flatten().tolist()):
        if token >= 0:
            inverse[token] = slot
    wanted = group_attention.apply(attributes, q, k, v, members, inverse)
    config = SimpleNamespace(align=8, tile=gpu.Tile(16, 16), size=16)
    out = torch.full((groups * slots + 1, 2 * sizes[1]), torch.nan)
    grid = (groups + 1) * triton.cdiv(slots, 16) * 2
    constants = quick_group.constants_of(attributes, sizes, config)  # type: ignore[arg-type]
    quick_kernel.edgetx_group_attention[(grid,)](q, k, v, members, groups, slots, out, **constants)
    assert not out.isnan().any() and not out[-1].any()
    torch.testing.assert_close(out[inverse.long()], wanted, atol=4e-6, rtol=1e-5)


def test_nodes_become_those_of_plugins() -> None:
    """In the graph, a Gather after the plugin gives what the operator gives; all else stays."""
    ir = pytest.importorskip("onnx_ir")
    floats, numbers = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT32)
    q, k, v = (ir.Value(name=name, type=floats, shape=ir.Shape(["t", 16])) for name in "qkv")
    groups = ir.Value(name="groups", type=numbers, shape=ir.Shape(["g", "s"]))
    inverse = ir.Value(name="inverse", type=numbers, shape=ir.Shape(["t"]))
    a = GroupAttentionAttributes(num_heads=2, scale=0.5)
    node = ir.node(
        "GroupAttention", [q, k, v, groups, inverse], a.to_onnx(), domain="edgetx", name="attention"
    )
    after = ir.node("Relu", [node.outputs[0]], name="after")
    inputs = [q, k, v, groups, inverse]
    graph = ir.Graph(inputs, after.outputs, nodes=[node, after], opset_imports={"": 20, "edgetx": 1})
    quick.rename(ir.Model(graph, ir_version=10))
    slots, gather, last = graph
    assert (slots.domain, slots.op_type, slots.inputs) == ("edgetx", "GroupAttentionSlots", (q, k, v, groups))
    assert (
        slots.attributes["num_heads"].as_int() == 2
        and slots.attributes["activation"].as_string() == "softmax"
    )
    assert (gather.op_type, gather.inputs) == ("Gather", (slots.outputs[0], inverse))
    assert last.inputs == (gather.outputs[0],)


def test_the_ptx_takes_what_tensorrt_gives() -> None:
    """Pointers of the inputs, two integers, the output's pointer; assembled for an Orin, without spills."""
    found = child("compiled")
    for which, name, inputs in (("2", "window", 2), ("4", "window", 4), ("groups", "group", 4)):
        kernel = found[which]
        assert kernel["order"] == [*[".u64"] * inputs, ".u32", ".u32", ".u64"]
        assert (kernel["configs"], kernel["threads"], kernel["spilled"]) == (
            (2, 128, 0) if name == "window" else (1, 128, 0)
        )
        assert kernel["name"] == f"edgetx_{name}_attention"
        assert 0 < kernel["shared"] <= 48 * 1024
        assert kernel["cubin"] > 1000


def test_what_tensorrts_own_api_is_told(tmp_path: Path) -> None:
    """Declared to and called through the Python API of TensorRT's wheel; its library is not there."""
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("TensorRT's bindings are not installed; pip install --no-deps tensorrt-cu13-bindings")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the symbols that the bindings link to")
    version = importlib.metadata.version("tensorrt-cu13-bindings").split(".")[0]
    for name, symbols in LINKED.items():
        source, file = tmp_path / f"{name}.c", f"lib{name}.so.{version}"
        source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in symbols))
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-Wl,-soname,{file}", str(source), "-o", str(tmp_path / file)],
            check=True,
        )
    told = child("declared", LD_LIBRARY_PATH=str(tmp_path))
    assert told["names"] == [*(f"WindowAttention{count}" for count in (1, 2, 3, 4)), "GroupAttentionSlots"]
    told, groups = told["window"], told["groups"]
    assert (told["types"], told["tactics"]) == (["FP16"] * 3, [1, 2])
    assert told["kernel"] == "edgetx_window_attention" and ".target sm_80" in told["ptx"]
    assert told["extra"] == ["height", "width"]
    assert (told["block"], told["shared"]) == ("128", "16384")
    sizes = {"batch": 5, "height": 57, "width": 56}
    # 9 by 8 windows of 49 queries, one block of 64 each, three heads.
    assert eval(told["grid"], dict(sizes)) == 5 * 9 * 8 * 3
    assert [eval(each, dict(sizes)) for each in told["output"]] == [5, 57, 56, 96]
    assert (groups["types"], groups["tactics"]) == ([*["FP16"] * 3, "INT32", "FP16"], [1])
    assert groups["kernel"] == "edgetx_group_attention" and ".target sm_80" in groups["ptx"]
    assert groups["extra"] == ["groups", "slots"] and groups["block"] == "128"
    sizes = {"groups": 10, "slots": 69, "tokens": 600}
    # Ten groups and the zeros behind them, three blocks of 32 slots each, eight heads.
    assert eval(groups["grid"], dict(sizes)) == 11 * 3 * 8
    assert [eval(each, dict(sizes)) for each in groups["output"]] == [691, 128]


def test_what_cannot_be() -> None:
    assert "10.9 and later have" in str(
        quick.why_not(SimpleNamespace(__name__="tensorrt", __version__="10.3"))
    )
    with pytest.raises(EdgetxError, match=r"tensorrt_rtx 1\.7 has no plugins that are compiled"):
        quick.register(SimpleNamespace(__name__="tensorrt_rtx", __version__="1.7"), "8.6")
    with pytest.raises(InputError, match=r"no kernels are made for compute capability 6.1; accepted: 7.5"):
        quick.family_of("6.1")
    a = WindowAttentionAttributes(num_heads=1, head_size=256, window=(7, 7))
    with pytest.raises(EdgetxError, match=r"takes heads of \(256, 256\) channels in fp16"):
        quick_window.fitting(a, 768, "fp16", quick.family_of("8.7"))
    ptx = ".visible .entry k(\n\t.param .u64 k_param_0,\n\t.param .u64 k_param_1\n)\n{\nld [k_param_1];\n}\n"
    with pytest.raises(EdgetxError, match="reads k_param_1, which TensorRT does not give"):
        quick.only(ptx, {0})
    assert quick.only(ptx.replace("k_param_1]", "k_param_0]"), {0}).count(".param") == 1
