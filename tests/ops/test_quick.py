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
from edgetx.ops.window_attention.attributes import WindowAttentionAttributes

pytest.importorskip("triton")
from edgetx.ops import quick

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
    constants = quick.constants_of(attributes, 48, config, flags)  # type: ignore[arg-type]
    quick_kernel.edgetx_window_attention[(grid,)](*pointers, *size, out, **constants)
    torch.testing.assert_close(out, wanted, atol=4e-6, rtol=1e-5)


def test_the_ptx_takes_what_tensorrt_gives() -> None:
    """Pointers of the inputs, two integers, the output's pointer; assembled for an Orin, without spills."""
    found = child("compiled")
    for count in (2, 4):
        kernel = found[str(count)]
        assert kernel["order"] == [*[".u64"] * count, ".u32", ".u32", ".u64"]
        assert (kernel["configs"], kernel["threads"], kernel["spilled"]) == (2, 128, 0)
        assert kernel["name"] == "edgetx_window_attention"
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
    assert told["names"] == [f"WindowAttention{count}" for count in (1, 2, 3, 4)]
    assert (told["types"], told["tactics"]) == (["FP16"] * 3, [1, 2])
    assert told["kernel"] == "edgetx_window_attention" and ".target sm_80" in told["ptx"]
    assert told["extra"] == ["height", "width"]
    assert (told["block"], told["shared"]) == ("128", "16384")
    sizes = {"batch": 5, "height": 57, "width": 56}
    # 9 by 8 windows of 49 queries, one block of 64 each, three heads.
    assert eval(told["grid"], dict(sizes)) == 5 * 9 * 8 * 3
    assert [eval(each, dict(sizes)) for each in told["output"]] == [5, 57, 56, 96]


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
        quick.fitting(a, 768, "fp16", quick.family_of("8.7"))
    ptx = ".visible .entry k(\n\t.param .u64 k_param_0,\n\t.param .u64 k_param_1\n)\n{\nld [k_param_1];\n}\n"
    with pytest.raises(EdgetxError, match="reads k_param_1, which TensorRT does not give"):
        quick.only(ptx, {0})
    assert quick.only(ptx.replace("k_param_1]", "k_param_0]"), {0}).count(".param") == 1
